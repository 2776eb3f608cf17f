"""Stage 5: judge the candidate bundle on data that nothing was fitted to.

Scores the int8 file through the very code that serves it, and its fp32 parent through the same
code. Writes models/candidate/metrics.json, models/candidate/MODEL_CARD.md and reports/plots/*.png.

Intervals are 95 % percentile bootstraps over the test's rows: they cover the luck of the test, not
that of the training seed.
"""

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from serving.bundle import Bundle, BundleError
from training import plots
from training.config import EvaluateParams, load_params, load_sources
from training.errors import ArtifactError, run_stage
from training.files import read_json, whole, write_json
from training.labels import HATE, LABELS, label_classes, label_mask
from training.report import model_card

PROCESSED = Path("data/processed")
CANDIDATE = Path("models/candidate")
FP32 = Path("models/fp32.onnx")
HISTORY = Path("models/finetuned/history.json")
PLOTS = Path("reports/plots")
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


def rates(confusion: Floats) -> dict[str, Any]:
    """Return F1s, precision and recall of confusion matrices [..., truth, chosen]."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    truth, chosen = confusion.sum(axis=-1), confusion.sum(axis=-2)
    with np.errstate(invalid="ignore"):
        precision, recall, f1 = (
            np.nan_to_num(hits / wanted) for wanted in (chosen, truth, (truth + chosen) / 2)
        )
    weights = truth / truth.sum(axis=-1, keepdims=True)
    # A class that is neither there nor chosen has no F1 to average.
    present = (truth + chosen) > 0
    return {
        "macro_f1": (f1 * present).sum(axis=-1) / present.sum(axis=-1),
        "weighted_f1": (f1 * weights).sum(axis=-1),
        "accuracy": hits.sum(axis=-1) / truth.sum(axis=-1),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


def confusions(truth: Ints, chosen: Ints, classes: int, resamples: Ints | None = None) -> Floats:
    """Return the confusion matrix [classes, classes], or one a row of `resamples`."""
    cells = truth * classes + chosen
    if resamples is None:
        return np.bincount(cells, minlength=classes**2).reshape(classes, classes).astype(float)
    drawn = [np.bincount(cells[rows], minlength=classes**2) for rows in resamples]
    return np.array(drawn, dtype=float).reshape(-1, classes, classes)


def calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int = 15) -> float:
    """Return the expected calibration error over equal-width bins (Guo et al. 2017)."""
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def interval(values: Floats) -> list[float]:
    """Return the 2.5th and 97.5th percentile."""
    return [float(edge) for edge in np.percentile(values, [2.5, 97.5])]


def judge(scores: Floats, chosen: Ints, truth: Ints, draws: int) -> dict[str, Any]:
    """Return the figures of rows that have one true label.

    Args:
        scores: [rows, labels] probabilities.
        chosen: [rows] label index that the thresholds gave.
        truth: [rows] label index.
        draws: bootstrap resamples.
    """
    resamples = np.random.default_rng(SEED).integers(0, len(truth), (draws, len(truth)))
    confusion = confusions(truth, chosen, len(LABELS))
    point, drawn = rates(confusion), rates(confusions(truth, chosen, len(LABELS), resamples))
    confidence, correct = scores.max(axis=1), scores.argmax(axis=1) == truth
    ece = [calibration_error(confidence[rows], correct[rows]) for rows in resamples]
    one_hot = np.eye(len(LABELS))[truth]
    result: dict[str, Any] = {
        "rows": len(truth),
        **{name: float(point[name]) for name in ("macro_f1", "weighted_f1", "accuracy")},
        "ece": calibration_error(confidence, correct),
        "brier": float(((scores - one_hot) ** 2).sum(axis=1).mean()),
        "confusion": confusion.astype(int).tolist(),
        "labels": {},
        "intervals": {
            "macro_f1": interval(drawn["macro_f1"]),
            "weighted_f1": interval(drawn["weighted_f1"]),
            "ece": interval(np.array(ece)),
        },
    }
    for at, label in enumerate(LABELS):
        is_label = truth == at
        result["labels"][label] = {
            "rows": int(is_label.sum()),
            **{name: float(point[name][at]) for name in ("precision", "recall", "f1")},
        }
        result["intervals"][f"{label}_f1"] = interval(drawn["f1"][:, at])
        if 0 < is_label.sum() < len(truth):
            result["labels"][label] |= {
                "pr_auc": float(average_precision_score(is_label, scores[:, at])),
                "roc_auc": float(roc_auc_score(is_label, scores[:, at])),
            }
    return result


def judge_scheme(
    scores: Floats, chosen: Ints, allowed: npt.NDArray[np.bool_], class_of: Ints, draws: int
) -> dict[str, Any]:
    """Return the figures of a corpus by its own classes: a class is the labels that it allows."""
    classes = int(class_of.max()) + 1
    truth = class_of[allowed.argmax(axis=1)]
    resamples = np.random.default_rng(SEED).integers(0, len(truth), (draws, len(truth)))
    point = rates(confusions(truth, class_of[chosen], classes))
    drawn = rates(confusions(truth, class_of[chosen], classes, resamples))
    result: dict[str, Any] = {
        "rows": len(truth),
        "classes": [[name for name, of in zip(LABELS, class_of, strict=True) if of == c] for c in range(classes)],
        "macro_f1": float(point["macro_f1"]),
        "f1": [float(value) for value in point["f1"]],
        "intervals": {"macro_f1": interval(drawn["macro_f1"])},
    }  # fmt: skip
    if classes == 2 and 0 < truth.sum() < len(truth):
        result["roc_auc"] = float(roc_auc_score(truth, scores[:, class_of == 1].sum(axis=1)))
    return result


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
    return {"label_changes": int(changed.sum()), "max_abs_difference": float(np.abs(one - other).max())}


def milliseconds(score: Callable[[list[str]], object], texts: list[str]) -> dict[str, float]:
    """Return the median and 95th percentile time to score one text, after a warm-up."""
    for text in texts[:20]:
        score([text])
    times = []
    for text in texts:
        started = time.perf_counter()
        score([text])
        times.append((time.perf_counter() - started) * 1e3)
    return {"p50": float(np.percentile(times, 50)), "p95": float(np.percentile(times, 95))}


def _length_slice(text: str) -> str:
    words = len(text.split())
    return "up to 8 words" if words <= 8 else "9 to 16 words" if words <= 16 else "over 16 words"


def evaluate(params: EvaluateParams, test: pd.DataFrame, heldout: pd.DataFrame) -> dict[str, Any]:
    """Return all metrics of models/candidate, and draw its pictures."""
    bundle = Bundle.load(CANDIDATE)
    parent = Bundle(bundle.manifest, bundle.tokenizer, FP32.read_bytes())
    texts = test["text"].tolist()
    truth = label_mask(test["labels"]).argmax(axis=1)
    scores, exact = bundle.score(texts), parent.score(texts)
    chosen = bundle.decide(scores)

    def figures(rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
        return judge(scores[rows], chosen[rows], truth[rows], params.bootstrap)

    source = test["source"].to_numpy()
    sources = load_sources()
    reference = next(name for name in sources if (source == name).any())
    length = np.array([_length_slice(text) for text in texts])
    metrics: dict[str, Any] = {
        "version": bundle.manifest.version,
        "reference": reference,
        "test": figures(np.ones(len(test), dtype=bool)),
        "sources": {str(name): figures(source == name) for name in pd.unique(source)},
        "lengths": {str(name): figures(length == name) for name in np.unique(length)},
    }

    heldout_texts = heldout["text"].tolist()
    heldout_allowed = label_mask(heldout["labels"]).reshape(-1, len(LABELS))
    heldout_scores = bundle.score(heldout_texts)
    heldout_chosen = bundle.decide(heldout_scores)
    metrics["heldout"] = {}
    for name in pd.unique(heldout["source"]):
        class_of = label_classes(sources[name].labels.values())
        rows = (heldout["source"] == name).to_numpy()
        if class_of is not None:
            metrics["heldout"][str(name)] = judge_scheme(
                heldout_scores[rows], heldout_chosen[rows], heldout_allowed[rows], class_of, params.bootstrap
            )  # fmt: skip
    metrics["identity"] = identity_gap(
        texts + heldout_texts,
        np.concatenate([chosen, heldout_chosen]),
        np.concatenate([label_mask(test["labels"]), heldout_allowed]),
    )

    alone = np.concatenate([bundle.score([text]) for text in texts])
    shuffled = np.random.default_rng(SEED).permutation(len(texts))
    together = np.empty_like(alone)
    for start in range(0, len(texts), 32):
        rows = shuffled[start : start + 32]
        together[rows] = bundle.infer(bundle.encode([texts[row] for row in rows]))
    metrics["batch_invariance"] = compare(bundle, alone, together)

    fp32 = rates(confusions(truth, parent.decide(exact), len(LABELS)))
    metrics["int8_against_fp32"] = compare(bundle, scores, exact) | {
        "fp32_macro_f1": float(fp32["macro_f1"]),
        "macro_f1_difference": float(metrics["test"]["macro_f1"] - fp32["macro_f1"]),
    }
    timed = texts[: params.latency_rows]
    metrics["milliseconds_a_text"] = {
        "int8": milliseconds(bundle.score, timed),
        "fp32": milliseconds(parent.score, timed),
    }
    metrics["megabytes"] = sum(path.stat().st_size for path in CANDIDATE.iterdir()) / 1e6

    rows = source == reference
    plots.confusion_matrix(np.array(metrics["sources"][reference]["confusion"]), PLOTS)
    plots.precision_recall(scores[rows], truth[rows], PLOTS)
    plots.reliability(scores[rows], truth[rows], PLOTS)
    plots.learning_curves(read_json(HISTORY)["log"], PLOTS)
    return metrics


def main() -> None:
    """Judge models/candidate."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    params = load_params("evaluate", EvaluateParams)
    test, heldout = (pd.read_parquet(PROCESSED / f"{name}.parquet") for name in ("test", "heldout"))
    try:
        metrics = evaluate(params, test, heldout)
    except BundleError as error:
        raise ArtifactError(str(error)) from None
    write_json(CANDIDATE / "metrics.json", metrics)
    counts = read_json(Path("reports/prepare.json"))
    card = model_card(read_json(CANDIDATE / "bundle.json"), metrics, counts)
    with whole(CANDIDATE / "MODEL_CARD.md") as scratch:
        scratch.write_text(card, encoding="utf-8")
    figures = metrics["sources"][metrics["reference"]]
    print(f"{metrics['reference']}: macro-F1 {figures['macro_f1']:.3f}, ECE {figures['ece']:.3f}")


if __name__ == "__main__":
    run_stage(main)
