"""Errors that a user can fix, and how a stage ends on one.

TaggerError
├── ConfigError    a key under configs/ is unknown, mistyped or out of range
├── DataError      a file, row or column does not fit sources.yaml or the stage before
├── ArtifactError  a checkpoint, bundle or report cannot be read or written
└── RefusedError   a gate refused the candidate
"""

import fcntl
import sys
from collections.abc import Callable
from pathlib import Path


class TaggerError(Exception):
    """The text is one line: the file, row or key, the value found, and the value wanted."""


class ConfigError(TaggerError):
    """A key under configs/ is unknown, mistyped or out of range."""


class DataError(TaggerError):
    """Input data is missing, unreadable or breaks a rule."""


class ArtifactError(TaggerError):
    """A file that a stage makes or needs cannot be read or written."""


class RefusedError(TaggerError):
    """Gates refused a candidate; the text has their number and where the reasons are."""


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage alone in its checkout; a TaggerError or a failing disk is one line and exit 1."""
    lock_path = Path("data/.lock")
    try:
        lock_path.parent.mkdir(exist_ok=True)
        with lock_path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArtifactError(
                    f"{lock_path}: another stage is running in this checkout; wait until it ends"
                ) from None
            main()
    except TaggerError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        # A full disk, a read-only folder: the system's own message says it best.
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {where}{error.strerror or error}")
