"""The manifest: what bundle.json says, and whether it can be believed.

BundleError  a folder is not a bundle that this version can serve; the text says why
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SCHEMA_VERSION = 1
LABELS = ("hate", "offensive", "neither")
MANIFEST = "bundle.json"
SEALED = ("model.onnx", "tokenizer.json")


class BundleError(Exception):
    """A folder is not a bundle that this version can serve; the text says why in one sentence."""


class Thresholds(BaseModel):
    """Where probabilities become a label; see `Bundle.decide`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hate: float = Field(gt=0, le=1)
    toxic: float = Field(gt=0, le=1)


class Golden(BaseModel):
    """A text and the scores that the bundle gave it where it was made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    scores: dict[str, float]


class Manifest(BaseModel):
    """What bundle.json says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    name: str
    version: str
    created: str
    git_sha: str
    data: Literal["sources", "sample"]
    data_sha: str
    base: str
    labels: tuple[str, ...]
    max_tokens: int
    temperature: float = Field(gt=0)
    thresholds: Thresholds
    files: dict[str, str]
    golden: list[Golden]
    golden_tolerance: float = Field(gt=0)
    quantisation: str
    opset: int


def content_version(manifest: Mapping[str, Any]) -> str:
    """Return the bundle's content address: 12 hex digits over all that decides its answers.

    When and from which commit it was made is left out, so equal content has one version.
    """
    content = {k: v for k, v in manifest.items() if k not in {"version", "created", "git_sha"}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def read_manifest(folder: Path) -> Manifest:
    """Return a bundle's checked manifest; BundleError says what is wrong with it."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"{folder}: {MANIFEST} is missing: no bundle, or an incomplete one"
        ) from None
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise BundleError(f"{path}: not JSON ({error}): altered") from None
    found = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(found, int) and found > SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema {found} is newer than {SCHEMA_VERSION}, the newest known"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path}: {key}: {first['msg']}") from None
    if manifest.version != content_version(content):
        raise BundleError(f"{path}: its version is not that of its content: altered")
    if manifest.labels != LABELS:
        raise BundleError(f"{path}: labels: got {manifest.labels}, wanted {LABELS}")
    return manifest
