"""Brings what is in production to a Hugging Face Space: code, lock, Dockerfile, bundle, card.

    DRY_RUN=1 python -m deploy.push   print exactly what would be uploaded
    HF_SPACE=owner/name HF_TOKEN=… python -m deploy.push

The Space holds nothing else: what an earlier push left is deleted there. No tweet that the model
learned from is ever among the files, and no bundle that is not in production.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from serving.bundle import MANIFEST, SEALED, Bundle, BundleError, Manifest
from training.errors import ArtifactError, TaggerError
from training.release.releases import PRODUCTION, read_state

CARD = "MODEL_CARD.md"
BUNDLE_FILES = (*SEALED, MANIFEST, "metrics.json", CARD)
# What Dockerfile.serve copies, by its place in the Space.
CODE = ("requirements/serve.txt", "deploy/unused.txt", "configs/policy.yaml")
CODE += ("configs/perspective.yaml",)
# Visitors of a public page did not ask to be kept.
PRIVATE = "ENV LOG_TEXT=none\n"


class Hub(Protocol):
    """The part of `huggingface_hub.HfApi` that is used."""

    def create_repo(
        self, repo_id: str, *, repo_type: str, space_sdk: str, exist_ok: bool
    ) -> object:
        """Make the Space if it is not there."""

    def upload_folder(
        self, *, repo_id: str, repo_type: str, folder_path: str, delete_patterns: str,
        commit_message: str,
    ) -> object:  # fmt: skip
        """Make the Space's content that of a folder, in one commit."""


def production() -> Manifest:
    """Return what is in production; ArtifactError says why it cannot be shown to the public."""
    state = read_state()
    if state.production is None:
        raise ArtifactError(f"{PRODUCTION}: nothing is in production; `make promote` puts it there")
    if state.pending:
        raise ArtifactError(f"{PRODUCTION}: a change was cut off; run `make promote` again")
    try:
        bundle = Bundle.load(PRODUCTION)
    except BundleError as error:
        raise ArtifactError(str(error)) from None
    manifest = bundle.manifest
    if manifest.version != state.production:
        raise ArtifactError(f"{PRODUCTION}: is {manifest.version}, wanted {state.production}")
    if manifest.data != "sources":
        raise ArtifactError(f"{PRODUCTION}: trained on the {manifest.data}, never to be deployed")
    return manifest


def stage(folder: Path) -> list[Path]:
    """Lay out the Space's files in `folder`; return their places in it, sorted."""
    for name in CODE:
        _copy(Path(name), folder / name)
    for origin in sorted(Path("serving").rglob("*")):
        if origin.is_file() and "__pycache__" not in origin.parts:
            _copy(origin, folder / origin)
    for name in BUNDLE_FILES:
        _copy(PRODUCTION / name, folder / PRODUCTION / name)
    image = Path("Dockerfile.serve").read_text(encoding="utf-8")
    (folder / "Dockerfile").write_text(image + PRIVATE, encoding="utf-8")
    card = (PRODUCTION / CARD).read_text(encoding="utf-8")
    front = Path("deploy/space/README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(front + card, encoding="utf-8")
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _copy(origin: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(origin, target)
    except FileNotFoundError:
        raise ArtifactError(f"{origin}: missing; the Space needs it") from None


def push(environment: Mapping[str, str], hub: Hub | None) -> None:
    """Upload, or print what would be.

    Args:
        environment: HF_SPACE names the Space; with DRY_RUN it may be missing.
        hub: where to; None prints only.
    """
    manifest = production()
    space = environment.get("HF_SPACE", "")
    if hub is not None and space.count("/") != 1:
        raise ArtifactError(f"HF_SPACE: got {space!r}, wanted owner/name")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = stage(folder)
        for path in files:
            print(f"{(folder / path).stat().st_size:>10}  {path}")
        total = sum((folder / path).stat().st_size for path in files) / 1e6
        what = f"{len(files)} files, {total:.1f} MB, bundle {manifest.version}"
        if hub is None:
            print(f"would go to {space or 'the Space that HF_SPACE names'}: {what}")
            return
        hub.create_repo(space, repo_type="space", space_sdk="docker", exist_ok=True)
        hub.upload_folder(
            repo_id=space,
            repo_type="space",
            folder_path=scratch,
            delete_patterns="*",
            commit_message=f"Bundle {manifest.version}",
        )
    print(f"{space} has {what}")


def main() -> None:
    """Read the environment."""
    try:
        if os.environ.get("DRY_RUN"):
            push(os.environ, None)
            return
        if not (token := os.environ.get("HF_TOKEN")):
            raise ArtifactError("HF_TOKEN: not set; a token that may write to the Space is wanted")
        from huggingface_hub import HfApi

        push(os.environ, HfApi(token=token))
    except TaggerError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
