"""Before a team switches: which threshold here flags what Perspective's flagged, and who disagrees.

    tweet-tagger map-thresholds scored.csv     # columns: text, and TOXICITY or others

For each attribute and each threshold in use there: the share of the comments that it flags, the
threshold here that flags the same share, how often both then say the same, and Cohen's kappa, each
with the interval of a bootstrap over the comments; then the comments whose ranks differ most. It
scores with a bundle, in this process; it knows no service and writes no file.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from serving.bundle import LABELS, Bundle
from serving.compat.perspective.translate import Attributes

Floats = npt.NDArray[np.float64]
TEXT_COLUMNS = ("text", "comment", "comment_text", "body")
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
RESAMPLES, SEED = 1000, 0
SHOWN = 10


class ThresholdsError(Exception):
    """The file cannot be used; the text names the column or the line."""


class Figure(NamedTuple):
    """A value and the interval that holds it in 95 of 100 resamples."""

    value: float
    low: float
    high: float


class Row(NamedTuple):
    """What one of Perspective's thresholds means here."""

    theirs: float
    share: float  # of the comments that it flags
    ours: Figure  # the threshold here that flags as many
    same: Figure  # share of the comments of which both say the same
    kappa: Figure  # that, beyond chance


class Scored(NamedTuple):
    """A file's comments, and Perspective's scores by attribute; NaN where there is none."""

    texts: list[str]
    scores: dict[str, Floats]


class Column(NamedTuple):
    """The comments that Perspective scored for an attribute."""

    name: str
    labels: Sequence[str]  # ours, whose probabilities are its score here
    texts: Sequence[str]
    theirs: Floats
    ours: Floats


def read(path: Path, attributes: Iterable[str]) -> Scored:
    """Read a CSV file with a column of texts and a column for each attribute.

    Raises:
        ThresholdsError: a column is missing, or a value is no score.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
            text = next((names[name] for name in TEXT_COLUMNS if name in names), None)
            if text is None:
                raise ThresholdsError(f"{path}: no column is called {' or '.join(TEXT_COLUMNS)}")
            columns = {name: names[name.lower()] for name in attributes if name.lower() in names}
            if not columns:
                raise ThresholdsError(f"{path}: no column is called {' or '.join(attributes)}")
            texts: list[str] = []
            scores: dict[str, list[float]] = {name: [] for name in columns}
            for row in reader:
                if not (row[text] or "").strip():
                    continue
                texts.append(row[text])
                for name, column in columns.items():
                    scores[name].append(_score(row[column], f"{path}:{reader.line_num}: {name}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ThresholdsError(f"{path}: {error}") from None
    if not texts:
        raise ThresholdsError(f"{path}: no comments")
    return Scored(texts, {name: np.array(column) for name, column in scores.items()})


def _score(cell: str | None, where: str) -> float:
    if not (cell or "").strip():
        return float("nan")
    try:
        value = float(cell or "")
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise ThresholdsError(f"{where}: got {cell!r}, wanted a score from 0 to 1")
    return value


def matching(theirs: Floats, ours: Floats, threshold: float) -> float:
    """Return the threshold that flags as many of `ours` as `threshold` flags of `theirs`.

    It lies midway between the last score that it flags and the first that it does not; NaN if all
    or none are flagged, for then any beyond the range would do.
    """
    flagged = int((theirs >= threshold).sum())
    if flagged in (0, len(ours)):
        return float("nan")
    first, last = np.partition(ours, [len(ours) - flagged - 1, len(ours) - flagged])[
        [len(ours) - flagged - 1, len(ours) - flagged]
    ]
    # Of equal scores none can be flagged alone.
    return float(first if first == last else (first + last) / 2)


def agreement(
    theirs: Floats, ours: Floats, threshold: float, matched: float
) -> tuple[float, float]:
    """Return the share of equal verdicts, and Cohen's kappa."""
    there, here = theirs >= threshold, ours >= matched
    same = float((there == here).mean())
    chance = float(there.mean() * here.mean() + (1 - there.mean()) * (1 - here.mean()))
    return same, 1.0 if chance == 1 else (same - chance) / (1 - chance)


