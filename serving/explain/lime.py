"""LIME on word masks: which masked texts to score, and the word weights that result.

    words ──> make_masks ──> apply_mask ──> (scores) ──> fit: proximity, ridge ──> top_words

The fit is LIME's own. Words and masks are ours: LIME's splitter loses offsets, and its sampling
scores many masks more than once. As in LIME, every number of removed words is equally likely. With
few words all masks are scored and the result is exact. With more, a seeded sample is scored, so the
same text, model and parameters always give the same weights. It knows neither a model nor HTTP.

docs/explanations.md describes the method.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.explain.words import Word

Array = npt.NDArray[np.float64]
Masks = npt.NDArray[np.bool_]  # [masks, distinct words]; true keeps a word; row 0 keeps them all

EXACT_WORDS = 8  # with up to this many distinct words, all masks are scored
KERNEL_WIDTH = 25.0  # LIME's default, for cosine distances in percent
TOTAL_WEIGHT = 1e6  # of all masks, so that LIME's ridge penalty of 1 shrinks nothing visibly
DIGITS = 6  # decimals of weights and R²


@dataclass(frozen=True, slots=True)
class WordWeight:
    """One occurrence of a word, and how much it adds to the label's probability."""

    word: Word
    weight: float

    def moved(self, by: int) -> "WordWeight":
        """Return the same in a text that has `by` more characters in front."""
        begin, end = self.word.begin + by, self.word.end + by
        return WordWeight(Word(self.word.text, begin, end), self.weight)


def number_of_masks(words: int, num_samples: int, limit: int | None = None) -> int:
    """Return how many masks of this many distinct words are scored.

    These are all, if they are few; else `num_samples`. They are never more than `limit`.
    """
    every = 2**words
    wanted = every if every <= max(num_samples, 2**EXACT_WORDS) else num_samples
    return wanted if limit is None else min(wanted, limit)


def make_masks(words: int, number: int, seed: int) -> Masks:
    """Return distinct masks [masks, words]: all of them, or a sample if `number` is smaller.

    For a sampled mask the number of removed words is drawn first, then which words, as in LIME.
    """
    if 2**words <= number:
        numbers = np.arange(2**words)[::-1, None]
        return np.asarray(numbers >> np.arange(words) & 1, dtype=np.bool_)
    rng = np.random.default_rng(seed)
    rows = {b"\x01" * words: None}  # a dict is a set that keeps the order
    while len(rows) < number:
        removed = rng.integers(1, words + 1, size=number)
        ranks = rng.random((number, words)).argsort(axis=1).argsort(axis=1)
        rows |= dict.fromkeys(row.tobytes() for row in ranks >= removed[:, None])
    content = b"".join(list(rows)[:number])
    return np.frombuffer(content, dtype=np.bool_).reshape(number, words)


def apply_mask(
    text: str, occurrences: Sequence[Sequence[Word]], keep: npt.NDArray[np.bool_], replacement: str
) -> str:
    """Return the text with every occurrence of the removed words replaced by `replacement`.

    Args:
        text: the whole text.
        occurrences: of each distinct word.
        keep: one row of the masks, [distinct words].
        replacement: stands in for each removed word.
    """
    removed = sorted(
        (word.begin, word.end)
        for group, kept in zip(occurrences, keep, strict=True)
        if not kept
        for word in group
    )
    edges = [(0, 0), *removed, (len(text), len(text))]
    return replacement.join(text[end:begin] for (_, end), (begin, _) in pairwise(edges))


def proximity(masks: Masks) -> Array:
    """Return the weight of each mask in the fit [masks].

    Masks of the same size share the value of LIME's kernel at that size equally.
    """
    words = masks.shape[1]
    kept = masks.sum(axis=1)
    distance = 100 * (1 - np.sqrt(kept / words))  # cosine distance from the unmasked text
    kernel = np.exp(-((distance / KERNEL_WIDTH) ** 2) / 2)
    share = kernel / np.bincount(kept, minlength=words + 1)[kept]
    return np.asarray(share * TOTAL_WEIGHT / share.sum(), dtype=np.float64)


def fit(masks: Masks, scores: Array) -> tuple[Array, float | None]:
    """Fit LIME's weighted ridge regression to the scores of the masked texts.

    Args:
        masks: [masks, words].
        scores: the label's probability for each masked text, [masks].

    Returns:
        The weight of each distinct word [words], and R²; R² is None without words.
    """
    words = masks.shape[1]
    if not words:
        return np.zeros(0), None
    lime = _lime_base()(kernel_fn=lambda _: proximity(masks), random_state=0)
    _, ranked, r2, _ = lime.explain_instance_with_data(
        masks.astype(np.float64), scores[:, None], None, 0, words, feature_selection="none"
    )
    weights = np.zeros(words)
    for i, weight in ranked:
        weights[i] = round(float(weight), DIGITS)
    return weights, round(float(r2), DIGITS)


def top_words(
    occurrences: Sequence[Sequence[Word]], weights: Array, num_features: int
) -> tuple[WordWeight, ...]:
    """Return all occurrences of the words with the largest absolute weights.

    They are ordered by absolute weight, largest first, then by their place in the text.
    """
    order = sorted(
        range(len(occurrences)), key=lambda i: (-abs(weights[i]), occurrences[i][0].begin)
    )
    return tuple(
        WordWeight(word, float(weights[i])) for i in order[:num_features] for word in occurrences[i]
    )


@cache
def _lime_base() -> Any:
    """Import LIME's core on first use: it takes 100 MB and one to two seconds.

    Its objects are then frozen, so that the garbage collector does not visit them again and again.
    """
    from lime.lime_base import LimeBase  # type: ignore[import-untyped]

    gc.freeze()
    return LimeBase
