"""Stage 5: measure the candidate bundle on data that nothing was fitted to.

    models/candidate, test, external, configs/behaviour.yaml
        -> models/candidate/metrics.json, MODEL_CARD.md, drift_reference.json, reports/plots

The int8 file is scored through the code that serves it, and so is its fp32 parent.
"""

import logging
from typing import Any

import pandas as pd

from serving.bundle import Bundle, BundleError
from serving.drift.columns import REFERENCE, Reference
from training.config import EvaluateParams, load_params, load_profile, load_sources
from training.errors import ArtifactError, run_stage
from training.evaluation import plots
from training.evaluation.behaviour import load_suite
from training.evaluation.drift_reference import drift_reference
from training.evaluation.measure import (
    compare_with_fp32,
    evaluation_rows,
    figures,
    measure,
    megabytes,
)
from training.evaluation.metrics import milliseconds
from training.evaluation.model_card import model_card
from training.files import atomic_write, read_json, write_json
from training.paths import CANDIDATE, FINETUNED, FP32, REPORTS

PLOTS = REPORTS / "plots"


def evaluate(params: EvaluateParams, rows: pd.DataFrame) -> tuple[dict[str, Any], Reference]:
    """Return all metrics of models/candidate and its drift reference, and draw its plots.

    Args:
        params: the section `evaluate`.
        rows: see `evaluation_rows`.
    """
    bundle = Bundle.load(CANDIDATE)
    parent = Bundle(bundle.manifest, bundle.tokenizer, FP32.read_bytes())
    measured = measure(bundle, rows, load_sources(), load_suite())
    metrics = {
        "version": bundle.manifest.version,
        **figures(measured, params.bootstrap),
        "int8_against_fp32": compare_with_fp32(bundle, parent, measured, params.bootstrap),
        "milliseconds_a_text": milliseconds(
            {"int8": bundle.score, "fp32": parent.score},
            measured.test_texts[: params.latency_rows],
        ),
        "megabytes": megabytes(CANDIDATE),
    }
    shown = measured.labelled & (measured.source == measured.reference)
    labels, truth = measured.scores.labels[shown], measured.truth[shown]
    plots.draw_scores(labels, measured.chosen[shown], truth, PLOTS)
    plots.draw_history(read_json(FINETUNED / "history.json")["log"], PLOTS)
    return metrics, drift_reference(bundle, measured)


def main() -> None:
    """Evaluate models/candidate."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        metrics, reference = evaluate(load_params("evaluate", EvaluateParams), evaluation_rows())
    except BundleError as error:
        raise ArtifactError(str(error)) from None
    write_json(CANDIDATE / "metrics.json", metrics)
    with atomic_write(CANDIDATE / REFERENCE) as scratch:
        scratch.write_text(reference.dumps(), encoding="utf-8")
    counts = read_json(REPORTS / "prepare.json")
    manifest, missing = read_json(CANDIDATE / "bundle.json"), load_profile().missing
    card = model_card(manifest, metrics, counts, missing)
    with atomic_write(CANDIDATE / "MODEL_CARD.md") as scratch:
        scratch.write_text(card, encoding="utf-8")
    source = metrics["sources"][metrics["reference"]]
    macro_f1, ece = source["macro_f1"], source["ece"]
    print(f"{metrics['reference']}: macro-F1 {macro_f1:.3f}, ECE {ece:.3f}")


if __name__ == "__main__":
    run_stage(main)
