"""The model bundle: a folder that is read, verified and asked for scores.

    model.onnx       int8: input_ids, attention_mask [rows, tokens] int64 → logits [rows, labels]
    tokenizer.json   with the text normalisation and the truncation inside it
    bundle.json      the manifest, written last; it seals the other two by their SHA-256

This is the one place that turns a text into probabilities and probabilities into a label: the
service answers with it, and the pipeline's gates judge it. It knows nothing of HTTP, queues or
policies, and no more of training than the manifest says.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenizers import Tokenizer

SCHEMA_VERSION = 1
LABELS = ("hate", "offensive", "neither")
MANIFEST = "bundle.json"
SEALED = ("model.onnx", "tokenizer.json")

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


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


@dataclass(frozen=True, slots=True)
class Encoding:
    """A text as the model reads it."""

    ids: list[int]
    truncated: bool


class Bundle:
    """A loaded model. Its methods keep no state, so threads may share it."""

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        model: bytes,
        *,
        threads: int = 0,
        wide: int = 0,
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self._session = _session(model, threads)
        self._wide = self._session if wide in {0, threads} else _session(model, wide)
        self._pad = tokenizer.token_to_id("[PAD]")

    @classmethod
    def load(cls, folder: Path, *, threads: int = 0, wide: int = 0) -> "Bundle":
        """Read and verify a bundle.

        Args:
            folder: the bundle's folder.
            threads: for one inference; 0 leaves the choice to ONNX Runtime, which counts the
                machine's cores and does not see a container's limit.
            wide: for one that has the machine to itself, see `infer`; 0: as many.

        Raises:
            BundleError: it is incomplete, altered, of a newer schema or of other labels.
        """
        manifest = read_manifest(folder)
        contents = {}
        for name in SEALED:
            try:
                contents[name] = (folder / name).read_bytes()
            except FileNotFoundError:
                raise BundleError(
                    f"{folder}: {name} is missing: the bundle is incomplete"
                ) from None
            except OSError as error:
                raise BundleError(f"{folder / name}: {error.strerror}") from None
            if hashlib.sha256(contents[name]).hexdigest() != manifest.files.get(name):
                raise BundleError(
                    f"{folder}: {name} is not the file that {MANIFEST} sealed: altered"
                )
        try:
            tokenizer = Tokenizer.from_buffer(contents["tokenizer.json"])
            return cls(manifest, tokenizer, contents["model.onnx"], threads=threads, wide=wide)
        except Exception as error:  # both libraries raise their own, unrelated types
            raise BundleError(f"{folder}: its sealed files do not load: {error}") from None

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Return each text's token ids (at most `max_tokens`) and whether it was cut."""
        return [
            Encoding(row.ids, bool(row.overflowing))
            for row in self.tokenizer.encode_batch_fast(texts)  # without offsets
        ]

    def infer(self, batch: Sequence[Encoding], *, wide: bool = False) -> Floats:
        """Return calibrated probabilities [rows, labels] of one padded batch.

        `wide` computes the same with more threads, if the bundle was loaded so.
        """
        ids = np.full((len(batch), max(len(row.ids) for row in batch)), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for at, row in enumerate(batch):
            ids[at, : len(row.ids)] = row.ids
            mask[at, : len(row.ids)] = 1
        session = self._wide if wide else self._session
        (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})
        scaled = logits / self.manifest.temperature
        exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)

    def score(self, texts: Sequence[str], *, batch_size: int = 32) -> Floats:
        """Return calibrated probabilities [texts, labels], in batches of texts of like length."""
        encoded = self.encode(texts)
        order = sorted(range(len(texts)), key=lambda at: len(encoded[at].ids))
        scores = np.empty((len(texts), len(LABELS)), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            scores[rows] = self.infer([encoded[at] for at in rows])
        return scores

    def decide(self, scores: Floats) -> Ints:
        """Return the label index of each row of probabilities [rows, labels]."""
        return decide(scores, self.manifest.thresholds)

    def golden_error(self) -> float:
        """Return the largest |Δp| between the golden scores and what this machine computes."""
        golden = self.manifest.golden
        want = np.array([[row.scores[label] for label in LABELS] for row in golden])
        have = np.concatenate([self.score([row.text]) for row in golden])
        return float(np.abs(have - want).max())


def _session(model: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Else its threads go on looking for work for a while, on cores that others need.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        # On a CPU that operator takes ten times as long as the two that it replaces.
        disabled_optimizers=["SkipLayerNormFusion"],
    )


def decide(scores: Floats, thresholds: Thresholds) -> Ints:
    """Return label indices [rows] of probabilities [rows, labels].

    A text is hate where, of p(hate) and the likelier of the other two together, `hate` or more is
    p(hate); at 0.5 it is then the likeliest label. Else it is offensive where p(hate) +
    p(offensive) ≥ `toxic` (doubt between the two is no doubt that it is one of them), else neither.
    """
    hate, others = scores[:, 0], scores[:, 1:]
    toxic = np.where(hate + others[:, 0] >= thresholds.toxic, 1, 2)
    is_hate = hate >= thresholds.hate * (hate + others.max(axis=1))
    return np.asarray(np.where(is_hate, 0, toxic), dtype=np.int64)


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


def named(scores: Iterable[float]) -> dict[str, float]:
    """Return one row of probabilities by label name."""
    return {label: float(score) for label, score in zip(LABELS, scores, strict=True)}
