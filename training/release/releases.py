"""Which bundles are in production, as folders and links.

    models/releases/<version>/   bundle, metrics.json, MODEL_CARD.md, drift_reference.json,
                                 reference.parquet; immutable
    models/releases.json         the state: versions of production and previous, and `pending`
    models/production, previous  links to releases, made from the state

The state changes in one rename, and `sync_links` makes each link agree with it in one rename, so
`models/production` always exists and is always complete. A change is pending until its caller has
also moved everything else that depends on the state. If it is killed in between, the next call
finishes the change.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from training.errors import ArtifactError, run_stage
from training.files import read_json, write_json
from training.paths import MODELS

RELEASES = MODELS / "releases"
STATE = MODELS / "releases.json"
PRODUCTION, PREVIOUS = MODELS / "production", MODELS / "previous"


class State(NamedTuple):
    """The versions in production and before it; None where there is none."""

    production: str | None = None
    previous: str | None = None
    pending: bool = False

    def promote(self, version: str) -> "State":
        """Return the state with `version` in production."""
        return State(version, self.production, pending=True)

    def roll_back(self) -> "State":
        """Return the state with the two exchanged; ArtifactError if there is no previous one."""
        if self.previous is None:
            raise ArtifactError(f"{STATE}: no previous release to roll back to")
        return State(self.previous, self.production, pending=True)


def read_state() -> State:
    """Return the state; nothing is in production before the first promotion."""
    return State(**read_json(STATE)) if STATE.is_file() else State()


def write_state(state: State) -> None:
    """Replace the state."""
    write_json(STATE, state._asdict())


def sync_links(state: State) -> None:
    """Make the links agree with the state, and delete releases without a link."""
    for link, version in ((PRODUCTION, state.production), (PREVIOUS, state.previous)):
        if version is None:
            link.unlink(missing_ok=True)
        elif not link.is_symlink() or link.readlink() != Path(RELEASES.name, version):
            _link(link, Path(RELEASES.name, version))
    for folder in RELEASES.glob("*"):
        if folder.name not in (state.production, state.previous):
            shutil.rmtree(folder)


def add(version: str, files: dict[str, Path]) -> None:
    """Copy `files`, by name, to a release's folder, which appears in one rename."""
    folder = RELEASES / version
    if folder.is_dir():
        return
    RELEASES.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".release.", dir=MODELS))
    try:
        for name, origin in files.items():
            shutil.copyfile(origin, scratch / name)
            (scratch / name).chmod(0o644)
        scratch.chmod(0o755)
        scratch.replace(folder)
    except FileNotFoundError as error:
        raise ArtifactError(f"{error.filename}: missing; run `make train`") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _link(link: Path, target: Path) -> None:
    if link.is_dir() and not link.is_symlink():
        raise ArtifactError(
            f"{link}: got a folder, wanted a link made by `promote`; move the folder away"
        )
    scratch = link.with_name(f".{link.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    scratch.replace(link)


if __name__ == "__main__":
    run_stage(lambda: sync_links(read_state()))  # after a download of releases
