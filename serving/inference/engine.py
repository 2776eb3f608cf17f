"""The engine: texts in, scores and predictions out, for one bundle.

    texts ──> encode ──> cache of recent scores ──> batcher ──> bundle.infer, policy ──> predictions
      └─────> detect_language ────────────────────────────────────────────────────────────┘

Texts are tokenised before they are queued, so that the cost of a batch is known. The bundle's
golden scores are replayed before the engine calls itself ready. It knows texts and scores, and
nothing of HTTP, logs or the names of metrics.
"""

import asyncio
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from cachetools import LRUCache

from serving.bundle import ATTRIBUTES, LABELS, SPECIAL_TOKENS, Bundle, Encoding
from serving.inference.batcher import Batcher, BatchReport, Capacity
from serving.inference.language import detect_language
from serving.inference.policy import Policy, PolicyDecision
from serving.inference.scheduler import Priority

# Up to this many ASCII characters, work on the event loop is cheaper than in a thread. Of any other
# character, normalisation may make several words.
INLINE_CHARS, INLINE_WEIGHT = 1500, 5
INTERACTIVE_TEXTS = 4  # requests with up to this many texts have priority over longer lists


@dataclass(frozen=True, slots=True)
class ScoredText:
    """The result of model and policy for a text. It depends on the token ids alone, so equal ids
    share it.
    """

    scores: dict[str, float]
    attributes: dict[str, float]
    label: str
    decision: PolicyDecision


@dataclass(frozen=True, slots=True)
class Prediction:
    """The engine's reply for one text: its label and scores, its attributes, what the policy makes
    of the scores, its language (ISO 639-1), and warnings of the policy and the tokenizer.
    """

    label: str
    scores: dict[str, float]
    attributes: dict[str, float]
    toxicity: str
    action: str
    language: str
    truncated: bool
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the prediction as /v1/predict shows it, without an id."""
        return {
            "label": self.label,
            "scores": self.scores,
            "attributes": self.attributes,
            "toxicity": self.toxicity,
            "action": self.action,
            "language": self.language,
            "truncated": self.truncated,
            "warnings": self.warnings,
        }


class Observer(Protocol):
    """Receives measurements, for metrics. All calls come from the event loop."""

    def tokenised(self, seconds: float) -> None:
        """Record how long the tokenising of one request took."""

    def cached(self, hits: int, misses: int) -> None:
        """Record how many texts of one request were in the cache."""

    def batch(self, report: BatchReport) -> None:
        """Record one batch."""


class Engine:
    """Scores texts with one bundle under one policy."""

    def __init__(  # noqa: PLR0913 # by name, from one place
        self,
        bundle: Bundle,
        policy: Policy,
        observer: Observer,
        capacity: Capacity,
        *,
        cache_size: int,
        trace: Callable[[], object | None] | None = None,
    ) -> None:
        self.bundle, self.policy, self._observer = bundle, policy, observer
        self.not_ready: str | None = "its golden scores have not been replayed yet"
        self._batcher: Batcher[Encoding, ScoredText] = Batcher(
            # Not a method: without a reference cycle, a closed engine is freed at once.
            partial(infer_batch, bundle, policy),
            size=lambda row: sum(map(len, row.windows)),
            capacity=capacity,
            observe=observer.batch,
            trace=trace,
        )
        # By token ids. Only the event loop uses it, so it needs no lock.
        self._cache: LRUCache[bytes, ScoredText] | None = (
            LRUCache(cache_size) if cache_size else None
        )
        self._last_request = 0.0  # the time of the last one that was not of low priority

    async def start(self) -> None:
        """Start the threads and replay the golden scores.

        Afterwards `not_ready` is None, or says why this machine cannot serve the bundle.
        """
        self._batcher.start()
        golden = self.bundle.manifest.golden
        encodings = self.bundle.encode([row.text for row in golden])
        replayed = [(await self._batcher.submit([row], Priority.HIGH))[0] for row in encodings]
        error = max(
            abs((want.scores | want.attributes)[name] - (got.scores | got.attributes)[name])
            for want, got in zip(golden, replayed, strict=True)
            for name in (*LABELS, *ATTRIBUTES)
        )
        self.not_ready = self.bundle.golden_problem(error)

    async def close(self) -> None:
        """Finish the accepted texts and stop the threads."""
        self.not_ready = "it is stopping"
        await self._batcher.close()

    @property
    def alive(self) -> bool:
        """Whether all inference threads run and none is stuck."""
        return self._batcher.alive

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last request that was not of low priority."""
        return perf_counter() - self._last_request

    @property
    def waiting_tokens(self) -> int:
        """Tokens that wait for inference."""
        return self._batcher.waiting_tokens

    @property
    def cached_texts(self) -> int:
        """Number of texts whose scores are in the cache."""
        return 0 if self._cache is None else len(self._cache)

    def check_capacity(self, priority: Priority = Priority.HIGH, pending: int = 0) -> None:
        """Raise QueueFullError if a text that arrived now, after `pending` others, would wait too
        long. It takes a microsecond.
        """
        self._batcher.check_capacity(priority, pending)

    async def score(
        self,
        texts: Sequence[str],
        priority: Priority | None = None,
        deadline: float | None = None,
    ) -> list[ScoredText]:
        """Return the scores of each text, in order.

        Args:
            texts: any strings that UTF-8 can hold.
            priority: None: high for a few texts, normal for more.
            deadline: in the event loop's time; see `Batcher.submit`.

        Raises:
            QueueFullError: the expected wait is too long.
            DeadlineError: the scores would come after the deadline.
            BatcherDeadError: an inference thread died.
        """
        return await self._score(await self._encode(texts), priority, deadline)

    async def predict(
        self,
        texts: Sequence[str],
        priority: Priority | None = None,
        deadline: float | None = None,
    ) -> list[Prediction]:
        """Return label, toxicity, action and warnings of each text, in order; see `score`."""
        encodings = await self._encode(texts)
        scored = await self._score(encodings, priority, deadline)
        # Not in the cache of scores: texts with equal token ids can differ in letters.
        languages = await _languages(texts)
        return [
            prediction(self.policy, encoding, result, language)
            for encoding, result, language in zip(encodings, scored, languages, strict=True)
        ]

    async def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        started = perf_counter()
        if _is_short(texts):
            # One by one: for several texts the tokenizer wakes threads of its own, and on busy
            # processors the event loop would wait for them.
            rows = {text: self.bundle.encode([text])[0] for text in dict.fromkeys(texts)}
            encodings = [rows[text] for text in texts]
        else:
            encodings = await asyncio.to_thread(self.bundle.encode, texts)
        self._observer.tokenised(perf_counter() - started)
        return encodings

    async def _score(
        self, encodings: Sequence[Encoding], priority: Priority | None, deadline: float | None
    ) -> list[ScoredText]:
        if priority is None:
            priority = Priority.HIGH if len(encodings) <= INTERACTIVE_TEXTS else Priority.NORMAL
        if priority is not Priority.LOW:
            self._last_request = perf_counter()
        if self._cache is None:
            return await self._batcher.submit(encodings, priority, deadline)
        keys = [array("i", row.ids).tobytes() for row in encodings]
        results = {key: row for key in keys if (row := self._cache.get(key)) is not None}
        # A text that is in the list twice is inferred once.
        missing = {key: row for key, row in zip(keys, encodings, strict=True) if key not in results}
        self._observer.cached(len(keys) - len(missing), len(missing))
        if missing:
            scored = await self._batcher.submit(list(missing.values()), priority, deadline)
            fresh = dict(zip(missing, scored, strict=True))
            if priority is not Priority.LOW:  # masked texts will not come again, tweets may
                self._cache.update(fresh)
            results |= fresh
        return [results[key] for key in keys]


