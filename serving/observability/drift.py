"""The report of `tweet-tagger drift`, and the gauges that the service makes of it.

drift.json (written by the command)  ->  DriftReport  ->  DriftCollector  ->  /metrics

Every worker process reads the same file when it renders its metrics, so nothing has to be shared.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import BaseModel, ConfigDict, ValidationError

MAX_BYTES = 1_000_000
FIGURES = ("precision", "recall", "prevalence")
BOUNDS = ("value", "low", "high")

log = logging.getLogger("serving.drift")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Estimate(_Model):
    """A share with its 95 % interval; None where the reviews do not say."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class LabelEstimates(_Model):
    """What is estimated of one label."""

    precision: Estimate
    recall: Estimate
    prevalence: Estimate


class Estimates(_Model):
    """Estimates from random reviews.

    reviews: items that count; unsure, skipped: reviews without a label; ties: items without a
    majority.
    """

    reviews: int
    unsure: int
    skipped: int
    ties: int
    labels: dict[str, LabelEstimates]


class ColumnDrift(_Model):
    """One column's distance from the reference."""

    name: str
    method: str
    distance: float
    threshold: float
    drifted: bool


class DriftReport(_Model):
    """The content of drift.json.

    checked: seconds since 1970.
    rows: that were compared; found: of the model in the window; others: of other models.
    share: of the columns that drifted; drift: whether one did.
    left_out: columns that could not be compared.
    """

    schema_version: Literal[1] = 1
    checked: float
    days: int
    model_version: str
    reference: str
    reference_rows: int
    rows: int
    found: int
    others: int
    drift: bool
    share: float
    columns: list[ColumnDrift]
    left_out: list[str]
    estimates: Estimates


class DriftCollector(Collector):
    """Yields the gauges of the report in a file; nothing if there is none about the served model.

    A file that is half-written or not a report is ignored, with one line in the log.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._report: DriftReport | None = None
        self.version: str | None = None  # of the model that is served

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges; read the file if it has changed."""
        self._refresh()
        report = self._report
        if report is None or report.model_version != self.version:
            return
        yield _gauge("tagger_drift_detected", "1 if the log drifted", report.drift)
        yield _gauge("tagger_drift_share", "Share of the columns that drifted", report.share)
        yield _gauge(
            "tagger_drift_checked_timestamp_seconds", "Time of the last check", report.checked
        )
        yield _gauge(
            "tagger_estimate_reviews",
            "Random reviews behind the estimates",
            report.estimates.reviews,
        )
        for figure in FIGURES:
            yield _estimated(figure, report.estimates)

    def _refresh(self) -> None:
        try:
            status = self._path.stat() if self._path else None
        except OSError:
            status = None
        if self._path is None or status is None:
            self._seen = self._report = None
            return
        seen = status.st_ino, status.st_mtime_ns, status.st_size
        if seen != self._seen:
            self._seen = seen
            self._report = _read(self._path) or self._report


def _read(path: Path) -> DriftReport | None:
    try:
        with path.open("rb") as file:  # the beginning of a large file is no JSON
            return DriftReport.model_validate_json(file.read(MAX_BYTES))
    except (OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        log.warning("TAGGER_DRIFT_REPORT: %s is ignored, it is no drift report: %s", path, reason)
        return None


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


def _estimated(figure: str, estimates: Estimates) -> GaugeMetricFamily:
    text = f"Estimated {figure} of a label on real traffic, with its 95 % interval"
    family = GaugeMetricFamily(f"tagger_estimated_{figure}", text, labels=["label", "bound"])
    for label, row in estimates.labels.items():
        for bound in BOUNDS:
            value = getattr(getattr(row, figure), bound)
            if value is not None:
                family.add_metric([label, bound], value)
    return family
