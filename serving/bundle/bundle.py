"""A loaded bundle: texts in, calibrated probabilities out.

    texts -> encode -> infer -> Scores -> decide -> label indices [rows]

The service and the pipeline's gates score with this same code. It knows nothing of HTTP, queues or
policies, and no more of training than the manifest says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import tokenizers
from tokenizers import Tokenizer

from serving.bundle.decision import Floats, Ints, Scores, combine_windows, decide
from serving.bundle.manifest import (
    ATTRIBUTES,
    LABELS,
    BundleError,
    Manifest,
    read_manifest,
    read_sealed,
)

MAX_WINDOWS = 8  # of a text; what a longer one has beyond them is not read
# Normalisation makes up to 50 characters of one: words of an emoji, letters of a ligature. A text
# is cut where it becomes longer than this, and has fewer windows where it has more tokens than
# bytes, so the work for a text is in proportion to its size. Usual texts keep far below both.
MAX_NORMALIZED_CHARS, MAX_EXPANSION, PIECE_CHARS = 20_000, 50, 256
TOKENS_PER_BYTE = 1.25
MAX_ROWS = 32  # windows that one run of the model gets: attention's memory grows with them
SPECIAL_TOKENS = 2  # [CLS] and [SEP]: a text with no other tokens has no words
OUTPUTS = ["logits", "attribute_logits"]


@dataclass(frozen=True, slots=True)
class Encoding:
    """A text as the model reads it.

    windows: token ids, at most `max_tokens` in each window. A text that needs more has several,
        which overlap.
    truncated: whether the text goes on after its last window.
    """

    windows: tuple[list[int], ...]
    truncated: bool

    @property
    def ids(self) -> list[int]:
        """All windows' token ids, one after another."""
        if len(self.windows) == 1:
            return self.windows[0]
        return [token for window in self.windows for token in window]


