"""Before a team moves: which threshold here replaces one of Perspective's, and what changes.

    tweet-tagger map-thresholds scored.csv     columns: text, and TOXICITY or other attributes

For each attribute and each of Perspective's thresholds the report has the share of comments that it
flags, the threshold here that flags the same share, how often both then agree, and Cohen's kappa,
each with a bootstrap interval over the comments; then the comments whose ranks differ most.
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
    """A value and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Row(NamedTuple):
    """What replaces one of Perspective's thresholds."""

    theirs: float
    share: float  # of comments that it flags
    ours: Figure  # the threshold here that flags as many
    agreement: Figure  # share of comments on which both agree
    kappa: Figure  # agreement beyond chance


class Scored(NamedTuple):
    """A file's comments, and Perspective's scores by attribute; NaN where a score is missing."""

    texts: list[str]
    scores: dict[str, Floats]


class Column(NamedTuple):
    """The comments that Perspective scored for an attribute."""

    name: str
    labels: Sequence[str]  # the labels whose probabilities make up the attribute here
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
                raise ThresholdsError(f"{path}: no column {' or '.join(TEXT_COLUMNS)}")
            columns = {name: names[name.lower()] for name in attributes if name.lower() in names}
            if not columns:
                raise ThresholdsError(f"{path}: no column {' or '.join(attributes)}")
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

    It is midway between the last flagged score and the first that is not; NaN if all or none are
    flagged, because many thresholds would do that.
    """
    flagged = int((theirs >= threshold).sum())
    if flagged in (0, len(ours)):
        return float("nan")
    first, last = np.partition(ours, [len(ours) - flagged - 1, len(ours) - flagged])[
        [len(ours) - flagged - 1, len(ours) - flagged]
    ]
    # Equal scores can only be flagged together.
    return float(first if first == last else (first + last) / 2)


def agreement(
    theirs: Floats, ours: Floats, threshold: float, matched: float
) -> tuple[float, float]:
    """Return the share of equal decisions, and Cohen's kappa."""
    there, here = theirs >= threshold, ours >= matched
    same = float((there == here).mean())
    chance = float(there.mean() * here.mean() + (1 - there.mean()) * (1 - here.mean()))
    return same, 1.0 if chance == 1 else (same - chance) / (1 - chance)


def compare(theirs: Floats, ours: Floats, thresholds: Sequence[float]) -> list[Row]:
    """Return what replaces each of Perspective's thresholds.

    Args:
        theirs: Perspective's scores [comments].
        ours: the same comments' scores here [comments].
        thresholds: Perspective's.
    """
    draw = np.random.default_rng(SEED)
    samples = [[_figures(theirs, ours, threshold) for threshold in thresholds]]
    for _ in range(RESAMPLES):
        drawn = draw.integers(0, len(ours), len(ours))
        there, here = theirs[drawn], ours[drawn]
        samples.append([_figures(there, here, threshold) for threshold in thresholds])
    figures = np.array(samples)  # [1 + resamples, thresholds, 3]
    return [
        Row(
            threshold,
            float((theirs >= threshold).mean()),
            *[_figure(figures[:, i, nth]) for nth in range(3)],
        )
        for i, threshold in enumerate(thresholds)
    ]


def _figures(theirs: Floats, ours: Floats, threshold: float) -> tuple[float, float, float]:
    matched = matching(theirs, ours, threshold)
    return (matched, *agreement(theirs, ours, threshold, matched))


def _figure(values: Floats) -> Figure:
    """Return the first value, the file's own, with the interval of the others, the resamples."""
    if np.isnan(values[0]):
        return Figure(*[float("nan")] * 3)
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return Figure(float(values[0]), float(low), float(high))


def disagreements(theirs: Floats, ours: Floats) -> list[int]:
    """Return the comments whose ranks differ most, the largest difference first."""
    apart = np.abs(_ranks(theirs) - _ranks(ours))
    return [int(i) for i in np.argsort(-apart, kind="stable")[:SHOWN]]


def _ranks(scores: Floats) -> Floats:
    """Return each score's rank from 0 to 1; equal scores share one."""
    ordered = np.sort(scores)
    between = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return np.asarray(between / (2 * len(scores)))


def report(column: Column, thresholds: Sequence[float]) -> str:
    """Return the report on one attribute, as text."""
    lines = [
        f"{column.name}: Perspective's against p({') + p('.join(column.labels)}) here, "
        f"{len(column.texts)} comments",
        "",
        "  there ≥    flags   here ≥                   agreement                 kappa",
    ]
    for row in compare(column.theirs, column.ours, thresholds):
        start = f"  {row.theirs:<8.3g} {row.share:6.1%}   "
        if np.isnan(row.ours.value):
            lines.append(f"{start}flags all or none: no threshold corresponds")
            continue
        lines.append(
            f"{start}{_range(row.ours, '.3f'):<22}   {_range(row.agreement, '.1%'):<23}   "
            f"{_range(row.kappa, '.2f')}"
        )
    lines += ["", "  largest differences in rank", "  there   here"]
    for i in disagreements(column.theirs, column.ours):
        shown = " ".join(column.texts[i].split())
        text = "".join(letter if letter.isprintable() else "·" for letter in shown)[:80]
        lines.append(f"  {column.theirs[i]:.3f}   {column.ours[i]:.3f}   {text}")
    return "\n".join(lines)


def _range(figure: Figure, form: str) -> str:
    return f"{figure.value:{form}} ({figure.low:{form}} to {figure.high:{form}})"


def report_file(path: Path, bundle: Bundle, table: Attributes, thresholds: Sequence[float]) -> str:
    """Return the report on a file; ThresholdsError if the file cannot be used."""
    scored = read(path, table.attributes)
    by_label = [
        {label: round(float(value), 6) for label, value in zip(LABELS, row, strict=True)}
        for row in bundle.score(scored.texts)
    ]
    parts = [f"{bundle.manifest.name} {bundle.manifest.version}; in brackets: 95 % intervals"]
    for name, column in scored.scores.items():
        known = np.flatnonzero(~np.isnan(column))
        if not len(known):
            raise ThresholdsError(f"{path}: {name}: no comment has a score")
        theirs, texts = column[known], [scored.texts[i] for i in known]
        ours = np.array([table.score(name, by_label[i]) for i in known])
        labels = [label for label in LABELS if label in table.attributes[name]]
        parts.append(report(Column(name, labels, texts, theirs, ours), thresholds))
    return "\n\n".join(parts)
