"""The explainer: how much each word of a text adds to the probability of a label or an attribute.

    text ──> words ──> masks ──> masked texts ──> scores (cached) ──> LIME's fit ──> weights

The masked texts of an explanation have a limited number of tokens together. Of a text for which
that is too little, only the window that decides its score is explained; and if its masks are too
few to weigh every word, half of them find the passages that matter, the others weigh their words.

It limits how many explanations run, sends masked texts to the engine in small low-priority chunks
so that predictions stay fast, and caches the scores. lime.py has the method. It knows no HTTP.

    ServiceError(OVERLOADED)           too many explanations are waiting, or one waited too long
    QueueFullError, DeadlineError, BatcherDeadError   from the engine
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cachetools import LRUCache

from serving.bundle import ATTRIBUTES, LABELS, Bundle, Floats
from serving.errors import ErrorCode, ServiceError
from serving.explain.lime import (
    Array,
    Masks,
    WordWeight,
    apply_mask,
    fit,
    make_masks,
    number_of_masks,
    top_words,
)
from serving.explain.words import Word, group_occurrences, split
from serving.inference.batcher import DeadlineError, QueueFullError
from serving.inference.engine import Engine, ScoredText
from serving.inference.scheduler import Priority

NAMES = (*LABELS, *ATTRIBUTES)  # what can be explained
MASK = "[UNK]"  # stands in for a masked word; docs/benchmarks.md compares it with others
CACHED_TEXTS = 512  # whose masked scores are kept, 36 kB each for 1,000 masks
# Tokens of all masked texts of an explanation: a few seconds on two cores.
MAX_MASK_TOKENS = 50_000
MIN_MASKS = 16
MASKS_PER_WORD, MASKS_PER_PASSAGE = 2, 3  # needed to weigh each; see `Explainer._weigh`
MAX_CHUNKS = 4  # chunks of masked texts that are with the engine at one time
CHUNK_TOKENS = 256  # size of a chunk while nothing else is requested
# Otherwise, and one chunk at a time: a tweet waits for no more than this, or for one long text.
BUSY_CHUNK_TOKENS = 128
IDLE_AFTER_S = 0.25  # without other requests for this long, the engine counts as idle
# An explanation that still has to wait for others this long after its start is refused.
MAX_YIELD_S = 10.0


@dataclass(frozen=True, slots=True)
class ExplainParams:
    """What to explain, and how thoroughly.

    label: one of NAMES; None: the label that the model assigns.
    num_features: number of distinct words in the result, those with the largest weights.
    num_samples: number of masks to score if there are too many to score all.
    """

    text: str
    label: str | None = None
    num_features: int = 10
    num_samples: int = 1000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Word weights, and how they were computed.

    label: one of NAMES.
    weights: the largest absolute weight first; see `top_words`.
    r2: share of the variance of the masked texts' scores that the weights explain; None if the text
        has no words.
    scores_used: number of masked texts that were scored.
    exact: whether these were all that there are.
    scores: the unmasked text's probabilities by NAMES.
    model: name and version.
    explained: begin and end of the part of the text that was explained, end exclusive.
    """

    label: str
    weights: tuple[WordWeight, ...]
    r2: float | None
    scores_used: int
    exact: bool
    seed: int
    scores: dict[str, float]
    model: tuple[str, str]
    explained: tuple[int, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the reply of /v1/explain."""
        return {
            "label": self.label,
            "words": [
                {
                    "word": weight.word.text,
                    "weight": weight.weight,
                    "begin": weight.word.begin,
                    "end": weight.word.end,
                }
                for weight in self.weights
            ],
            "r2": self.r2,
            "scores_used": self.scores_used,
            "exact": self.exact,
            "explained": {"begin": self.explained[0], "end": self.explained[1]},
            "seed": self.seed,
            "model": {"name": self.model[0], "version": self.model[1]},
        }


@dataclass(frozen=True, slots=True)
class VisibleText:
    """The part of a text that the model reads.

    occurrences: of each distinct word.
    tokens: of all its windows.
    windows: begin and end of each, at the edges of words.
    begin: of this part in the whole text.
    """

    text: str
    occurrences: list[list[Word]]
    tokens: int
    windows: list[tuple[int, int]]
    begin: int = 0


@dataclass(frozen=True, slots=True)
class _Job:
    """An explanation that was asked for. Both times are the event loop's.

    give_up: until when it may wait for others.
    deadline: of its caller; see `Batcher.submit`.
    """

    engine: Engine
    params: ExplainParams
    give_up: float
    deadline: float | None


class Explainer:
    """Explains texts, a few at a time, and caches the scores of the latest ones."""

    def __init__(
        self,
        *,
        max_running: int = 2,
        max_waiting: int = 16,
    ) -> None:
        """Make an explainer.

        Args:
            max_running: explanations that run at one time.
            max_waiting: explanations that may wait for their turn; more are refused.
        """
        self._running = asyncio.Semaphore(max_running)
        self._chunks, self._single_chunk = asyncio.Semaphore(MAX_CHUNKS), asyncio.Lock()
        self._free_places = max_running + max_waiting
        # Only the event loop uses it, so it needs no lock.
        self._cache: LRUCache[bytes, Floats] = LRUCache(CACHED_TEXTS)

    async def explain(
        self, engine: Engine, params: ExplainParams, deadline: float | None = None
    ) -> Explanation:
        """Explain one text.

        Args:
            engine: that scores the masked texts.
            params: what to explain.
            deadline: in the event loop's time; see `Batcher.submit`.

        Raises:
            ServiceError: too many explanations are waiting, or this one waited too long.
            QueueFullError, DeadlineError, BatcherDeadError: see `Engine.score`.
        """
        give_up = asyncio.get_running_loop().time() + MAX_YIELD_S
        job = _Job(engine, params, min(filter(None, (give_up, deadline))), deadline)
        async with self._turn(job.give_up):
            visible = await self._explained_part(job)
            words = len(visible.occurrences)
            number = number_of_masks(words, params.num_samples, max_masks(visible))
            weights, r2, scores, used = await self._weigh(job, visible, number)
        manifest = engine.bundle.manifest
        top = top_words(visible.occurrences, weights, params.num_features)
        return Explanation(
            label=self._label(job, scores),
            weights=tuple(row.moved(visible.begin) for row in top),
            r2=r2,
            scores_used=used,
            exact=used == 2**words,
            seed=params.seed,
            scores=dict(zip(NAMES, scores[0].tolist(), strict=True)),
            model=(manifest.name, manifest.version),
            explained=(visible.begin, visible.begin + len(visible.text)),
        )

    async def _explained_part(self, job: _Job) -> VisibleText:
        """Return what the model reads of a text, or the window that decides its score if there are
        too few masks for all of it.
        """
        bundle, params = job.engine.bundle, job.params
        visible = await asyncio.to_thread(visible_text, bundle, params.text)
        number = number_of_masks(len(visible.occurrences), params.num_samples)
        if len(visible.windows) == 1 or number <= max_masks(visible):
            return visible
        texts = [visible.text[begin:end] for begin, end in visible.windows]
        scored = await _score_when_idle(job, texts)
        # A text's labels are those of its most toxic window, an attribute is the largest of all.
        name = params.label if params.label in ATTRIBUTES else "TOXICITY"
        of_windows = [row.attributes[name] for row in scored]
        begin, end = visible.windows[of_windows.index(max(of_windows))]
        part = await asyncio.to_thread(visible_text, bundle, visible.text[begin:end])
        return replace(part, begin=begin)

    async def _weigh(
        self, job: _Job, visible: VisibleText, number: int
    ) -> tuple[Array, float | None, Floats, int]:
        """Return the weights [distinct words], R², the masked texts' scores, and how many masks.

        If `number` masks are too few for so many words, words that stand together are masked
        together at first. Then only those of the passages with the largest weights are masked, one
        by one; the weights of all others are 0.
        """
        words, params = len(visible.occurrences), job.params
        chosen, used = np.arange(words), 0
        if number < min(MASKS_PER_WORD * words, number_of_masks(words, params.num_samples)):
            number //= 2
            passages = np.array_split(chosen, max(1, number // MASKS_PER_PASSAGE))
            masks = await asyncio.to_thread(make_masks, len(passages), number, params.seed)
            by_word = np.repeat(masks, [len(passage) for passage in passages], axis=1)
            scores = await self._scores(job, visible, by_word)
            weights, _ = await self._fit(job, masks, scores)
            used, order = len(masks), np.argsort(-np.abs(weights), kind="stable")
            sizes = np.cumsum([len(passages[i]) for i in order])
            count = max(1, int((sizes <= number // MASKS_PER_WORD).sum()))
            chosen = np.sort(np.concatenate([passages[i] for i in order[:count]]))
        some = await asyncio.to_thread(make_masks, len(chosen), number, params.seed)
        masks = np.ones((len(some), words), dtype=np.bool_)
        masks[:, chosen] = some
        scores = await self._scores(job, visible, masks)
        of_chosen, r2 = await self._fit(job, some, scores)
        weights = np.zeros(words)
        weights[chosen] = of_chosen
        return weights, r2, scores, used + len(masks)

    def _label(self, job: _Job, scores: Floats) -> str:
        """Return what is explained; `scores` begin with the unmasked text's."""
        return job.params.label or LABELS[job.engine.bundle.decide(scores[:1, : len(LABELS)])[0]]

    async def _fit(self, job: _Job, masks: Masks, scores: Floats) -> tuple[Array, float | None]:
        column = NAMES.index(self._label(job, scores))
        return await asyncio.to_thread(fit, masks, scores[:, column].astype(np.float64))

    @asynccontextmanager
    async def _turn(self, give_up: float) -> AsyncIterator[None]:
        """Wait until fewer than `max_running` explanations run; refuse if too many wait, or if this
        one would wait beyond `give_up`.
        """
        message = "Too many explanations are waiting, retry later"
        refusal = ServiceError(ErrorCode.OVERLOADED, message, retry_after=2)
        if not self._free_places:
            raise refusal
        self._free_places -= 1
        try:
            try:
                async with asyncio.timeout_at(give_up):
                    await self._running.acquire()
            except TimeoutError:
                raise refusal from None
            try:
                yield
            finally:
                self._running.release()
        finally:
            self._free_places += 1

    @asynccontextmanager
    async def _chunk_turn(self, engine: Engine) -> AsyncIterator[int]:
        """Wait for permission to send a chunk to the engine; yield its size limit in tokens."""
        async with self._chunks:
            if engine.idle_seconds > IDLE_AFTER_S:
                yield CHUNK_TOKENS
            else:
                async with self._single_chunk:
                    yield BUSY_CHUNK_TOKENS

    async def _scores(self, job: _Job, visible: VisibleText, masks: Masks) -> Floats:
        """Return probabilities [masks, NAMES], from the cache or the engine."""
        inputs = f"{job.engine.bundle.manifest.version} {visible.text}"
        key = hashlib.sha256(inputs.encode("utf-8", "surrogatepass"))
        key.update(np.packbits(masks).tobytes())
        digest = key.digest()
        cached = self._cache.get(digest)
        if cached is not None:
            return cached
        scores = await self._score_masks(job, visible, masks)
        self._cache[digest] = scores
        return scores

    async def _score_masks(self, job: _Job, visible: VisibleText, masks: Masks) -> Floats:
        """Score masked texts in chunks, several at one time; return [masks, NAMES]."""
        scores = np.empty((len(masks), len(NAMES)), dtype=np.float32)
        next_mask = 0

        async def score_chunks() -> None:
            nonlocal next_mask
            while next_mask < len(masks):
                async with self._chunk_turn(job.engine) as tokens:
                    start = next_mask  # other tasks may have taken masks while this one waited
                    next_mask += max(1, tokens // visible.tokens)
                    texts = [
                        apply_mask(visible.text, visible.occurrences, row, MASK)
                        for row in masks[start:next_mask]
                    ]
                    results = await _score_when_idle(job, texts)
                for i, result in enumerate(results, start):
                    scores[i] = [*result.scores.values(), *result.attributes.values()]

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(MAX_CHUNKS):
                    group.create_task(score_chunks())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return scores


async def _score_when_idle(job: _Job, texts: Sequence[str]) -> list[ScoredText]:
    """Score texts with low priority. While the engine's queue is full, wait and try again.

    Raises:
        QueueFullError: the wait would be too long.
        DeadlineError: the scores would come after the caller's deadline.
    """
    loop = asyncio.get_running_loop()
    while True:
        # With nothing ahead of it the engine tries each chunk: on a fast machine, to the last one.
        if job.deadline is not None and loop.time() > job.deadline:
            raise DeadlineError
        try:
            return await job.engine.score(texts, Priority.LOW, job.deadline)
        except QueueFullError as full:
            next_try = loop.time() + full.wait
            if job.deadline is not None and next_try > job.deadline:
                raise DeadlineError(full.wait) from None
            if next_try > job.give_up:
                raise
            await asyncio.sleep(full.wait)


def max_masks(visible: VisibleText) -> int:
    """Return how many masked texts an explanation may score."""
    return max(MIN_MASKS, MAX_MASK_TOKENS // visible.tokens)


def visible_text(bundle: Bundle, text: str) -> VisibleText:
    """Split a text into words. Of a text that is too long for the model, keep what it reads."""
    windows, is_cut = bundle.windows(text)
    words = split(text)
    if is_cut:
        end = max(end for window in windows for _, end in window.offsets)
        words = [word for word in words if word.begin < end]
        text = text[: max([end, *(word.end for word in words)])]
    spans = []
    for window in windows if len(windows) > 1 else ():
        # Of special tokens both offsets are 0.
        first = min((begin for begin, end in window.offsets if end), default=0)
        last = max(end for _, end in window.offsets)
        inside = [word for word in words if word.begin >= first and word.end <= last]
        spans += [(inside[0].begin, inside[-1].end)] if inside else []
    tokens = sum(len(window.ids) for window in windows)
    return VisibleText(text, group_occurrences(words), tokens, spans or [(0, len(text))])
