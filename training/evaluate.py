"""Stage 5: judge the candidate bundle on data that nothing was fitted to.

Scores the int8 file through the very code that serves it, and its fp32 parent through the same
code. Writes models/candidate/metrics.json, models/candidate/MODEL_CARD.md and reports/plots/*.png.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import confusion_matrix

from serving.bundle import Bundle, BundleError
from training import plots
from training.config import EvaluateParams, load_params, load_sources
from training.errors import ArtifactError, run_stage
from training.files import read_json, whole, write_json
from training.labels import LABELS, classes_by_source, label_mask
from training.measure import (
    Ints,
    batch_invariance,
    compare,
    f1_scores,
    identity_gap,
    judge,
    milliseconds,
)
from training.report import model_card

PROCESSED = Path("data/processed")
CANDIDATE = Path("models/candidate")
FP32 = Path("models/fp32.onnx")
HISTORY = Path("models/finetuned/history.json")
PLOTS = Path("reports/plots")


def evaluate(params: EvaluateParams, test: pd.DataFrame, heldout: pd.DataFrame) -> dict[str, Any]:
    """Return all metrics of models/candidate, and draw its pictures."""
    bundle = Bundle.load(CANDIDATE)
    parent = Bundle(bundle.manifest, bundle.tokenizer, FP32.read_bytes())
    rows = pd.concat([test, heldout], ignore_index=True)
    texts, allowed = rows["text"].tolist(), label_mask(rows["labels"])
    scores = bundle.score(texts)
    chosen = bundle.decide(scores)

    def figures(where: npt.NDArray[np.bool_], class_of: Ints) -> dict[str, Any]:
        return judge(scores[where], chosen[where], allowed[where], class_of, params.bootstrap)

    each_label = np.arange(len(LABELS))
    source, sources = rows["source"].to_numpy(), load_sources()
    in_test = np.arange(len(rows)) < len(test)
    tested = [name for name in sources if (in_test & (source == name)).any()]
    words = rows["text"].str.split().str.len()
    lengths = {"up to 8 words": words <= 8, "9 to 16 words": (words > 8) & (words <= 16)}
    lengths["over 16 words"] = words > 16
    schemes = classes_by_source(sources, heldout["source"])
    metrics: dict[str, Any] = {
        "version": bundle.manifest.version,
        "reference": tested[0],
        "test": figures(in_test, each_label),
        "sources": {name: figures(in_test & (source == name), each_label) for name in tested},
        "lengths": {
            name: figures(in_test & of.to_numpy(), each_label)
            for name, of in lengths.items()
            if (in_test & of).any()
        },
        "heldout": {name: figures(source == name, class_of) for name, class_of in schemes.items()},
        "identity": identity_gap(texts, chosen, allowed),
    }

    texts, scores_of_test = texts[: len(test)], scores[: len(test)]
    metrics["batch_invariance"] = batch_invariance(bundle, texts)

    exact = parent.score(texts)
    truth = allowed[: len(test)].argmax(axis=1)
    fp32 = f1_scores(confusion_matrix(truth, parent.decide(exact), labels=each_label).astype(float))
    metrics["int8_against_fp32"] = compare(bundle, scores_of_test, exact) | {
        "fp32_macro_f1": float(fp32["macro_f1"]),
        "macro_f1_difference": float(metrics["test"]["macro_f1"] - fp32["macro_f1"]),
    }
    timed = texts[: params.latency_rows]
    scorers = {"int8": bundle.score, "fp32": parent.score}
    metrics["milliseconds_a_text"] = milliseconds(scorers, timed)
    metrics["megabytes"] = sum(path.stat().st_size for path in CANDIDATE.iterdir()) / 1e6

    shown = source[: len(test)] == tested[0]
    plots.draw_scores(scores_of_test[shown], chosen[: len(test)][shown], truth[shown], PLOTS)
    plots.draw_history(read_json(HISTORY)["log"], PLOTS)
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
