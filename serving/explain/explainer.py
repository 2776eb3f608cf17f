"""Explanations by LIME: how much each word of a text speaks for a label.

    words → masks → texts with words masked → the engine's scores → LIME's weighted regression

LIME's own core fits the line; words and masks are ours, because LIME's splitter loses offsets and
its sampling scores many a mask twice. Masks of every size weigh alike, as they do in LIME. All of
them are scored where there are few, and the result is then exact; otherwise a seeded sample is, so
an explanation is a function of model, text and parameters alone. It knows no HTTP.
"""

import asyncio
import gc
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.bundle import LABELS, Bundle
from serving.errors import ErrorCode, ServiceError
from serving.explain.words import Word, distinct, split
from serving.inference.batcher import Priority, QueueFullError
from serving.inference.engine import Engine, Scored

Array = npt.NDArray[np.float64]
Masks = npt.NDArray[np.bool_]  # [masks, distinct words]; true keeps a word; row 0 keeps them all

EXACT_WORDS = 8  # up to so many distinct words, all masks are scored
KERNEL_WIDTH = 25.0  # LIME's, for cosine distances in percent
STRENGTH = 1e6  # total weight against LIME's ridge of 1, which so shrinks nothing that one sees
LANES = 4  # chunks of masked texts that are with the engine at one time,
IDLE_TOKENS = 256  # of so many tokens
IDLE_AFTER_S = (
    0.25  # seconds; if somebody else has asked since then, there is one small chunk at a time:
)
SMALL_TOKENS = 128  # a tweet of theirs finds a thread free, or waits for no more than this
MAX_YIELD_S = 10.0  # seconds that an explanation gives way to others before it is refused
DIGITS = 6  # of what is answered


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be explained, and how well.

    label: one of LABELS; None: the one that the model gives.
    num_features: how many distinct words are named, from the weightiest on.
    num_samples: masks to score where not all of them are.
    """

    text: str
    label: str | None = None
    num_features: int = 10
    num_samples: int = 1000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Weight:
    """One occurrence of a word, and the change in the label's probability that it stands for."""

    word: Word
    weight: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Weights, the heaviest first, and how they were come by.

    r2: how much of the masked texts' scores the weights explain; None if there was no word.
    scores: of the whole text, by label.
    """

    label: str
    weights: tuple[Weight, ...]
    r2: float | None
    scores_used: int
    exact: bool
    seed: int
    scores: dict[str, float]
    model: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as far as the model reads it, each distinct word's occurrences, its tokens."""

    text: str
    groups: list[list[Word]]
    tokens: int


