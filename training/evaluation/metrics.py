"""Metrics from arrays: how well scores fit annotations, and how two sets of scores differ.

Intervals are percentile bootstraps over the rows: they cover the choice of test rows, not that of
the training seed.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap
from sklearn.metrics import (
    average_precision_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from serving.bundle import Bundle, Scores
from training.groups import IDENTITY_GROUPS, names_group
from training.partial_labels import HATE, LABELS

SEED = 20261123
# Areas under curves of fewer positive or negative rows would be chance, and some resamples would
# have none of them.
MIN_OF_EACH = 10
BINS = 15  # of the calibration error

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

MIN_GROUP_ROWS = 20


class Ranking(NamedTuple):
    """Scores [rows] of a yes-or-no question, and whether it is so [rows]."""

    scores: Floats
    truth: npt.NDArray[np.bool_]


def confusions(truth: Ints, chosen: Ints, classes: int) -> Ints:
    """Return confusion matrices [..., classes, classes] of class indices [..., rows]."""
    cells = truth * classes + chosen
    counts = np.apply_along_axis(np.bincount, -1, cells, minlength=classes**2)
    return np.asarray(counts.reshape(*cells.shape[:-1], classes, classes))


def f1_scores(confusion: npt.NDArray[Any]) -> dict[str, Any]:
    """Return per-class, macro- and weighted F1 of confusion matrices [..., truth, chosen]."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    truth, chosen = confusion.sum(axis=-1), confusion.sum(axis=-2)
    f1 = 2 * hits / np.maximum(truth + chosen, 1)
    # A class without rows that is never chosen has no F1.
    macro = f1.sum(axis=-1) / ((truth + chosen) > 0).sum(axis=-1)
    return {
        "classes": f1,
        "macro_f1": macro,
        "weighted_f1": (f1 * truth).sum(axis=-1) / truth.sum(axis=-1),
    }


def macro_f1(truth: Ints, chosen: Ints, classes: int) -> Floats:
    """Return macro-F1 [...] of class indices [..., rows]."""
    return np.asarray(f1_scores(confusions(truth, chosen, classes))["macro_f1"])


def bootstrap_interval(
    statistic: Callable[[Ints], Floats], rows: int, draws: int, confidence: float = 0.95
) -> Floats:
    """Return the percentile interval [..., 2] of a statistic over resampled rows.

    Args:
        statistic: row indices [draws, rows] → values [..., draws]. It is paired if it evaluates two
            models on the same indices.
        rows: number of rows.
        draws: number of resamples.
        confidence: of the interval.
    """
    # SciPy requires two rows; drawing from [0, 0] is drawing from [0].
    indices = np.resize(np.arange(rows), max(rows, 2))
    result = bootstrap(
        (indices,), lambda drawn, **_: statistic(drawn), vectorized=True, method="percentile",
        n_resamples=draws, confidence_level=confidence, rng=np.random.default_rng(SEED),
    )  # fmt: skip
    return np.stack(result.confidence_interval, axis=-1)


def interval(values: npt.NDArray[Any], draws: int) -> list[float]:
    """Return the interval of the mean of values [rows]."""
    mean = bootstrap_interval(lambda drawn: values[drawn].mean(axis=-1), len(values), draws)
    return [float(bound) for bound in mean]


def calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_]) -> float:
    """Return the expected calibration error over equal-width bins (Guo et al. 2017).

    For a yes-or-no question pass the probability of yes, and whether it is yes.
    """
    bin_of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bin_of, weights=confidence - correct, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def classification_metrics(
    scores: Floats, chosen: Ints, allowed: npt.NDArray[np.bool_], class_of: Ints, draws: int
) -> dict[str, Any]:
    """Return the metrics of rows by the classes of a scheme, which partition our labels.

    Args:
        scores: [rows, labels] probabilities.
        chosen: [rows] label index.
        allowed: [rows, labels] partial labels; a row's class is that of its allowed labels.
        class_of: [labels] the class of each label; `arange` for all three labels.
        draws: bootstrap resamples; 0: no intervals.

    A scheme of two classes also has `roc_auc`, of the class with hate in it, if there are
    MIN_OF_EACH rows of both.
    """
    names = class_names(class_of)
    count = len(names)
    truth, chosen_class = class_of[allowed.argmax(axis=1)], class_of[chosen]
    class_scores = np.stack([scores[:, class_of == i].sum(axis=1) for i in range(count)], axis=1)
    confidence = class_scores.max(axis=1)
    correct = class_scores.argmax(axis=1) == truth
    positive = class_of[HATE]
    ranking = Ranking(class_scores[:, positive], truth == positive)
    ranked = count == 2 and _has_both(ranking.truth)

    def statistics(drawn: Ints) -> list[Floats]:
        f1 = f1_scores(confusions(truth[drawn], chosen_class[drawn], count))
        ece = [calibration_error(confidence[rows], correct[rows]) for rows in drawn]
        ranks = areas(ranking, drawn)[:1] if ranked else []
        return [f1["macro_f1"], f1["weighted_f1"], np.array(ece), *f1["classes"].T, *ranks]

    auc = ("roc_auc",) if ranked else ()
    metrics = _values(
        ("macro_f1", "weighted_f1", "ece", *names, *auc), statistics, len(truth), draws
    )
    for name in names:
        del metrics[name]  # `classes` has it
    return {
        "rows": len(truth),
        "brier": float(((class_scores - np.eye(count)[truth]) ** 2).sum(axis=1).mean()),
        "classes": _by_class(truth, chosen_class, class_scores, names),
        "confusion": confusions(truth, chosen_class, count).tolist(),
        **metrics,
    }


def binary_metrics(ranking: Ranking, draws: int) -> dict[str, Any]:
    """Return F1 at 0.5, ECE and, with MIN_OF_EACH rows of both kinds, the areas under the curves.

    Args:
        ranking: its scores are probabilities.
        draws: bootstrap resamples; 0: no intervals.
    """
    scores, truth = ranking
    called = scores >= 0.5
    ranked = _has_both(truth)

    def statistics(drawn: Ints) -> list[Floats]:
        hits = (called & truth)[drawn].sum(axis=1)
        f1 = 2 * hits / np.maximum(called[drawn].sum(axis=1) + truth[drawn].sum(axis=1), 1)
        ece = [calibration_error(scores[rows], truth[rows]) for rows in drawn]
        return [f1, np.array(ece), *(areas(ranking, drawn) if ranked else ())]

    names = ("f1", "ece", *(("roc_auc", "average_precision") if ranked else ()))
    return {
        "rows": len(truth),
        "positives": int(truth.sum()),
        **_values(names, statistics, len(truth), draws),
    }


def _has_both(truth: npt.NDArray[np.bool_]) -> bool:
    return bool(min(truth.sum(), (~truth).sum()) >= MIN_OF_EACH)


def _values(
    names: tuple[str, ...],
    statistics: Callable[[Ints], list[Floats]],
    rows: int,
    draws: int,
) -> dict[str, Any]:
    """Return each statistic of all rows by its name, and with `draws` their `intervals`."""
    everything = np.arange(rows)[None]
    metrics: dict[str, Any] = {
        name: float(value[0]) for name, value in zip(names, statistics(everything), strict=True)
    }
    if draws:
        bounds = bootstrap_interval(lambda drawn: np.stack(statistics(drawn)), rows, draws)
        metrics["intervals"] = dict(zip(names, bounds.tolist(), strict=True))
    return metrics


def areas(ranking: Ranking, drawn: Ints) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return ROC AUC and average precision [draws] of resampled rows [draws, rows].

    They equal scikit-learn's, which takes one resample at a time. A resample without positive or
    without negative rows gets 0.
    """
    scores, truth = ranking
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of each run of ties
    weights = np.apply_along_axis(np.bincount, -1, drawn, minlength=len(scores))[:, order]
    hits = np.cumsum(weights * truth[order], axis=1)[:, last]
    misses = np.cumsum(weights * ~truth[order], axis=1)[:, last]
    gained, lost = np.diff(hits, prepend=0), np.diff(misses, prepend=0)
    positives, negatives = np.maximum(hits[:, -1], 1), np.maximum(misses[:, -1], 1)
    area = (lost * (hits - gained / 2)).sum(axis=1) / (positives * negatives)
    precision = hits / np.maximum(hits + misses, 1)
    return area, (gained * precision).sum(axis=1) / positives


def _by_class(
    truth: Ints, chosen: Ints, scores: Floats, names: list[str]
) -> dict[str, dict[str, float]]:
    """Return each class's metrics; the areas under curves need rows of two classes."""
    precision, recall, f1, rows = precision_recall_fscore_support(
        truth, chosen, labels=range(len(names)), zero_division=0
    )
    classes: dict[str, dict[str, float]] = {}
    for i, name in enumerate(names):
        classes[name] = {
            "rows": int(rows[i]),
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
        }
        if 0 < rows[i] < len(truth):
            classes[name] |= {
                "pr_auc": float(average_precision_score(truth == i, scores[:, i])),
                "roc_auc": float(roc_auc_score(truth == i, scores[:, i])),
            }
    return classes


