"""A loaded bundle: texts in, calibrated probabilities out.

    texts -> encode -> infer -> probabilities [rows, labels] -> decide -> label indices [rows]

The service and the pipeline's gates score with this same code. It knows nothing of HTTP, queues or
policies, and no more of training than the manifest says.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from serving.bundle.decision import Floats, Ints, decide
from serving.bundle.manifest import LABELS, MANIFEST, SEALED, BundleError, Manifest, read_manifest


@dataclass(frozen=True, slots=True)
class Encoding:
    """A text as the model reads it: its token ids, and whether they were cut at `max_tokens`."""

    ids: list[int]
    truncated: bool


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

    @classmethod
    def load(cls, folder: Path, *, threads: int = 0, parallel_threads: int = 0) -> "Bundle":
        """Read and verify a bundle.

        Args:
            folder: the bundle's folder.
            threads: threads of one inference; 0 leaves the choice to ONNX Runtime, which counts
                the machine's cores and does not see a container's limit.
            parallel_threads: threads of an inference with `intra_op_parallel`; 0: as `threads`.

        Raises:
            BundleError: it is incomplete, altered, of a newer schema, or has other labels.
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
                    f"{folder}: {name} does not match its SHA-256 in {MANIFEST}: altered"
                )
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
        """Return the encoding of each text: at most `max_tokens` token ids."""
        return [
            Encoding(row.ids, bool(row.overflowing))
            for row in self.tokenizer.encode_batch_fast(texts)  # without offsets
        ]

    def infer(self, batch: Sequence[Encoding], *, intra_op_parallel: bool = False) -> Floats:
        """Return calibrated probabilities [rows, labels] of one padded batch.

        `intra_op_parallel` computes the same in `parallel_threads` threads.
        """
        ids = np.full((len(batch), max(len(row.ids) for row in batch)), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(batch):
            ids[i, : len(row.ids)] = row.ids
            mask[i, : len(row.ids)] = 1
        session = self._parallel_session if intra_op_parallel else self._session
        (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})
        scaled = logits / self.manifest.temperature
        exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float32)

    def score(self, texts: Sequence[str], *, batch_size: int = 32) -> Floats:
        """Return calibrated probabilities [texts, labels], in batches of similar length."""
        encodings = self.encode(texts)
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
        scores = np.empty((len(texts), len(LABELS)), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            scores[rows] = self.infer([encodings[i] for i in rows])
        return scores

    def decide(self, scores: Floats) -> Ints:
        """Return the label indices [rows] of probabilities [rows, labels]."""
        return decide(scores, self.manifest.thresholds)

    def golden_error(self) -> float:
        """Return the largest |Δp| between the golden scores and this machine's."""
        golden = self.manifest.golden
        want = np.array([[row.scores[label] for label in LABELS] for row in golden])
        got = np.concatenate([self.score([row.text]) for row in golden])
        return float(np.abs(got - want).max())


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