def infer_batch(
    bundle: Bundle, policy: Policy, batch: Sequence[Encoding], is_idle: bool = False
) -> list[ScoredText]:
    """Score a batch; this runs in an inference thread. `is_idle`: it may use other threads too."""
    probabilities = bundle.infer(batch, intra_op_parallel=is_idle)
    labels = bundle.decide(probabilities.labels).tolist()
    rounded = (rows.astype(float).round(6).tolist() for rows in probabilities)
    scored = []
    for label, row, attributes in zip(labels, *rounded, strict=True):
        scores = dict(zip(LABELS, row, strict=True))
        by_name = dict(zip(ATTRIBUTES, attributes, strict=True))
        scored.append(ScoredText(scores, by_name, LABELS[label], policy.apply(scores)))
    return scored


async def _languages(texts: Sequence[str]) -> list[str]:
    def detect() -> list[str]:
        found = {text: detect_language(text) for text in dict.fromkeys(texts)}
        return [found[text] for text in texts]

    return detect() if _is_short(texts) else await asyncio.to_thread(detect)


def _is_short(texts: Sequence[str]) -> bool:
    cost = sum(len(text) * (1 if text.isascii() else INLINE_WEIGHT) for text in texts)
    return cost <= INLINE_CHARS


def prediction(policy: Policy, encoding: Encoding, scored: ScoredText, language: str) -> Prediction:
    """Return the reply for a text from its scores and its language."""
    decision = policy.for_language(scored.decision, language)
    warnings = decision.warnings
    if encoding.truncated:
        warnings = (*warnings, "truncated")
    if len(encoding.windows[0]) <= SPECIAL_TOKENS:
        warnings = (*warnings, "no_words")
    return Prediction(
        scored.label,
        scored.scores,
        scored.attributes,
        decision.toxicity,
        decision.action,
        language,
        encoding.truncated,
        warnings,
    )
