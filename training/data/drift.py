"""Drift between two splits, reported by Evidently as HTML and JSON in reports/drift/."""

import contextlib
import io
import json
import warnings

import pandas as pd

from training.files import atomic_write
from training.paths import REPORTS

DRIFT = REPORTS / "drift"


def features(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that are compared: sizes and marks of texts, labels and sources."""
    text = frame["text"]
    return pd.DataFrame(
        {
            "characters": text.str.len(),
            "words": text.str.split().str.len(),
            "mentions": text.str.count("@"),
            "hashtags": text.str.count("#"),
            "links": text.str.count("https?://"),
            "capitals": text.str.count("[A-Z]") / text.str.len(),
            "labels": frame["labels"].map("|".join),
            "source": frame["source"],
        }
    )


def report_drift(current: pd.DataFrame, reference: pd.DataFrame, name: str, share: float) -> float:
    """Write Evidently's report on `current` against `reference`; return the share that drifted."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # Evidently's own use of numpy and pandas causes them.
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import DriftedColumnsCount
        from evidently.presets import DataDriftPreset, DataSummaryPreset

        new, old = features(current), features(reference)
        categorical = ["labels", "source"]
        definition = DataDefinition(
            numerical_columns=[column for column in new.columns if column not in categorical],
            categorical_columns=categorical,
        )
        report = Report([DataDriftPreset(drift_share=share), DataSummaryPreset()])
        snapshot = report.run(
            Dataset.from_pandas(new, data_definition=definition),
            Dataset.from_pandas(old, data_definition=definition),
        )
        with atomic_write(DRIFT / f"{name}.html") as scratch:
            snapshot.save_html(str(scratch))
        with atomic_write(DRIFT / f"{name}.json") as scratch:
            scratch.write_text(snapshot.json(), encoding="utf-8")
    metrics = json.loads((DRIFT / f"{name}.json").read_text(encoding="utf-8"))["metrics"]
    drifted = next(m for m in metrics if m["metric_name"].startswith(DriftedColumnsCount.__name__))
    return float(drifted["value"]["share"])
