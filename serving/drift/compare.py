"""The comparison of two sets of columns, by Evidently; it needs the extra `drift`.

A column drifts when its distance from the reference is larger than both a size that matters and
what chance alone can give. Evidently's p-values do not do: with 20,000 rows they find differences
that matter to nobody. docs/experiments.md has the false alarms that were measured.
"""

import contextlib
import io
import math
import warnings
from dataclasses import dataclass
from typing import Any

from serving.bundle import LABELS
from serving.drift.columns import CATEGORIES, Columns
from serving.observability.drift import ColumnDrift


@dataclass(frozen=True)
class Distance:
    """How a column is compared.

    method: of Evidently: the Jensen-Shannon distance, or Wasserstein's in standard deviations of
        the reference.
    matters: the smallest distance that counts.
    chance: times sqrt(1/rows + 1/reference rows): what sampling alone may give.
    """

    method: str
    matters: float
    chance: float

    def threshold(self, rows: int, reference_rows: int) -> float:
        """Return the distance from which the column drifts."""
        noise = math.sqrt(1 / rows + 1 / reference_rows)
        return round(max(self.matters, self.chance * noise), 4)


SHARES = Distance("jensenshannon", 0.1, 1.5)
NUMBERS = Distance("wasserstein", 0.2, 4.0)
DISTANCES = {
    "label": Distance("jensenshannon", 0.07, 1.5),
    **dict.fromkeys((*LABELS, "characters"), NUMBERS),
    # Nearly always 0, so that standard deviations would say nothing.
    "unknown": SHARES,
    "language": SHARES,
}
METHODS = {"jensenshannon": "Jensen-Shannon", "wasserstein": "Wasserstein (normed)"}


def compare(current: Columns, reference: Columns) -> tuple[list[ColumnDrift], str]:
    """Compare the columns that both have; return them, and Evidently's report as one HTML page."""
    ours, theirs = current.present(), reference.present()
    names = [name for name in DISTANCES if name in ours and name in theirs]
    thresholds = {name: DISTANCES[name].threshold(current.rows, reference.rows) for name in names}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # Evidently's own use of numpy and pandas causes them.
        warnings.simplefilter("ignore")
        distances, page = _evidently(
            {name: ours[name] for name in names},
            {name: theirs[name] for name in names},
            thresholds,
        )
    drifts = [
        ColumnDrift(
            name=name,
            method=METHODS[DISTANCES[name].method],
            distance=round(distance, 4),
            threshold=thresholds[name],
            drifted=distance >= thresholds[name],
        )
        for name, distance in zip(names, distances, strict=True)
    ]
    return drifts, page


def _evidently(
    ours: dict[str, Any], theirs: dict[str, Any], thresholds: dict[str, float]
) -> tuple[list[float], str]:
    """Return the distance of each column, in the order of `thresholds`, and the HTML page."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    definition = DataDefinition(
        numerical_columns=[name for name in thresholds if name not in CATEGORIES],
        categorical_columns=[name for name in thresholds if name in CATEGORIES],
    )
    report = Report(
        [
            ValueDrift(column=name, method=DISTANCES[name].method, threshold=threshold)
            for name, threshold in thresholds.items()
        ]
    )
    snapshot = report.run(
        *(
            Dataset.from_pandas(pd.DataFrame(columns), data_definition=definition)
            for columns in (ours, theirs)
        )
    )
    distances = [float(metric["value"]) for metric in snapshot.dict()["metrics"]]
    return distances, str(snapshot.get_html_str(as_iframe=False))
