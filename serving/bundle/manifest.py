"""The manifest: the content of bundle.json, read and checked.

    bundle.json ──> schema version, fields, content address, labels ──> Manifest

BundleError  a folder is not a bundle that this version can serve
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SCHEMA_VERSION = 2
LABELS = ("hate", "offensive", "neither")
# Of the model's second output, in the order of its columns.
LEARNED_ATTRIBUTES = ("SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT")
# TOXICITY is p(hate) + p(offensive): it cannot contradict the label.
ATTRIBUTES = ("TOXICITY", *LEARNED_ATTRIBUTES)
MANIFEST = "bundle.json"
SEALED = ("model.onnx", "tokenizer.json")


class BundleError(Exception):
    """A folder is not a bundle that this version can serve; the message says why."""


class Thresholds(BaseModel):
    """The thresholds of `decide`, between 0 and 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hate: float = Field(gt=0, le=1)
    toxic: float = Field(gt=0, le=1)


class Calibration(BaseModel):
    """An attribute's probability is sigmoid(scale · logit + bias) (Platt 1999)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: float = Field(gt=0)
    bias: float


class Golden(BaseModel):
    """A text, and its probabilities by label and by attribute as computed on the machine that made
    the bundle.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    scores: dict[str, float]
    attributes: dict[str, float]


class Manifest(BaseModel):
    """The content of bundle.json.

    version: content address, 12 hex digits; see `content_version`.
    created, git_sha: when, and from which commit, the bundle was made.
    data: "sources" if trained on labelled corpora, "sample" if on the bundled sample.
    data_sha: digest of the prepared data that it was trained on.
    base: the pretrained model.
    max_tokens: longest input of the model; longer texts are read in windows.
    temperature: by which the labels' logits are divided before the softmax.
    attributes: by LEARNED_ATTRIBUTES, in their order, how a logit becomes a probability.
    files: SHA-256 of each sealed file, in hex.
    golden: texts whose scores a machine must reproduce within golden_tolerance (largest |Δp|).
    """

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
    attributes: dict[str, Calibration]
    files: dict[str, str]
    golden: list[Golden]
    golden_tolerance: float = Field(gt=0)
    quantisation: str
    opset: int


def content_version(manifest: Mapping[str, Any]) -> str:
    """Return the bundle's content address: 12 hex digits of a SHA-256 over the manifest.

    The date and the commit are left out, so bundles with equal content have the same version.
    """
    content = {k: v for k, v in manifest.items() if k not in {"version", "created", "git_sha"}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def read_manifest(folder: Path) -> Manifest:
    """Read and check a bundle's manifest.

    Raises:
        BundleError: it is missing, altered, of another schema, or has other labels or attributes.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"{folder}: {MANIFEST} is missing; wanted a model bundle, which `make train` makes"
        ) from None
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise BundleError(f"{path}: not JSON ({error}): altered") from None
    schema = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema {schema} is newer than {SCHEMA_VERSION}, the newest known"
        )
    if isinstance(schema, int) and schema < SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema {schema} has no attributes; wanted {SCHEMA_VERSION}: train it again"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path}: {key}: {first['msg']}") from None
    if manifest.version != content_version(content):
        raise BundleError(f"{path}: its version does not match its content: altered")
    if manifest.labels != LABELS:
        raise BundleError(f"{path}: labels: got {manifest.labels}, wanted {LABELS}")
    if (got := tuple(manifest.attributes)) != LEARNED_ATTRIBUTES:
        raise BundleError(f"{path}: attributes: got {got}, wanted {LEARNED_ATTRIBUTES}")
    return manifest


def read_sealed(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Return the content of the files that the manifest seals, by name.

    Raises:
        BundleError: one is missing or altered.
        OSError: one cannot be read now.
    """
    contents = {}
    for name in SEALED:
        try:
            contents[name] = (folder / name).read_bytes()
        except FileNotFoundError:
            raise BundleError(f"{folder}: {name} is missing: the bundle is incomplete") from None
        if hashlib.sha256(contents[name]).hexdigest() != manifest.files.get(name):
            raise BundleError(f"{folder}: {name} does not match its SHA-256 in {MANIFEST}: altered")
    return contents