class Bundle:
    """A loaded model. Its methods keep no state, so threads can share it."""

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        model: bytes,
        *,
        threads: int = 0,
        parallel_threads: int = 0,
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self._session = _session(model, threads)
        self._parallel_session = (
            self._session if parallel_threads in {0, threads} else _session(model, parallel_threads)
        )
        self._pad = tokenizer.token_to_id("[PAD]")
        # New tokens of a window: without [CLS], [SEP] and what it shares with the one before it.
        stride = (tokenizer.truncation or {}).get("stride", 0)
        self._step = manifest.max_tokens - SPECIAL_TOKENS - stride
        calibrations = manifest.attributes.values()
        self._scale = np.array([row.scale for row in calibrations], dtype=np.float32)
        self._bias = np.array([row.bias for row in calibrations], dtype=np.float32)

    @classmethod
    def load(cls, folder: Path, *, threads: int = 0, parallel_threads: int = 0) -> "Bundle":
        """Read and verify a bundle.

        Args:
            folder: the bundle's folder.
            threads: threads of one inference; 0 leaves the choice to ONNX Runtime, which counts
                the machine's cores and does not see a container's limit.
            parallel_threads: threads of an inference with `intra_op_parallel`; 0: as `threads`.

        Raises:
            BundleError: it is incomplete, altered, of another schema, or has other labels or
                attributes.
        """
        manifest = read_manifest(folder)
        try:
            contents = read_sealed(folder, manifest)
        except OSError as error:
            raise BundleError(f"{error.filename}: {error.strerror}") from None
        try:
            tokenizer = Tokenizer.from_buffer(contents["tokenizer.json"])
            return cls(
                manifest,
                tokenizer,
                contents["model.onnx"],
                threads=threads,
                parallel_threads=parallel_threads,
            )
        except Exception as error:  # both libraries raise their own, unrelated types
            raise BundleError(f"{folder}: its files cannot be loaded: {error}") from None

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Return the encoding of each text; equal texts are tokenised once and share theirs."""
        parts = {text: self._within_bounds(text) for text in texts}
        rows = self.tokenizer.encode_batch_fast(list(parts.values()))  # without offsets
        encodings = {}
        for (text, part), row in zip(parts.items(), rows, strict=True):
            windows, is_cut = self._windows(row, part)
            ids = tuple(window.ids for window in windows)
            encodings[text] = Encoding(ids, is_cut or len(part) < len(text))
        return [encodings[text] for text in texts]

    def windows(self, text: str) -> tuple[list[tokenizers.Encoding], bool]:
        """Return the windows that the model reads of a text, with offsets in characters, and
        whether the text goes on after them.
        """
        part = self._within_bounds(text)
        windows, is_cut = self._windows(self.tokenizer.encode(part), part)
        return windows, is_cut or len(part) < len(text)

    def _within_bounds(self, text: str) -> str:
        """Return as much of a text as has at most about MAX_NORMALIZED_CHARS when normalised."""
        normalizer = self.tokenizer.normalizer
        if normalizer is None or text.isascii() or len(text) * MAX_EXPANSION < MAX_NORMALIZED_CHARS:
            return text
        total = 0
        for end in range(PIECE_CHARS, len(text), PIECE_CHARS):
            total += len(normalizer.normalize_str(text[end - PIECE_CHARS : end]))
            if total > MAX_NORMALIZED_CHARS:
                return text[:end]
        return text

    def _windows(
        self, row: tokenizers.Encoding, text: str
    ) -> tuple[list[tokenizers.Encoding], bool]:
        """Return the windows that are read of a tokenised text, and whether there are more."""
        more = row.overflowing
        if not more:
            return [row], False
        bytes_ = len(text.encode("utf-8", "surrogatepass"))
        most = min(MAX_WINDOWS, 1 + ceil(TOKENS_PER_BYTE * bytes_ / self._step))
        return [row, *more[: most - 1]], len(more) >= most

    def infer(self, batch: Sequence[Encoding], *, intra_op_parallel: bool = False) -> Scores:
        """Return the scores of one batch.

        `intra_op_parallel` computes the same in `parallel_threads` threads.
        """
        session = self._parallel_session if intra_op_parallel else self._session
        windows = [window for row in batch for window in row.windows]
        outputs = [
            session.run(OUTPUTS, self._padded(windows[start : start + MAX_ROWS]))
            for start in range(0, len(windows), MAX_ROWS)
        ]
        logits, attribute_logits = (np.concatenate(part) for part in zip(*outputs, strict=True))
        scaled = logits / self.manifest.temperature
        exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        labels = exponentials / exponentials.sum(axis=1, keepdims=True)
        learned = 1 / (1 + np.exp(-(attribute_logits * self._scale + self._bias)))
        toxicity = labels[:, :2].sum(axis=1, keepdims=True)
        attributes = np.concatenate([toxicity, learned], axis=1)
        scores = Scores(labels.astype(np.float32), attributes.astype(np.float32))
        return combine_windows(scores, [len(row.windows) for row in batch])

    def _padded(self, windows: Sequence[list[int]]) -> dict[str, npt.NDArray[np.int64]]:
        """Return the model's inputs [windows, tokens]."""
        ids = np.full((len(windows), max(map(len, windows))), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, window in enumerate(windows):
            ids[i, : len(window)] = window
            mask[i, : len(window)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def score(self, texts: Sequence[str], *, batch_size: int = 32) -> Scores:
        """Return the scores of texts, in batches of similar length."""
        encodings = self.encode(texts)
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
        labels = np.empty((len(texts), len(LABELS)), dtype=np.float32)
        attributes = np.empty((len(texts), len(ATTRIBUTES)), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            labels[rows], attributes[rows] = self.infer([encodings[i] for i in rows])
        return Scores(labels, attributes)

    def decide(self, scores: Floats) -> Ints:
        """Return the label indices [rows] of probabilities by label [rows, labels]."""
        return decide(scores, self.manifest.thresholds)

    def golden_error(self) -> float:
        """Return the largest |Δp| between the golden scores and this machine's."""
        golden = self.manifest.golden
        want = [
            [row.scores[label] for label in LABELS] + [row.attributes[name] for name in ATTRIBUTES]
            for row in golden
        ]
        got = [np.concatenate(self.score([row.text]), axis=1)[0] for row in golden]
        return float(np.abs(np.array(got) - np.array(want)).max())

    def golden_problem(self, error: float | None = None) -> str | None:
        """Return why this machine must not answer; None if it reproduces the golden scores.

        Args:
            error: see `golden_error`, if it has been measured already.
        """
        error = self.golden_error() if error is None else error
        tolerance = self.manifest.golden_tolerance
        if error <= tolerance:
            return None
        return (
            "this machine does not reproduce the bundle's golden scores: a probability differs by "
            f"{error:.4f}, more than {tolerance}"
        )


def _session(model: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # By default its threads spin for a while after a run, on processors that others need.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        # On a CPU the fused operator takes ten times as long as the two that it replaces.
        disabled_optimizers=["SkipLayerNormFusion"],
    )
