import numpy as np
import pytest

from serving.explain.lime import (
    TOTAL_WEIGHT,
    apply_mask,
    fit,
    make_masks,
    number_of_masks,
    proximity,
    top_words,
)
from serving.explain.words import group_occurrences, split


def test_with_few_words_all_masks_are_scored() -> None:
    for words in range(9):
        masks = make_masks(words, number_of_masks(words, 16), seed=3)
        assert masks.shape == (2**words, words)
        assert len({row.tobytes() for row in masks}) == 2**words
        assert masks[0].all()
    assert number_of_masks(9, 512) == number_of_masks(9, 5000) == 512
    assert number_of_masks(9, 511) == 511
    assert number_of_masks(8, 16, limit=100) == 100
    assert number_of_masks(3, 1000, limit=100) == 8
    assert make_masks(8, 100, seed=0).shape == (100, 8)


@pytest.mark.parametrize(("words", "samples"), [(9, 511), (12, 1000), (20, 1000), (90, 16)])
def test_with_many_words_the_seed_determines_a_sample_of_masks(words: int, samples: int) -> None:
    masks = make_masks(words, samples, seed=1)
    assert masks.shape == (samples, words)
    assert len({row.tobytes() for row in masks}) == samples
    assert masks[0].all()
    assert (masks == make_masks(words, samples, seed=1)).all()
    assert (masks != make_masks(words, samples, seed=2)).any()


def test_every_number_of_removed_words_is_equally_likely() -> None:
    removed = 40 - make_masks(40, 4000, seed=0)[1:].sum(axis=1)
    counts = np.bincount(removed, minlength=41)[4:37]  # few masks exist for the extremes
    assert counts.min() > 60
    assert counts.max() < 150


@pytest.mark.parametrize("words", [3, 8, 14])
def test_masks_of_one_size_share_the_value_of_limes_kernel(words: int) -> None:
    masks = make_masks(words, 300, seed=0)
    weights = proximity(masks)
    assert weights.sum() == pytest.approx(TOTAL_WEIGHT)
    kept = masks.sum(axis=1)
    per_size = np.array([weights[kept == size].sum() for size in range(words + 1)])
    distance = 100 * (1 - np.sqrt(np.arange(words + 1) / words))
    kernel = np.sqrt(np.exp(-(distance**2) / 25**2))  # as lime.lime_text writes it
    assert per_size / per_size[-1] == pytest.approx(np.where(per_size > 0, kernel, 0))


@pytest.mark.parametrize("words", [1, 2, 8, 20, 60])
def test_the_fit_recovers_a_linear_score(words: int) -> None:
    masks = make_masks(words, 1000, seed=0)
    true = np.random.default_rng(5).normal(size=words)
    weights, r2 = fit(masks, 0.25 + masks @ true)
    assert weights == pytest.approx(true, abs=2e-2 if words == 1 else 1e-3)
    assert r2 == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("keep", "replacement", "masked"),
    [
        ([True, True, True, True], "#", "No, don't: no! 😂 ok"),
        ([False, True, True, True], "#", "#, don't: #! 😂 ok"),
        ([False, False, False, False], "", ", : !  "),
        ([True, False, False, True], "#", "No, #: no! # ok"),
    ],
)
def test_a_mask_replaces_every_occurrence_and_nothing_else(
    keep: list[bool], replacement: str, masked: str
) -> None:
    text = "No, don't: no! 😂 ok"
    occurrences = group_occurrences(split(text))
    assert apply_mask(text, occurrences, np.array(keep), replacement) == masked


def test_top_words_have_the_largest_absolute_weights_with_all_occurrences() -> None:
    occurrences = group_occurrences(split("ant bee ant cat dog"))
    top = top_words(occurrences, np.array([0.1, -0.4, 0.2, -0.1]), num_features=3)
    assert [(row.word.begin, row.weight) for row in top] == [
        (4, -0.4),
        (12, 0.2),
        (0, 0.1),
        (8, 0.1),
    ]
