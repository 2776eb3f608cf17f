"""Estimates from random reviews: what counts, and whether the intervals hold the truth."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from serving.bundle import LABELS
from serving.drift.estimates import Items, estimate, resolve, share
from serving.observability.drift import Estimate

DATA_SETS = 200
PREVALENCE = {"hate": 0.05, "offensive": 0.15, "neither": 0.80}
# By true label, how often the model says hate, offensive, neither.
CONFUSION = np.array([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.01, 0.09, 0.9]])


def review(prediction_id: str, label: str, **changes: Any) -> dict[str, Any]:
    return {
        "prediction_id": prediction_id,
        "label": label,
        "reason": "random",
        "weight": 1000.0,
        "predicted": {"label": "hate", "scores": {}},
        "model_version": "model",
    } | changes


def labels(items: Items) -> list[tuple[str, str, float]]:
    return list(
        zip(items.truth.tolist(), items.predicted.tolist(), items.weight.tolist(), strict=True)
    )


def test_only_random_reviews_of_the_served_model_count() -> None:
    reviews = [
        review("a", "hate"),
        review("b", "hate", reason="margin", weight=None),
        review("c", "hate", model_version="other"),
        review("d", "neither", weight=50.0),
    ]
    assert labels(resolve(reviews, "model")) == [
        ("hate", "hate", 1000.0),
        ("neither", "hate", 50.0),
    ]


def test_unsure_and_skipped_reviews_are_counted_and_not_used() -> None:
    items = resolve([review("a", "unsure"), review("b", "skip"), review("c", "hate")], "model")
    assert (items.unsure, items.skipped, len(items.weight)) == (1, 1, 1)


def test_the_majority_of_all_reviewers_decides_and_ties_are_left_out() -> None:
    second, third = ({"reason": reason, "weight": None} for reason in ("second", "disagreement"))
    reviews = [
        review("a", "hate"),
        review("a", "neither", **second),
        review("a", "neither", **third),
        review("b", "hate"),
        review("b", "neither", **second),
        review("c", "unsure"),
        review("c", "offensive", **second),
    ]
    items = resolve(reviews, "model")
    assert labels(items) == [("neither", "hate", 1000.0), ("offensive", "hate", 1000.0)]
    assert (items.ties, items.unsure) == (1, 1)


def test_what_was_drawn_for_two_reviewers_stands_for_twice_as_many() -> None:
    items = resolve([review("a", "hate"), review("a", "hate", weight=500.0)], "model")
    assert labels(items) == [("hate", "hate", 1500.0)]


def test_without_reviews_everything_is_unknown() -> None:
    made = estimate(resolve([], "model"))
    assert made.reviews == 0
    for row in made.labels.values():
        assert row.precision == row.recall == row.prevalence == Estimate()


def test_nothing_seen_is_unknown_and_not_zero() -> None:
    made = estimate(resolve([review(f"{i}", "neither") for i in range(50)], "model"))
    hate, offensive = made.labels["hate"], made.labels["offensive"]
    # No prediction was offensive, and no text was: neither figure has a denominator.
    assert offensive.precision == offensive.recall == hate.recall == Estimate()
    # All 50 that the model called hate were not: that is a precision, and its bound is no 0.
    assert hate.precision.value == hate.precision.low == 0
    assert hate.precision.high is not None
    assert 0.05 < hate.precision.high < 0.1
    assert hate.prevalence.value is None
    assert hate.prevalence.high == hate.precision.high


def test_equal_weights_give_wilson_s_interval_about_and_unequal_ones_a_wider_one() -> None:
    part = np.arange(400) % 4 == 0
    whole, equal = np.ones(400, dtype=bool), np.full(400, 7.0)
    found = share(part, whole, equal)
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.210, 0.295), abs=0.002)
    unequal = share(part, whole, np.where(np.arange(400) % 8 < 4, 1.0, 10.0))
    assert unequal.value == pytest.approx(0.25)
    assert unequal.low is not None
    assert unequal.high is not None
    assert unequal.low < found.low
    assert unequal.high > found.high


def truths() -> dict[tuple[str, str], float]:
    """Precision, recall and prevalence in the population."""
    joint = np.array(list(PREVALENCE.values()))[:, None] * CONFUSION
    return {
        (name, figure): value
        for i, name in enumerate(LABELS)
        for figure, value in (
            ("precision", joint[i, i] / joint[:, i].sum()),
            ("recall", joint[i, i] / joint[i].sum()),
            ("prevalence", joint[i].sum()),
        )
    }


def drawn(rng: np.random.Generator, rows: int, weighting: str) -> Items:
    """Reviews of a population in which some texts are drawn more often than others."""
    # Candidates of the population are kept with the probability 1/weight (largest: 1).
    candidates = rows * 12
    truth = rng.choice(3, candidates, p=list(PREVALENCE.values()))
    predicted = (rng.random(candidates)[:, None] > CONFUSION[truth].cumsum(axis=1)).sum(axis=1)
    weight: npt.NDArray[np.float64] = np.ones(candidates)
    if weighting == "independent":  # busy and quiet weeks
        weight = rng.choice([1.0, 2.0, 5.0], candidates)
    elif weighting == "of the truth":  # there is more hate in busy weeks
        weight = np.where(rng.random(candidates) < np.array([0.7, 0.5, 0.3])[truth], 4.0, 1.0)
    kept = rng.random(candidates) < 1 / weight
    chosen = np.flatnonzero(kept)[:rows]
    names = np.array(LABELS)
    return Items(names[truth[chosen]], names[predicted[chosen]], weight[chosen])


@pytest.mark.parametrize("weighting", ["equal", "independent", "of the truth"])
@pytest.mark.parametrize("rows", [150, 600])
def test_the_intervals_hold_the_truth_in_about_95_of_100_data_sets(
    weighting: str, rows: int
) -> None:
    rng = np.random.default_rng(20)
    held = dict.fromkeys(truths(), 0)
    known = dict.fromkeys(truths(), 0)
    for _ in range(DATA_SETS):
        made = estimate(drawn(rng, rows, weighting))
        for (name, figure), truth in truths().items():
            found = getattr(made.labels[name], figure)
            if found.low is not None:
                known[name, figure] += 1
                held[name, figure] += found.low <= truth <= found.high
    rates = {key: held[key] / known[key] for key in held}
    print(weighting, rows, {"/".join(key): round(float(rate), 3) for key, rate in rates.items()})
    assert min(known.values()) > 0.95 * DATA_SETS
    # One rate of 200 has a standard error of 1.5 points.
    assert min(rates.values()) >= 0.90
    assert 0.94 <= np.mean(list(rates.values())) <= 0.985
