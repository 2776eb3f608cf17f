"""Uploads the service to a Hugging Face Space: code, lock file, Dockerfile, bundle, model card.

    DRY_RUN=1 python -m deploy.push                        list the files without an upload
    HF_SPACE=owner/name HF_TOKEN=… python -m deploy.push   upload them

The upload replaces the content of the Space. It never contains training data. The bundle is the
shipped one, or with BUNDLE=models/production the one in production.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from serving.bundle import MANIFEST, SEALED, Bundle, BundleError, Manifest
from serving.drift.columns import REFERENCE
from serving.settings import SHIPPED_BUNDLE
from training.errors import ArtifactError, TaggerError
from training.release.releases import PRODUCTION, read_state

CARD = "MODEL_CARD.md"
BUNDLE_FILES = (*SEALED, MANIFEST, "metrics.json", CARD)
# The files outside serving/ that Dockerfile.serve copies. They keep their paths in the Space.
CODE = (
    "requirements/serve.txt",
    "deploy/unused.txt",
    "configs/policy.yaml",
    "configs/perspective.yaml",
)
# Visitors of a public page did not agree to the storage of their texts.
PRIVATE = "ENV TAGGER_STORE_TEXT=none\n"


class Hub(Protocol):
    """The two methods of `huggingface_hub.HfApi` that `push` uses."""

    def create_repo(
        self, repo_id: str, *, repo_type: str, space_sdk: str, exist_ok: bool
    ) -> object:
        """Create the Space if it does not exist."""

    def upload_folder(
        self, *, repo_id: str, repo_type: str, folder_path: str, delete_patterns: str,
        commit_message: str,
    ) -> object:  # fmt: skip
        """Replace the content of the Space by that of a folder, in one commit."""


def check(bundle: Path) -> Manifest:
    """Return the manifest of the bundle; ArtifactError says why it must not be deployed."""
    if bundle not in {SHIPPED_BUNDLE, PRODUCTION}:
        wanted = f"{SHIPPED_BUNDLE} or {PRODUCTION}"
        raise ArtifactError(f"BUNDLE: got {str(bundle)!r}, wanted {wanted}")
    in_production = production() if bundle == PRODUCTION else None
    try:
        manifest = Bundle.load(bundle).manifest
    except BundleError as error:
        raise ArtifactError(str(error)) from None
    if in_production not in (None, manifest.version):
        raise ArtifactError(f"{bundle}: got {manifest.version}, wanted {in_production}")
    if manifest.data != "sources":
        raise ArtifactError(f"{bundle}: got a model trained on {manifest.data}, wanted sources")
    return manifest


def production() -> str:
    """Return the version that is in production; ArtifactError if none is, or not certainly."""
    state = read_state()
    if state.production is None:
        raise ArtifactError(f"{PRODUCTION}: nothing is in production; run `make promote`")
    if state.pending:
        raise ArtifactError(f"{PRODUCTION}: a promotion was interrupted; run `make promote` again")
    return state.production


def stage(bundle: Path, folder: Path) -> list[Path]:
    """Copy the files of the Space to `folder`; return their paths in it, sorted."""
    for name in CODE:
        _copy(Path(name), folder / name)
    for origin in sorted(Path("serving").rglob("*")):
        if origin.is_file() and "__pycache__" not in origin.parts:
            _copy(origin, folder / origin)
    # A bundle of before 0.5 has no drift reference.
    for name in (*BUNDLE_FILES, *([REFERENCE] if (bundle / REFERENCE).is_file() else [])):
        # Where Dockerfile.serve looks for it by default.
        _copy(bundle / name, folder / SHIPPED_BUNDLE / name)
    image = Path("Dockerfile.serve").read_text(encoding="utf-8")
    (folder / "Dockerfile").write_text(image + PRIVATE, encoding="utf-8")
    card = (bundle / CARD).read_text(encoding="utf-8")
    front = Path("deploy/space/README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(front + card, encoding="utf-8")
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _copy(origin: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(origin, target)
    except FileNotFoundError:
        raise ArtifactError(f"{origin}: missing, but the Space needs it") from None


def push(environment: Mapping[str, str], hub: Hub | None) -> None:
    """Upload the service to the Space, or list the files.

    Args:
        environment: HF_SPACE names the Space; a dry run works without it. BUNDLE names a bundle
            other than the shipped one.
        hub: the Hub's client; None makes a dry run.

    Raises:
        ArtifactError: the bundle must not be deployed, or HF_SPACE is not a Space.
    """
    bundle = Path(environment.get("BUNDLE") or SHIPPED_BUNDLE)
    manifest = check(bundle)
    space = environment.get("HF_SPACE", "").strip()
    if hub is not None and space.count("/") != 1:
        raise ArtifactError(f"HF_SPACE: got {space!r}, wanted owner/name")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = stage(bundle, folder)
        for path in files:
            print(f"{(folder / path).stat().st_size:>10}  {path}")
        total = sum((folder / path).stat().st_size for path in files) / 1e6
        content = f"{len(files)} files, {total:.1f} MB, bundle {manifest.version}"
        if hub is None:
            print(f"dry run, nothing uploaded to {space or 'HF_SPACE'}: {content}")
            return
        hub.create_repo(space, repo_type="space", space_sdk="docker", exist_ok=True)
        hub.upload_folder(
            repo_id=space,
            repo_type="space",
            folder_path=scratch,
            delete_patterns="*",
            commit_message=f"Bundle {manifest.version}",
        )
    print(f"uploaded to {space}: {content}")


def main() -> None:
    """Push with the Hub's client, or without one if DRY_RUN is set."""
    try:
        if os.environ.get("DRY_RUN"):
            push(os.environ, None)
            return
        if not (token := os.environ.get("HF_TOKEN", "").strip()):
            raise ArtifactError("HF_TOKEN: got none, wanted a token with write access to the Space")
        from huggingface_hub import HfApi

        push(os.environ, HfApi(token=token))
    except TaggerError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
