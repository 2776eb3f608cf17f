"""The engine: texts in, scores and predictions out, for one bundle.

It tokenises before it queues, so that a batch's cost is known; it keeps the scores of texts that
come again; and it replays the bundle's golden scores before it calls itself ready. It knows text
and scores, and nothing of HTTP, logs or metrics' names.
"""

import asyncio
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Protocol

from serving.bundle import LABELS, Bundle, Encoding
from serving.inference.batcher import Batcher, BatchReport, Capacity, Priority
from serving.inference.policy import Policy, PolicyDecision

INLINE_CHARS = 1500  # fewer are tokenised on the event loop: it takes less than handing them over
INTERACTIVE_TEXTS = 4  # up to so many texts of one request go before longer lists
SPECIAL_TOKENS = 2  # [CLS] and [SEP]: a text of no others has no words


@dataclass(frozen=True, slots=True)
class Scored:
    """What a text's token ids alone decide."""

    scores: dict[str, float]
    label: str
    decision: PolicyDecision


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the engine says of one text."""

    label: str
    scores: dict[str, float]
    toxicity: str
    action: str
    truncated: bool
    warnings: tuple[str, ...]


class Observer(Protocol):
    """Who is told how long things take; seconds."""

    def tokenised(self, seconds: float) -> None:
        """Note one request's tokenising."""

    def cached(self, hits: int, misses: int) -> None:
        """Note how many texts of a request had their scores kept."""

    def batch(self, report: BatchReport) -> None:
        """Note one batch."""


class Engine:
    """Scores texts with one bundle under one policy."""

    def __init__(
        self,
        bundle: Bundle,
        policy: Policy,
        observer: Observer,
        capacity: Capacity,
        *,
        cache_size: int,
    ) -> None:
        self.bundle, self.policy, self._observer = bundle, policy, observer
        self.not_ready: str | None = "its golden scores have not been replayed yet"
        self._batcher: Batcher[Encoding, Scored] = Batcher(
            partial(_infer, bundle, policy),  # not a method: without a cycle, a closed engine goes
            size=lambda row: len(row.ids),
            capacity=capacity,
            observe=observer.batch,
        )
        self._cache = _Cache(cache_size) if cache_size else None
        self._asked = 0.0  # when somebody last asked for more than a low priority

    async def start(self) -> None:
        """Start the threads and replay the golden scores; `not_ready` says the outcome."""
        self._batcher.start()
        golden = self.bundle.manifest.golden
        encoded = self.bundle.encode([row.text for row in golden])
        found = [(await self._batcher.submit([row], Priority.HIGH))[0] for row in encoded]
        error = max(
            abs(row.scores[label] - have.scores[label])
            for row, have in zip(golden, found, strict=True)
            for label in LABELS
        )
        tolerance = self.bundle.manifest.golden_tolerance
        self.not_ready = None
        if error > tolerance:
            self.not_ready = (
                f"this machine does not reproduce the bundle's golden scores: a probability "
                f"differs by {error:.4f}, more than {tolerance}"
            )

    async def close(self) -> None:
        """Finish what was accepted and stop the threads."""
        self.not_ready = "it is stopping"
        await self._batcher.close()

    @property
    def alive(self) -> bool:
        """Whether the inference threads are there and move."""
        return self._batcher.alive

    @property
    def idle_seconds(self) -> float:
        """How long nobody has asked for more than a low priority."""
        return perf_counter() - self._asked

    @property
    def waiting_tokens(self) -> int:
        """How much waits to be inferred."""
        return self._batcher.waiting_tokens

    @property
    def cached_texts(self) -> int:
        """How many texts' scores are kept."""
        return len(self._cache.rows) if self._cache else 0

    def check_capacity(self, priority: Priority = Priority.HIGH, pending: int = 0) -> None:
        """Raise QueueFullError if a text that came now, after others that are on their way, would
        wait too long; costs a microsecond.
        """
        self._batcher.check_capacity(priority, pending)

    async def score(self, texts: Sequence[str], priority: Priority | None = None) -> list[Scored]:
        """Return the scores of each text, in order.

        Args:
            texts: any strings that UTF-8 can hold.
            priority: unset, few texts go before many.

        Raises:
            QueueFullError: the wait would be too long.
            BatcherDeadError: the inference thread died.
        """
        return await self._score(await self._encode(texts), priority)

    async def predict(
        self, texts: Sequence[str], priority: Priority | None = None
    ) -> list[Prediction]:
        """Return label, toxicity, action and warnings of each text, in order; see `score`."""
        encoded = await self._encode(texts)
        scored = await self._score(encoded, priority)
        return [_prediction(row, have) for row, have in zip(encoded, scored, strict=True)]

    async def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        started = perf_counter()
        if sum(map(len, texts)) <= INLINE_CHARS:
            # One by one: for several, the tokenizer wakes threads of its own, and on busy cores
            # the event loop would wait for them.
            encoded = [row for text in texts for row in self.bundle.encode([text])]
        else:
            encoded = await asyncio.to_thread(self.bundle.encode, texts)
        self._observer.tokenised(perf_counter() - started)
        return encoded

    async def _score(self, encoded: Sequence[Encoding], priority: Priority | None) -> list[Scored]:
        if priority is None:
            priority = Priority.HIGH if len(encoded) <= INTERACTIVE_TEXTS else Priority.NORMAL
        if priority is not Priority.LOW:
            self._asked = perf_counter()
        if self._cache is None:
            return await self._batcher.submit(encoded, priority)
        keys = [array("i", row.ids).tobytes() for row in encoded]
        found = {key: row for key in keys if (row := self._cache.get(key)) is not None}
        # A text that stands twice in the list is asked for once.
        missing = {key: row for key, row in zip(keys, encoded, strict=True) if key not in found}
        self._observer.cached(len(keys) - len(missing), len(missing))
        if missing:
            scored = await self._batcher.submit(list(missing.values()), priority)
            fresh = dict(zip(missing, scored, strict=True))
            if priority is not Priority.LOW:  # masked texts will not come again, tweets may
                self._cache.put(fresh)
            found |= fresh
        return [found[key] for key in keys]


def _infer(
    bundle: Bundle, policy: Policy, batch: Sequence[Encoding], is_idle: bool
) -> list[Scored]:
    """Run in an inference thread."""
    probabilities = bundle.infer(batch, intra_op_parallel=is_idle)
    labels = bundle.decide(probabilities)
    rounded = probabilities.astype(float).round(6).tolist()
    scored = []
    for row, label in zip(rounded, labels.tolist(), strict=True):
        scores = dict(zip(LABELS, row, strict=True))
        scored.append(Scored(scores, LABELS[label], policy.apply(scores)))
    return scored


def _prediction(encoding: Encoding, scored: Scored) -> Prediction:
    decision = scored.decision
    warnings = decision.warnings
    if encoding.truncated:
        warnings = (*warnings, "truncated")
    if len(encoding.ids) <= SPECIAL_TOKENS:
        warnings = (*warnings, "no_words")
    return Prediction(
        scored.label,
        scored.scores,
        decision.toxicity,
        decision.action,
        encoding.truncated,
        warnings,
    )


class _Cache:
    """The scores of the texts that came last, by their token ids."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.rows: OrderedDict[bytes, Scored] = OrderedDict()

    def get(self, key: bytes) -> Scored | None:
        row = self.rows.get(key)
        if row is not None:
            self.rows.move_to_end(key)
        return row

    def put(self, fresh: dict[bytes, Scored]) -> None:
        self.rows |= fresh
        while len(self.rows) > self._size:
            self.rows.popitem(last=False)
