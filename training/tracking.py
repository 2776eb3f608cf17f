"""MLflow: the tracking store, and one run from training to registration."""

import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow

LOCAL_STORE = "sqlite:///mlflow.db"
EXPERIMENT = "tweet-tagger"


def connect() -> None:
    """Use the local store, unless MLFLOW_TRACKING_URI names another."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # each migration of a new store
    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", LOCAL_STORE))


@contextmanager
def tracked_run(run_id: str | None = None) -> Iterator[str]:
    """Open a run, or continue `run_id`, and yield its id."""
    connect()
    mlflow.set_experiment(EXPERIMENT)
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
