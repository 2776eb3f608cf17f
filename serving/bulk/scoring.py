"""The one function of every bulk run: a chunk of rows becomes a part file, as bytes.

    Chunk ──> encode ──> batches of like length ──> threads ──> predictions ──> Parquet

The default and the actors of Ray call the same `Scorer`, with the functions of the service's
engine, so their scores are equal to the last bit. A part holds all that the end of a run needs:
scored rows, rejected rows, and the digest of the rows it was made from.
"""

import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet as pq

from serving.bulk.inputs import BulkError, Chunk, Layout
from serving.bundle import ATTRIBUTES, LABELS, Bundle, Encoding
from serving.inference.engine import Prediction, ScoredText, infer_batch, prediction
from serving.inference.language import detect_language
from serving.inference.policy import Policy

BATCH_ROWS = 32  # texts of similar length that are inferred together
# Texts that are tokenised together: the tokenizer takes about 100 bytes for each of their tokens,
# also for those that the model does not read.
ENCODE_ROWS = 32
META = b"tweet_tagger"  # the key of a part's own figures in its Parquet metadata
INPUT_PREFIX = "input_"
OUTPUTS = pa.schema(
    [
        ("label", pa.string()),
        *((f"score_{label}", pa.float64()) for label in LABELS),
        *((f"attribute_{name}", pa.float64()) for name in ATTRIBUTES),
        ("toxicity", pa.string()),
        ("action", pa.string()),
        ("language", pa.string()),
        ("truncated", pa.bool_()),
        ("warnings", pa.list_(pa.string())),
        ("model_version", pa.string()),
        ("policy_version", pa.string()),
    ]
)


def output_schema(layout: Layout) -> pa.Schema:
    """Return the columns of the output: the id, the other columns of the input, then ours.

    An input column that is called like one of ours, in any case of letters, gets the prefix
    `input_`: some databases do not tell `Label` from `label`.

    Raises:
        BulkError: that name is taken, too.
    """
    ours = {name.lower() for name in OUTPUTS.names}
    fields = sorted(layout.schema, key=lambda each: each.name != layout.id)
    renamed = [
        each.with_name(INPUT_PREFIX + each.name) if each.name.lower() in ours else each
        for each in fields
    ]
    names = [each.name.lower() for each in renamed]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BulkError(f"column {twice!r}: got it twice in the output; rename one in the input")
    return pa.schema([*renamed, *OUTPUTS])


@dataclass(slots=True)
class _Submitted:
    chunk: Chunk
    encodings: list[Encoding]
    batches: list[tuple[list[int], "Future[list[ScoredText]]"]]


class Scorer:
    """A loaded bundle and its threads.

    `submit` starts a chunk, and `finish` waits for it: while the threads infer one chunk, the
    caller can read the next.
    """

    def __init__(self, folder: Path, policy: Policy, layout: Layout, threads: int) -> None:
        """Load the bundle and replay its golden scores.

        Raises:
            BundleError: the bundle cannot be loaded.
            BulkError: this machine does not reproduce the golden scores.
        """
        # One thread each: measured, two single-threaded inferences give 1.07 times the rows of one
        # in two threads.
        self._bundle, self._policy = Bundle.load(folder, threads=1), policy
        if problem := self._bundle.golden_problem():
            raise BulkError(f"{folder}: {problem}")
        self._layout, self._schema = layout, output_schema(layout)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="inference")

    def close(self) -> None:
        """Stop the threads; what they have not begun is dropped."""
        self._pool.shutdown(cancel_futures=True)

    def part(self, chunk: Chunk) -> bytes:
        """Return the part file of a chunk."""
        return self.finish(self.submit(chunk))

    def submit(self, chunk: Chunk) -> _Submitted:
        """Tokenise a chunk and queue its batches."""
        texts: list[str] = chunk.table.column(self._layout.text).to_pylist()
        encodings = [
            encoding
            for start in range(0, len(texts), ENCODE_ROWS)
            for encoding in self._bundle.encode(texts[start : start + ENCODE_ROWS])
        ]
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
        batches = [order[i : i + BATCH_ROWS] for i in range(0, len(order), BATCH_ROWS)]
        return _Submitted(
            chunk, encodings, [(rows, self._infer(encodings, rows)) for rows in batches]
        )

    def finish(self, submitted: _Submitted) -> bytes:
        """Return the part file of a chunk that was submitted."""
        scored: list[Any] = [None] * len(submitted.encodings)
        for rows, future in submitted.batches:
            for i, result in zip(rows, future.result(), strict=True):
                scored[i] = result
        texts = submitted.chunk.table.column(self._layout.text).to_pylist()
        predictions = [
            prediction(self._policy, encoding, result, detect_language(text))
            for text, encoding, result in zip(texts, submitted.encodings, scored, strict=True)
        ]
        return self._parquet(submitted.chunk, predictions)

    def _infer(
        self, encodings: Sequence[Encoding], rows: Sequence[int]
    ) -> "Future[list[ScoredText]]":
        batch = [encodings[i] for i in rows]
        return self._pool.submit(infer_batch, self._bundle, self._policy, batch)

    def _parquet(self, chunk: Chunk, predictions: Sequence[Prediction]) -> bytes:
        carried = len(self._schema) - len(OUTPUTS)
        order = sorted(self._layout.schema.names, key=lambda name: name != self._layout.id)
        columns = [chunk.table.column(name) for name in order] + [
            pa.array(values, kind)
            for values, kind in zip(
                self._columns(predictions), self._schema.types[carried:], strict=True
            )
        ]
        figures = {"digest": chunk.digest, "rejected": chunk.rejected}
        metadata = {META: json.dumps(figures, default=str).encode()}
        sink = pa.BufferOutputStream()
        table = pa.Table.from_arrays(columns, schema=self._schema)
        pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
        return bytes(sink.getvalue())

    def _columns(self, rows: Sequence[Prediction]) -> list[list[Any]]:
        """Return the values of OUTPUTS, column by column."""
        return [
            [row.label for row in rows],
            *([row.scores[label] for row in rows] for label in LABELS),
            *([row.attributes[name] for row in rows] for name in ATTRIBUTES),
            [row.toxicity for row in rows],
            [row.action for row in rows],
            [row.language for row in rows],
            [row.truncated for row in rows],
            [list(row.warnings) for row in rows],
            [self._bundle.manifest.version] * len(rows),
            [self._policy.version] * len(rows),
        ]
