"""How well scores fit annotations, and how two sets of scores differ: figures from arrays.

`evaluate` writes them for people, `promote` holds them against limits. This module knows no files
and no limits; a bundle it is given only to be asked.

Intervals are 95 % percentile bootstraps over the rows: they cover the luck of the test, not that of
the training seed.
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
from training.labels import HATE, LABELS

SEED = 20261123

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

# Words that name a group, for the false-positive gap; not slurs, which are evidence of hate.
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
    # A class that is neither there nor chosen has no F1 to average.
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


def judge(
    scores: Floats, chosen: Ints, allowed: npt.NDArray[np.bool_], class_of: Ints, draws: int
) -> dict[str, Any]:
    """Return the figures of rows by a scheme's own classes, which partition our labels.

    Args:
        scores: [rows, labels] probabilities.
        chosen: [rows] label index that the thresholds gave.
        allowed: [rows, labels] label sets; a row's class is that of the labels in its set.
        class_of: [labels] the class of each label; `arange` judges all three.
        draws: bootstrap resamples.
    """
    count = int(class_of.max()) + 1
    names = [", ".join(np.array(LABELS)[class_of == at]) for at in range(count)]
    truth, chosen_class = class_of[allowed.argmax(axis=1)], class_of[chosen]
    class_scores = np.stack([scores[:, class_of == at].sum(axis=1) for at in range(count)], axis=1)
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
    for at, name in enumerate(names):
        classes[name] = {
            "rows": int(rows_of[at]),
            "precision": float(precision[at]),
            "recall": float(recall[at]),
            "f1": float(f1[at]),
        }
        if 0 < rows_of[at] < len(truth):
            classes[name] |= {
                "pr_auc": float(average_precision_score(truth == at, class_scores[:, at])),
                "roc_auc": float(roc_auc_score(truth == at, class_scores[:, at])),
            }
    confusion = confusion_matrix(truth, chosen_class, labels=every)
    point = f1_scores(confusion.astype(float))
    spread = {"macro_f1": drawn["macro_f1"], "weighted_f1": drawn["weighted_f1"], "ece": ece}
    spread |= {name: drawn["classes"][:, at] for at, name in enumerate(names)}
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


def identity_gap(texts: list[str], chosen: Ints, allowed: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return how often texts that are not hate are called hate, by the group that they name.

    `gap` is the largest rate of a group with enough rows, less that of texts that name none.
    """
    innocent = ~allowed[:, HATE]
    called_hate = chosen == HATE
    named = {
        group: np.array([bool(re.search(rf"\b({words})\b", t, re.IGNORECASE)) for t in texts])
        for group, words in IDENTITY_GROUPS.items()
    }
    nobody = innocent & ~np.any(list(named.values()), axis=0)
    rest = float(called_hate[nobody].mean()) if nobody.any() else 0.0
    groups = {}
    for group, mentions in named.items():
        rows = innocent & mentions
        if rows.sum() >= MIN_GROUP_ROWS:
            rate = float(called_hate[rows].mean())
            groups[group] = {"rows": int(rows.sum()), "false_positive_rate": rate}
    gap = max((group["false_positive_rate"] - rest for group in groups.values()), default=0.0)
    return {"without_mention": rest, "groups": groups, "gap": gap}


def compare(bundle: Bundle, one: Floats, other: Floats) -> dict[str, float]:
    """Return how far two score matrices [rows, labels] of the same texts are apart."""
    changed = bundle.decide(one) != bundle.decide(other)
    return {
        "label_changes": int(changed.sum()),
        "max_abs_difference": float(np.abs(one - other).max()),
    }


def milliseconds(
    scorers: Mapping[str, Callable[[list[str]], object]], texts: list[str], *, rounds: int = 1
) -> dict[str, dict[str, float]]:
    """Return each scorer's median and 95th percentile time over single texts, after a warm-up.

    The scorers take turns, so that a busy machine slows all alike; a text's time is its best of
    `rounds`.
    """
    for text in texts[:20]:
        for score in scorers.values():
            score([text])
    times = {name: np.full(len(texts), np.inf) for name in scorers}
    for _ in range(rounds):
        for at, text in enumerate(texts):
            for name, score in scorers.items():
                started = time.perf_counter()
                score([text])
                times[name][at] = min(times[name][at], (time.perf_counter() - started) * 1e3)
    return {
        name: {f"p{q}": float(np.percentile(found, q)) for q in (50, 95)}
        for name, found in times.items()
    }


def batch_invariance(bundle: Bundle, texts: list[str]) -> dict[str, float]:
    """Return how far each text's scores alone are from those in random batches of 32."""
    alone = np.concatenate([bundle.score([text]) for text in texts])
    together = np.empty_like(alone)
    order = np.random.default_rng(SEED).permutation(len(texts))
    for batch in np.array_split(order, len(texts) // 32 + 1):
        together[batch] = bundle.infer(bundle.encode([texts[at] for at in batch]))
    return compare(bundle, alone, together)
