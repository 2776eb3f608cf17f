"""How good the model is on real traffic, from the reviews that were drawn at random.

    reviews  ->  items: one label each, by majority  ->  precision, recall, prevalence of each label

A review with the reason `random` was drawn with a known probability, and its weight is the inverse
of it. Each figure is a ratio of two weighted sums (Hájek's estimator). Its variance is linearised
(Särndal, Swensson and Wretman 1992, section 5.6); the interval is Wilson's with the number of rows
that would have this variance under equal weights (Korn and Graubard 1998), at most Kish's number,
because the usual normal interval has no width at shares of 0 and 1.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.bundle import LABELS
from serving.observability.drift import Estimate, Estimates, LabelEstimates

CONFIDENCE = 0.95
FINAL = set(LABELS)

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Items:
    """Reviewed predictions.

    truth, predicted: [items] labels.
    weight: [items] inverse of the probability of the draw.
    unsure, skipped: random reviews without a label.
    ties: items on which reviewers are divided.
    """

    truth: npt.NDArray[np.str_]
    predicted: npt.NDArray[np.str_]
    weight: Vector
    unsure: int = 0
    skipped: int = 0
    ties: int = 0


def resolve(reviews: Iterable[Mapping[str, Any]], version: str) -> Items:
    """Return the items of a model version of which at least one review was drawn at random.

    All reviewers' labels decide, by majority; `unsure` and `skip` are no labels.

    Args:
        reviews: documents with prediction_id, label, reason, weight, predicted and model_version.
        version: of the model whose predictions count.
    """
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for review in reviews:
        if review["model_version"] == version:
            groups[review["prediction_id"]].append(review)
    rows, verdicts, ties = [], Counter[str](), 0
    for group in groups.values():
        drawn = [review for review in group if _is_drawn(review)]
        if not drawn:
            continue
        verdicts.update(review["label"] for review in drawn)
        votes = Counter(review["label"] for review in group if review["label"] in FINAL)
        first, second = [*votes.most_common(2), ("", 0), ("", 0)][:2]
        if first[1] == second[1]:
            ties += first[1] > 0
            continue
        # Drawn twice, it stands for twice as many predictions.
        weight = sum(float(review["weight"]) for review in drawn)
        rows.append((first[0], drawn[0]["predicted"]["label"], weight))
    return Items(
        np.array([row[0] for row in rows], dtype=str),
        np.array([row[1] for row in rows], dtype=str),
        np.array([row[2] for row in rows], dtype=np.float64),
        verdicts["unsure"],
        verdicts["skip"],
        ties,
    )


def _is_drawn(review: Mapping[str, Any]) -> bool:
    return review["reason"] == "random" and (review["weight"] or 0) > 0


def estimate(items: Items) -> Estimates:
    """Return precision, recall and prevalence of each label, each with its interval."""
    everything = np.ones(len(items.weight), dtype=bool)
    labels = {}
    for name in LABELS:
        true, predicted = items.truth == name, items.predicted == name
        labels[name] = LabelEstimates(
            precision=share(true, predicted, items.weight),
            recall=share(predicted, true, items.weight),
            prevalence=_seen(share(true, everything, items.weight), true),
        )
    return Estimates(
        reviews=len(items.weight),
        unsure=items.unsure,
        skipped=items.skipped,
        ties=items.ties,
        labels=labels,
    )


def _seen(estimated: Estimate, true: npt.NDArray[np.bool_]) -> Estimate:
    """A label that no reviewer has chosen may be rare: only the upper bound is known."""
    return estimated if true.any() else estimated.model_copy(update={"value": None})


def share(part: npt.NDArray[np.bool_], whole: npt.NDArray[np.bool_], weight: Vector) -> Estimate:
    """Return the weighted share of `part` among the rows of `whole`; unknown if there are none.

    Args:
        part: [rows] whether the row has what is counted; only rows of `whole` matter.
        whole: [rows] whether the row is among those that the share is of.
        weight: [rows] inverse of the probability of the draw.
    """
    counted, weights = part[whole], weight[whole]
    if not len(weights):
        return Estimate()
    value = float(np.average(counted, weights=weights))
    low, high = _wilson(value, _effective_rows(value, counted, weights))
    return Estimate(value=value, low=low, high=high)


def _effective_rows(value: float, counted: npt.NDArray[np.bool_], weights: Vector) -> float:
    """Return the number of equally weighted rows whose share has the same variance."""
    total, rows = weights.sum(), len(weights)
    kish = float(total**2 / (weights**2).sum())
    if rows == 1 or counted.all() or not counted.any():
        return kish
    residuals = weights * (counted - value)
    variance = rows / (rows - 1) * (residuals**2).sum() / total**2
    # The smaller one: with few rows of one kind the variance is uncertain, and intervals that take
    # it at its word hold the truth in 92 of 100 cases only.
    return min(float(value * (1 - value) / variance), kish)


def _wilson(value: float, rows: float) -> tuple[float, float]:
    """Return Wilson's interval of a share in `rows` rows."""
    from scipy.stats import t

    z = float(t.ppf((1 + CONFIDENCE) / 2, max(rows - 1, 1)))
    centre = (value + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * (value * (1 - value) / rows + z**2 / (4 * rows**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