def compare(theirs: Floats, ours: Floats, thresholds: Sequence[float]) -> list[Row]:
    """Return what each of Perspective's thresholds means here.

    Args:
        theirs: Perspective's scores [comments].
        ours: the same comments' scores here [comments].
        thresholds: in use there.
    """
    draw = np.random.default_rng(SEED)
    found = [[_figures(theirs, ours, threshold) for threshold in thresholds]]
    for _ in range(RESAMPLES):
        drawn = draw.integers(0, len(ours), len(ours))
        there, here = theirs[drawn], ours[drawn]
        found.append([_figures(there, here, threshold) for threshold in thresholds])
    figures = np.array(found)  # [1 + resamples, thresholds, 3]
    return [
        Row(
            threshold,
            float((theirs >= threshold).mean()),
            *[_figure(figures[:, at, nth]) for nth in range(3)],
        )
        for at, threshold in enumerate(thresholds)
    ]


def _figures(theirs: Floats, ours: Floats, threshold: float) -> tuple[float, float, float]:
    matched = matching(theirs, ours, threshold)
    return (matched, *agreement(theirs, ours, threshold, matched))


def _figure(values: Floats) -> Figure:
    """Make a figure of the file's own value, which is the first, and those of the resamples."""
    if np.isnan(values[0]):
        return Figure(*[float("nan")] * 3)
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return Figure(float(values[0]), float(low), float(high))


def disagreements(theirs: Floats, ours: Floats) -> list[int]:
    """Return the comments whose ranks differ most, the farthest first."""
    apart = np.abs(_ranks(theirs) - _ranks(ours))
    return [int(at) for at in np.argsort(-apart, kind="stable")[:SHOWN]]


def _ranks(scores: Floats) -> Floats:
    """Return each score's rank from 0 to 1; equal scores share one."""
    ordered = np.sort(scores)
    between = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return np.asarray(between / (2 * len(scores)))


def report(column: Column, thresholds: Sequence[float]) -> str:
    """Return what is found of one attribute, as text."""
    lines = [
        f"{column.name}: Perspective's against p({') + p('.join(column.labels)}) here, "
        f"{len(column.texts)} comments",
        "",
        "  there ≥    flags   here ≥                   say the same              kappa",
    ]
    for row in compare(column.theirs, column.ours, thresholds):
        found = f"  {row.theirs:<8.3g} {row.share:6.1%}   "
        if np.isnan(row.ours.value):
            lines.append(f"{found}all or none: no threshold follows")
            continue
        lines.append(
            f"{found}{_range(row.ours, '.3f'):<22}   {_range(row.same, '.1%'):<23}   "
            f"{_range(row.kappa, '.2f')}"
        )
    lines += ["", "  farthest apart in rank", "  there   here"]
    for at in disagreements(column.theirs, column.ours):
        shown = " ".join(column.texts[at].split())
        text = "".join(letter if letter.isprintable() else "·" for letter in shown)[:80]
        lines.append(f"  {column.theirs[at]:.3f}   {column.ours[at]:.3f}   {text}")
    return "\n".join(lines)


def _range(figure: Figure, form: str) -> str:
    return f"{figure.value:{form}} ({figure.low:{form}} to {figure.high:{form}})"


def report_file(path: Path, bundle: Bundle, table: Attributes, thresholds: Sequence[float]) -> str:
    """Return the whole report on a file; ThresholdsError if it cannot be used."""
    scored = read(path, table.attributes)
    named = [
        {label: round(float(value), 6) for label, value in zip(LABELS, row, strict=True)}
        for row in bundle.score(scored.texts)
    ]
    parts = [f"{bundle.manifest.name} {bundle.manifest.version}; in brackets: 95 % of resamples"]
    for name, column in scored.scores.items():
        known = np.flatnonzero(~np.isnan(column))
        if not len(known):
            raise ThresholdsError(f"{path}: {name}: no comment has a score")
        theirs, texts = column[known], [scored.texts[at] for at in known]
        ours = np.array([table.score(name, named[at]) for at in known])
        labels = [label for label in LABELS if label in table.attributes[name]]
        parts.append(report(Column(name, labels, texts, theirs, ours), thresholds))
    return "\n\n".join(parts)
