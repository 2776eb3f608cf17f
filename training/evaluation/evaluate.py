"""Stage 5: measure the candidate bundle on data that nothing was fitted to.

    models/candidate, test, external -> models/candidate/metrics.json, MODEL_CARD.md, reports/plots

The int8 file is scored through the code that serves it, and so is its fp32 parent.
"""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from serving.bundle import Bundle, BundleError
from training.config import EvaluateParams, load_params, load_profile, load_sources
from training.errors import ArtifactError, run_stage
from training.evaluation import plots
from training.evaluation.measure import (
    ALL_LABELS,
    Measurement,
    compare_with_fp32,
    evaluation_rows,
    measure,
)
from training.evaluation.metrics import Ints, classification_metrics, milliseconds
from training.evaluation.model_card import model_card
from training.files import atomic_write, read_json, write_json
from training.paths import CANDIDATE, FINETUNED, FP32, REPORTS

PLOTS = REPORTS / "plots"


def evaluate(params: EvaluateParams, rows: pd.DataFrame) -> dict[str, Any]:
    """Return all metrics of models/candidate, and draw its plots.

    Args:
        params: the section `evaluate`.
        rows: see `evaluation_rows`.
    """
    bundle = Bundle.load(CANDIDATE)
    parent = Bundle(bundle.manifest, bundle.tokenizer, FP32.read_bytes())
    measured = measure(bundle, rows, load_sources())
    metrics = {
        "version": bundle.manifest.version,
        "reference": measured.reference,
        **_by_part(measured, params.bootstrap),
        "identity": measured.identity,
        "batch_invariance": measured.batch,
        "int8_against_fp32": compare_with_fp32(bundle, parent, measured, measured.in_test),
        "milliseconds_a_text": milliseconds(
            {"int8": bundle.score, "fp32": parent.score},
            measured.test_texts[: params.latency_rows],
        ),
        "megabytes": sum(path.stat().st_size for path in CANDIDATE.iterdir()) / 1e6,
    }
    shown = measured.in_test & (measured.source == measured.reference)
    plots.draw_scores(measured.scores[shown], measured.chosen[shown], measured.truth[shown], PLOTS)
    plots.draw_history(read_json(FINETUNED / "history.json")["log"], PLOTS)
    return metrics


def _by_part(measured: Measurement, draws: int) -> dict[str, Any]:
    """Return the metrics of the whole test, and by source, by length and by external source."""

    def part(rows: npt.NDArray[np.bool_], class_of: Ints = ALL_LABELS) -> dict[str, Any]:
        scores, chosen, allowed = (
            measured.scores[rows],
            measured.chosen[rows],
            measured.allowed[rows],
        )
        return classification_metrics(scores, chosen, allowed, class_of, draws)

    in_test, source = measured.in_test, measured.source
    words = np.array([len(text.split()) for text in measured.texts])
    lengths = {
        "up to 8 words": words <= 8,
        "9 to 16 words": (words > 8) & (words <= 16),
        "over 16 words": words > 16,
    }
    tested = dict.fromkeys(name for name in load_sources() if (in_test & (source == name)).any())
    return {
        "test": part(in_test),
        "sources": {name: part(in_test & (source == name)) for name in tested},
        "lengths": {
            name: part(in_test & rows) for name, rows in lengths.items() if (in_test & rows).any()
        },
        "external": {
            name: part(source == name, class_of) for name, class_of in measured.external.items()
        },
    }


def main() -> None:
    """Evaluate models/candidate."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        metrics = evaluate(load_params("evaluate", EvaluateParams), evaluation_rows())
    except BundleError as error:
        raise ArtifactError(str(error)) from None
    write_json(CANDIDATE / "metrics.json", metrics)
    counts = read_json(REPORTS / "prepare.json")
    manifest, missing = read_json(CANDIDATE / "bundle.json"), load_profile().missing
    card = model_card(manifest, metrics, counts, missing)
    with atomic_write(CANDIDATE / "MODEL_CARD.md") as scratch:
        scratch.write_text(card, encoding="utf-8")
    reference = metrics["sources"][metrics["reference"]]
    macro_f1, ece = reference["macro_f1"], reference["ece"]
    print(f"{metrics['reference']}: macro-F1 {macro_f1:.3f}, ECE {ece:.3f}")


if __name__ == "__main__":
    run_stage(main)
