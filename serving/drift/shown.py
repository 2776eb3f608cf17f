"""What `tweet-tagger drift` prints."""

from collections.abc import Sequence
from pathlib import Path

from serving.drift.columns import REFERENCE, Reference
from serving.observability.drift import DriftReport, Estimate, Estimates


def reference(made: Reference, out: Path) -> str:
    """Return the line about a reference that was made of the log."""
    return f"{made.columns.rows:,} rows of {made.origin} are the reference now: {out / REFERENCE}"


def report(made: DriftReport, out: Path) -> str:
    """Return the report as lines."""
    found = f"of {made.found:,} predictions of model {made.model_version}"
    lines = [
        f"reference  {made.reference_rows:,} rows of {made.reference}",
        f"log        {made.rows:,} {found} in {made.days} days; {made.others:,} of other models "
        "are left out",
        "",
    ]
    rows = [("column", "distance", "limit", "", "method")]
    rows += [
        (
            column.name,
            f"{column.distance:.3f}",
            f"{column.threshold:.3f}",
            "drift" if column.drifted else "",
            column.method,
        )
        for column in made.columns
    ]
    lines += _aligned(rows)
    if made.left_out:
        lines.append(f"left out: {', '.join(made.left_out)}; the log or the reference has no texts")
    drifted = ", ".join(column.name for column in made.columns if column.drifted)
    return "\n".join(
        [
            *lines,
            f"drift: {drifted}" if made.drift else "no drift",
            "",
            *_estimates(made.estimates),
            "",
            f"the report is {out / 'drift.html'}",
        ]
    )


def _estimates(made: Estimates) -> list[str]:
    if not made.reviews:
        return ["no random reviews: precision, recall and prevalence are unknown"]
    head = (
        f"estimates from {made.reviews:,} random reviews, with 95 % intervals "
        f"({made.unsure:,} unsure, {made.skipped:,} skipped, {made.ties:,} ties are not used)"
    )
    rows = [("label", "precision", "recall", "prevalence")]
    rows += [
        (name, _shown(row.precision), _shown(row.recall), _shown(row.prevalence))
        for name, row in made.labels.items()
    ]
    return [head, *_aligned(rows)]


def _shown(estimated: Estimate) -> str:
    if estimated.low is None or estimated.high is None:
        return "unknown"
    if estimated.value is None:
        return f"unknown (at most {estimated.high:.3f})"
    return f"{estimated.value:.3f} ({estimated.low:.3f} to {estimated.high:.3f})"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
