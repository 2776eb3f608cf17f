"""Metrics from arrays: how well scores fit annotations, and how two sets of scores differ.

Intervals are percentile bootstraps over the rows: they cover the choice of test rows, not that of
the training seed.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap
from sklearn.metrics import (
    average_precision_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from serving.bundle import Bundle
from training.groups import IDENTITY_GROUPS, names_group
from training.partial_labels import HATE, LABELS

SEED = 20261123

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

MIN_GROUP_ROWS = 20


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


def calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int = 15) -> float:
    """Return the expected calibration error over equal-width bins (Guo et al. 2017)."""
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=confidence - correct, minlength=bins)
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
        draws: bootstrap resamples.
    """
    names = class_names(class_of)
    count = len(names)
    truth, chosen_class = class_of[allowed.argmax(axis=1)], class_of[chosen]
    class_scores = np.stack([scores[:, class_of == i].sum(axis=1) for i in range(count)], axis=1)
    confidence = class_scores.max(axis=1)
    correct = class_scores.argmax(axis=1) == truth

    def statistics(drawn: Ints) -> Floats:
        f1 = f1_scores(confusions(truth[drawn], chosen_class[drawn], count))
        ece = [calibration_error(confidence[rows], correct[rows]) for rows in drawn]
        return np.stack([f1["macro_f1"], f1["weighted_f1"], ece, *f1["classes"].T])

    intervals = bootstrap_interval(statistics, len(truth), draws).tolist()
    confusion = confusions(truth, chosen_class, count)
    f1 = f1_scores(confusion)
    return {
        "rows": len(truth),
        "macro_f1": float(f1["macro_f1"]),
        "weighted_f1": float(f1["weighted_f1"]),
        "ece": calibration_error(confidence, correct),
        "brier": float(((class_scores - np.eye(count)[truth]) ** 2).sum(axis=1).mean()),
        "classes": _by_class(truth, chosen_class, class_scores, names),
        "confusion": confusion.tolist(),
        "intervals": dict(zip(("macro_f1", "weighted_f1", "ece", *names), intervals, strict=True)),
    }


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


def identity_gap(texts: list[str], chosen: Ints, allowed: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return the rate of false positives for hate, by the group that a text names.

    `gap` is the largest rate of a group with enough rows, less the rate of texts that name none.
    """
    not_hate = ~allowed[:, HATE]
    called_hate = chosen == HATE
    named = {group: np.array(names_group(texts, group)) for group in IDENTITY_GROUPS}
    no_group = not_hate & ~np.any(list(named.values()), axis=0)
    rest = float(called_hate[no_group].mean()) if no_group.any() else 0.0
    groups = {}
    for group, mentions in named.items():
        rows = not_hate & mentions
        if rows.sum() >= MIN_GROUP_ROWS:
            rate = float(called_hate[rows].mean())
            groups[group] = {"rows": int(rows.sum()), "false_positive_rate": rate}
    gap = max((group["false_positive_rate"] - rest for group in groups.values()), default=0.0)
    return {"without_mention": rest, "groups": groups, "gap": gap}


def difference(bundle: Bundle, one: Floats, other: Floats) -> dict[str, float]:
    """Return how much two score matrices [rows, labels] of the same texts differ."""
    changed = bundle.decide(one) != bundle.decide(other)
    return {
        "label_changes": int(changed.sum()),
        "max_abs_difference": float(np.abs(one - other).max()),
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
    alone = np.concatenate([bundle.score([text]) for text in texts])
    together = np.empty_like(alone)
    order = np.random.default_rng(SEED).permutation(len(texts))
    for batch in np.array_split(order, len(texts) // 32 + 1):
        together[batch] = bundle.infer(bundle.encode([texts[i] for i in batch]))
    return difference(bundle, alone, together)
