"""The whole pipeline, as `make train` runs it; one run at a time in a checkout.

ingest -> the stages of dvc.yaml -> the model card
"""

import argparse
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import ArtifactError, TaggerError, run_stage

RUN_LOCK = Path("data/.run.lock")
# What the pipeline makes; MLflow's store, production and the shipped model are no part of it.
MADE = (
    *("data/raw", "data/processed", "data/profile.yaml", "reports", ".dvc/cache", "build", "site"),
    *("models/candidate", "models/finetuned", "models/checkpoints", "models/fp32.onnx"),
)


@contextmanager
def run_lock(what: str) -> Iterator[int]:
    """Keep other runs out of this checkout; yield the descriptor that holds the lock.

    The kernel releases it when the process has ended, and all that inherited the descriptor.

    Args:
        what: the command, for the message to others.

    Raises:
        ArtifactError: another run holds it; the message says which.
    """
    RUN_LOCK.parent.mkdir(exist_ok=True)
    with RUN_LOCK.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another run"
            raise ArtifactError(
                f"{RUN_LOCK}: held by {holder}; wait until it ends, or stop that process"
            ) from None
        lock.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        lock.write(f"{what}, process {os.getpid()} on {socket.gethostname()}, since {since}\n")
        lock.flush()
        try:
            yield lock.fileno()
        finally:
            lock.truncate(0)


def run(profile: str) -> int:
    """Run the pipeline; return the exit status of the step that failed, else 0.

    Raises:
        ArtifactError: another run is in this checkout.
    """
    python = [sys.executable, "-m"]
    steps = [
        [*python, "training.data.ingest", "--profile", profile],
        [*python, "dvc", "repro"],
        [*python, "training.evaluation.model_card"],
    ]
    with run_lock(f"`make train` with the profile {profile}") as lock:
        for step in steps:
            # A step inherits the lock: it outlives this process if that is killed.
            status = subprocess.run(step, check=False, pass_fds=[lock]).returncode  # noqa: S603
            if status:
                return status
    return 0


def clean() -> None:
    """Remove what the pipeline made; ArtifactError beside another run."""
    with run_lock("`make clean`"):
        for path in map(Path, MADE):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=["full", "quick", "sample"], default="full")
    parser.add_argument("--clean", action="store_true", help="remove what the pipeline made")
    options = parser.parse_args()
    if options.clean:
        run_stage(clean)  # not beside a stage of a bare `dvc repro` either
        return
    try:
        sys.exit(run(options.profile))
    except TaggerError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
