"""Bundles that differ from another one in their scores."""

import json
import shutil
from pathlib import Path

from serving.bundle import Bundle, content_version, scores_by_attribute, scores_by_label


def variant(origin: Path, folder: Path, temperature: float) -> Path:
    """A bundle with other scores: another temperature, and golden scores that fit it."""
    shutil.copytree(origin, folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["temperature"] = temperature
    seal(folder, manifest)
    bundle = Bundle.load(folder)
    for row in manifest["golden"]:
        (labels,), (attributes,) = bundle.score([row["text"]])
        row["scores"] = scores_by_label(labels)
        row["attributes"] = scores_by_attribute(attributes)
    seal(folder, manifest)
    return folder


def seal(folder: Path, manifest: dict[str, object]) -> None:
    manifest["version"] = content_version(manifest)
    (folder / "bundle.json").write_text(json.dumps(manifest))


def version(folder: Path) -> str:
    return str(json.loads((folder / "bundle.json").read_text())["version"])
