"""MLflow: the tracking store, and one run from training to registration."""

import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow

from training.errors import ArtifactError, ConfigError

LOCAL_STORE = "sqlite:///mlflow.db"
EXPERIMENT = "tweet-tagger"


def connect() -> None:
    """Use the local store, unless MLFLOW_TRACKING_URI names another.

    Raises:
        ConfigError: MLflow has no store for such an address.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)  # each migration of a new store
    # `.env` files and CI set what they do not know to nothing.
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip() or LOCAL_STORE
    mlflow.set_tracking_uri(uri)
    try:
        mlflow.MlflowClient()
    except mlflow.exceptions.MlflowException:
        # Only the scheme: the address may have a password.
        scheme = uri.partition(":")[0][:40]
        raise ConfigError(
            f"MLFLOW_TRACKING_URI: got {scheme + ':…'!r}, wanted https://…, http://…, sqlite:///…, "
            "another database that MLflow knows, or nothing"
        ) from None


@contextmanager
def tracked_run(run_id: str | None = None) -> Iterator[str]:
    """Open a run, or continue `run_id`, and yield its id."""
    connect()
    try:
        mlflow.set_experiment(EXPERIMENT)
    except mlflow.exceptions.MlflowException as error:
        reason = str(error).partition("\n")[0][:200]
        raise ArtifactError(f"MLflow's store (MLFLOW_TRACKING_URI): {reason}") from None
    if run_id is not None and not _exists(run_id):
        run_id = None  # the stage was restored from DVC's cache, its MLflow store was not
    with mlflow.start_run(run_id=run_id) as run:
        yield run.info.run_id


def _exists(run_id: str) -> bool:
    try:
        mlflow.get_run(run_id)
    except mlflow.exceptions.MlflowException:
        return False
    return True


def git_sha() -> str:
    """Return the checkout's commit, with `-dirty` if tracked files differ, or `unknown`."""
    if not Path(".git").exists():
        return "unknown"
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],  # noqa: S607
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or "unknown"
