"""Metrics from arrays: how well scores fit annotations, and how two sets of scores differ.

Intervals are 95 % percentile bootstraps over the rows: they cover the choice of test rows, not that
of the training seed. `scipy.stats.bootstrap` would call a metric once a resample; here one count of
cells serves all of them.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

from serving.bundle import Bundle
from training.partial_labels import HATE, LABELS

SEED = 20261123

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

# Words that name a group, for the false-positive gap. No slurs: they are evidence of hate.
IDENTITY_GROUPS = {
    "women": r"wom[ae]n|females?|girls?|ladies|feminis\w+",
    "men": r"m[ae]n|males?|boys?|guys?",
    "immigrants": r"immigrants?|migrants?|refugees?|aliens?|asylum",
    "muslims": r"muslims?|islam\w*|mosques?",
    "jews": r"jew(s|ish)?|judaism|synagogues?",
    "christians": r"christians?|church\w*|catholics?",
    "black people": r"blacks?|african\w*",
    "white people": r"whites?|caucasians?",
    "asian people": r"asians?|chinese|japanese|indians?",
    "latino people": r"latin[oax]s?|hispanics?|mexicans?",
    "gay people": r"gays?|lesbians?|lgbt\w*|homosexual\w*|bisexuals?",
    "trans people": r"trans(gender)?|nonbinary",
    "disabled people": r"disab\w+|autis\w+|blind|deaf",
}
MIN_GROUP_ROWS = 20


def f1_scores(confusion: Floats) -> dict[str, Any]:
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
    count = int(class_of.max()) + 1
    names = class_names(class_of)
    truth, chosen_class = class_of[allowed.argmax(axis=1)], class_of[chosen]
    class_scores = np.stack([scores[:, class_of == i].sum(axis=1) for i in range(count)], axis=1)
    resamples = np.random.default_rng(SEED).integers(0, len(truth), (draws, len(truth)))
    cells = truth * count + chosen_class
    drawn = f1_scores(
        np.array([np.bincount(cells[rows], minlength=count**2) for rows in resamples])
        .reshape(-1, count, count)
        .astype(float)
    )
    confidence = class_scores.max(axis=1)
    correct = class_scores.argmax(axis=1) == truth
    ece = [calibration_error(confidence[rows], correct[rows]) for rows in resamples]

    every = range(count)
    precision, recall, f1, rows_of = precision_recall_fscore_support(
        truth, chosen_class, labels=every, zero_division=0
    )
    classes: dict[str, Any] = {}
    for i, name in enumerate(names):
        classes[name] = {
            "rows": int(rows_of[i]),
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
        }
        if 0 < rows_of[i] < len(truth):
            classes[name] |= {
                "pr_auc": float(average_precision_score(truth == i, class_scores[:, i])),
                "roc_auc": float(roc_auc_score(truth == i, class_scores[:, i])),
            }
    confusion = confusion_matrix(truth, chosen_class, labels=every)
    point = f1_scores(confusion.astype(float))
    spread = {"macro_f1": drawn["macro_f1"], "weighted_f1": drawn["weighted_f1"], "ece": ece}
    spread |= {name: drawn["classes"][:, i] for i, name in enumerate(names)}
    return {
        "rows": len(truth),
        "macro_f1": float(point["macro_f1"]),
        "weighted_f1": float(point["weighted_f1"]),
        "ece": calibration_error(confidence, correct),
        "brier": float(((class_scores - np.eye(count)[truth]) ** 2).sum(axis=1).mean()),
        "classes": classes,
        "confusion": confusion.tolist(),
        "intervals": {k: np.percentile(v, [2.5, 97.5]).tolist() for k, v in spread.items()},
    }


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
    named = {
        group: np.array([bool(re.search(rf"\b({words})\b", t, re.IGNORECASE)) for t in texts])
        for group, words in IDENTITY_GROUPS.items()
    }
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