def class_names(class_of: Ints) -> list[str]:
    """Return the name of each class of a scheme: its labels, with commas between them."""
    labels = np.array(LABELS)
    return [", ".join(labels[class_of == i]) for i in range(int(class_of.max()) + 1)]


def identity_gap(
    texts: list[str], chosen: Ints, allowed: npt.NDArray[np.bool_], draws: int
) -> dict[str, Any]:
    """Return the rate of false positives for hate, by the group that a text names.

    `gap` is the largest rate of a group with enough rows, less the rate of texts that name none.

    Args:
        texts: the rows' texts.
        chosen: [rows] label index.
        allowed: [rows, labels] partial labels.
        draws: bootstrap resamples; 0: no interval.
    """
    not_hate = ~allowed[:, HATE]
    named = {group: np.array(names_group(texts, group)) for group in IDENTITY_GROUPS}
    no_group = not_hate & ~np.any(list(named.values()), axis=0)
    rows = {group: not_hate & mentions for group, mentions in named.items()}
    groups = {group: among for group, among in rows.items() if among.sum() >= MIN_GROUP_ROWS}

    def rate(among: npt.NDArray[np.bool_], drawn: Ints) -> Floats:
        called = (among & (chosen == HATE))[drawn].sum(axis=1)
        return np.asarray(called / np.maximum(among[drawn].sum(axis=1), 1))

    def statistics(drawn: Ints) -> list[Floats]:
        rates = [rate(among, drawn) for among in groups.values()]
        rest = rate(no_group, drawn)
        return [rest, np.max(rates, axis=0) - rest if rates else np.zeros(len(drawn))]

    everything = np.arange(len(texts))[None]
    return {
        "groups": {
            group: {
                "rows": int(among.sum()),
                "false_positive_rate": float(rate(among, everything)[0]),
            }
            for group, among in groups.items()
        },
        **_values(("without_mention", "gap"), statistics, len(texts), draws),
    }


def difference(bundle: Bundle, one: Scores, other: Scores) -> dict[str, float]:
    """Return how much two models' scores of the same texts differ.

    `max_abs_difference` is that of all probabilities, of labels and of attributes.
    """
    changed = bundle.decide(one.labels) != bundle.decide(other.labels)
    moved = [np.abs(a - b).max(initial=0.0) for a, b in zip(one, other, strict=True)]
    return {
        "label_changes": int(changed.sum()),
        "label_change_share": float(changed.mean()),
        "max_abs_difference": float(max(moved)),
    }


def milliseconds(
    scorers: Mapping[str, Callable[[list[str]], object]], texts: list[str], *, rounds: int = 1
) -> dict[str, dict[str, float]]:
    """Return each scorer's median and 95th percentile time over single texts, after a warm-up.

    The scorers take turns, so that other load on the machine slows all of them equally. A text's
    time is its best of `rounds`.
    """
    for text in texts[:20]:
        for score in scorers.values():
            score([text])
    times = {name: np.full(len(texts), np.inf) for name in scorers}
    for _ in range(rounds):
        for i, text in enumerate(texts):
            for name, score in scorers.items():
                started = time.perf_counter()
                score([text])
                times[name][i] = min(times[name][i], (time.perf_counter() - started) * 1e3)
    return {
        name: {f"p{q}": float(np.percentile(ms, q)) for q in (50, 95)} for name, ms in times.items()
    }


def batch_invariance(bundle: Bundle, texts: list[str]) -> dict[str, float]:
    """Return the `difference` between scores of single texts and scores in random batches of 32."""
    single = [bundle.score([text]) for text in texts]
    alone = Scores(*(np.concatenate(part) for part in zip(*single, strict=True)))
    together = Scores(*(np.empty_like(part) for part in alone))
    order = np.random.default_rng(SEED).permutation(len(texts))
    for batch in np.array_split(order, len(texts) // 32 + 1):
        scores = bundle.infer(bundle.encode([texts[i] for i in batch]))
        together.labels[batch], together.attributes[batch] = scores
    return difference(bundle, alone, together)