class Explainer:
    """Explains, few at a time; keeps the scores of what was explained last."""

    def __init__(
        self,
        *,
        mask: str = "[MASK]",
        at_once: int = 2,
        waiting: int = 16,
        cache_size: int = 512,
    ) -> None:
        """Make an explainer.

        Args:
            mask: stands for a masked word.
            at_once: explanations in work.
            waiting: explanations that may wait for their turn; more are refused.
            cache_size: texts whose masked scores are kept, at 12 kB each for 1,000 masks.
        """
        self._mask = mask
        self._turns, self._lanes = asyncio.Semaphore(at_once), asyncio.Semaphore(LANES)
        self._narrow = asyncio.Lock()
        self._room = at_once + waiting
        self._cache: OrderedDict[bytes, Array] = OrderedDict()
        self._cache_size = cache_size

    async def explain(self, engine: Engine, question: Question) -> Explanation:
        """Explain one text.

        Raises:
            ServiceError: too many explanations wait.
            QueueFullError, BatcherDeadError: see `Engine.score`.
        """
        async with self._turn():
            reading = await asyncio.to_thread(read, engine.bundle, question.text)
            words = len(reading.groups)
            masks = await asyncio.to_thread(make_masks, words, question.num_samples, question.seed)
            scores = await self._scores(engine, question, reading, masks)
            whole = dict(zip(LABELS, scores[0].tolist(), strict=True))
            label = question.label
            if label is None:
                label = LABELS[engine.bundle.decide(scores[:1].astype(np.float32))[0]]
            weights, r2 = await asyncio.to_thread(fit, masks, scores[:, LABELS.index(label)])
        manifest = engine.bundle.manifest
        return Explanation(
            label=label,
            weights=heaviest(reading.groups, weights, question.num_features),
            r2=r2,
            scores_used=len(masks),
            exact=is_exact(words, question.num_samples),
            seed=question.seed,
            scores=whole,
            model=(manifest.name, manifest.version),
        )

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if not self._room:
            raise ServiceError(ErrorCode.OVERLOADED, "Too many explanations wait.", retry_after=2)
        self._room -= 1
        try:
            async with self._turns:
                yield
        finally:
            self._room += 1

    @asynccontextmanager
    async def _lane(self, engine: Engine) -> AsyncIterator[int]:
        """Wait for a turn to score; yield how many tokens may be."""
        async with self._lanes:
            if engine.idle_seconds > IDLE_AFTER_S:
                yield IDLE_TOKENS
            else:
                async with self._narrow:
                    yield SMALL_TOKENS

    async def _scores(
        self, engine: Engine, question: Question, reading: Reading, masks: Masks
    ) -> Array:
        """Return probabilities [masks, labels], kept or fresh."""
        version = engine.bundle.manifest.version
        asked = f"{version} {self._mask} {question.num_samples} {question.seed} {question.text}"
        key = hashlib.sha256(asked.encode("utf-8", "surrogatepass")).digest()
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        scores = np.empty((len(masks), len(LABELS)))
        deadline, begun = monotonic() + MAX_YIELD_S, 0

        async def score() -> None:
            nonlocal begun
            while begun < len(masks):
                async with self._lane(engine) as tokens:
                    at = begun  # others may have begun more while this one waited
                    begun += max(1, tokens // reading.tokens)
                    chunk = [masked(reading, row, self._mask) for row in masks[at:begun]]
                    found = await score_when_idle(engine, chunk, deadline)
                for to, row in enumerate(found, start=at):
                    scores[to] = [row.scores[name] for name in LABELS]

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(LANES):
                    group.create_task(score())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        self._cache[key] = scores
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return scores


async def score_when_idle(engine: Engine, texts: Sequence[str], deadline: float) -> list[Scored]:
    """Return texts' scores; while too much waits for that, wait, but not beyond the deadline."""
    while True:
        try:
            return await engine.score(texts, Priority.LOW)
        except QueueFullError as full:
            if monotonic() + full.wait > deadline:
                raise
            await asyncio.sleep(full.wait)


def read(bundle: Bundle, text: str) -> Reading:
    """Find a text's words; of one that is too long for the model, those that it sees."""
    encoding = bundle.tokenizer.encode(text)
    words = split(text)
    if encoding.overflowing:
        end = max(end for _, end in encoding.offsets)
        words = [word for word in words if word.begin < end]
        text = text[: max([end, *(word.end for word in words)])]
    return Reading(text, distinct(words), len(encoding.ids))


def is_exact(words: int, num_samples: int) -> bool:
    """Tell whether all masks of so many distinct words are scored."""
    return words <= EXACT_WORDS or 2**words <= num_samples


def make_masks(words: int, num_samples: int, seed: int) -> Masks:
    """Return distinct masks [masks, words]: all of them, or a sample in which, as in LIME, the
    number of words that a mask removes is drawn first and which they are then.
    """
    if is_exact(words, num_samples):
        numbers = np.arange(2**words)[::-1, None]
        return np.asarray(numbers >> np.arange(words) & 1, dtype=np.bool_)
    draw = np.random.default_rng(seed)
    found = {b"\x01" * words: None}
    while len(found) < num_samples:
        removed = draw.integers(1, words + 1, size=num_samples)
        ranks = draw.random((num_samples, words)).argsort(axis=1).argsort(axis=1)
        found |= dict.fromkeys(row.tobytes() for row in ranks >= removed[:, None])
    rows = list(found)[:num_samples]
    return np.frombuffer(b"".join(rows), dtype=np.bool_).reshape(num_samples, words)


def masked(reading: Reading, keep: npt.NDArray[np.bool_], mask: str) -> str:
    """Return the text with every occurrence of the words that are not kept replaced."""
    gone = sorted(
        (word.begin, word.end)
        for group, kept in zip(reading.groups, keep, strict=True)
        if not kept
        for word in group
    )
    edges = [(0, 0), *gone, (len(reading.text), len(reading.text))]
    return mask.join(reading.text[end:begin] for (_, end), (begin, _) in pairwise(edges))


def proximity(masks: Masks) -> Array:
    """Return the weight of each mask: LIME's kernel, times an equal share of its size's weight."""
    words = masks.shape[1]
    kept = masks.sum(axis=1)
    distance = 100 * (1 - np.sqrt(kept / words))  # the cosine's, between a mask and the whole
    kernel = np.exp(-((distance / KERNEL_WIDTH) ** 2) / 2)
    share = kernel / np.bincount(kept, minlength=words + 1)[kept]
    return np.asarray(share * STRENGTH / share.sum(), dtype=np.float64)


def fit(masks: Masks, scores: Array) -> tuple[Array, float | None]:
    """Return each word's weight and R² of LIME's line through the scores of masked texts."""
    words = masks.shape[1]
    if not words:
        return np.zeros(0), None
    core = _lime()(kernel_fn=lambda _: proximity(masks), random_state=0)
    _, ranked, r2, _ = core.explain_instance_with_data(
        masks.astype(np.float64), scores[:, None], None, 0, words, feature_selection="none"
    )
    weights = np.zeros(words)
    for at, weight in ranked:
        weights[at] = round(float(weight), DIGITS)
    return weights, round(float(r2), DIGITS)


@cache
def _lime() -> Any:
    """Import LIME's core: 100 MB and a second or two, which only who asks for an explanation shall
    pay. The garbage collector shall not walk through it again and again.
    """
    from lime.lime_base import LimeBase  # type: ignore[import-untyped]

    gc.freeze()
    return LimeBase


def heaviest(
    groups: Sequence[Sequence[Word]], weights: Array, num_features: int
) -> tuple[Weight, ...]:
    """Return all occurrences of the heaviest words, heaviest first, then in the text's order."""
    order = sorted(range(len(groups)), key=lambda at: (-abs(weights[at]), groups[at][0].begin))
    return tuple(
        Weight(word, float(weights[at])) for at in order[:num_features] for word in groups[at]
    )
