"""Which threshold here flags as many comments as one of Perspective's, and where both disagree.

    table (text, TOXICITY or others) -> read -> Bundle.score -> compare, farthest_apart -> report

The report has, for each attribute and each of Perspective's thresholds, the share of the comments
that it flags, the threshold here that flags the same share, how often the two decisions agree, and
Cohen's kappa, with 95 % intervals from a paired bootstrap over the comments; then the comments that
the two rank farthest apart. It scores with a bundle, in this process.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from serving.bundle import ATTRIBUTES, Bundle
from serving.compat.perspective.translate import Attributes
from serving.tables import TableError, decimal_point, describe, no_column, read_table

Floats = npt.NDArray[np.float64]
TEXT_COLUMNS = ("text", "comment", "comment_text", "body")
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
RESAMPLES, SEED = 1000, 0
SHOWN = 10  # comments that the two rank farthest apart
FEW = 10  # with fewer comments on one side of a threshold, a bootstrap's interval means nothing


class ThresholdsError(Exception):
    """The file cannot be used; the message names the column or the rows."""


class Estimate(NamedTuple):
    """A value and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Row(NamedTuple):
    """What one of Perspective's thresholds means here."""

    theirs: float
    share: float  # of the comments that it flags
    ours: Estimate  # the threshold here that flags the same share
    agreement: Estimate  # share of the comments with equal decisions
    kappa: Estimate


class Scored(NamedTuple):
    """A file's comments, and Perspective's scores by attribute; NaN where a cell is empty.

    blank: the number of rows without a text, which are left out.
    """

    texts: list[str]
    scores: dict[str, Floats]
    blank: int


def read(path: Path, attributes: Iterable[str]) -> Scored:
    """Read a table with a column of texts and a column for each attribute; see `read_table`.

    Raises:
        ThresholdsError: the file cannot be read, a column is missing, or a value is no score.
    """
    names = tuple(attributes)
    try:
        table = read_table(path)
    except TableError as error:
        raise ThresholdsError(str(error)) from None
    columns: dict[str, int] = {}
    for i, column in enumerate(table.columns):
        if column and columns.setdefault(column.lower(), i) != i:
            raise ThresholdsError(f"{path}: the header has {column!r} twice, in other letters")
    text = next((columns[name] for name in TEXT_COLUMNS if name in columns), None)
    scored = {name: columns[name.lower()] for name in names if name.lower() in columns}
    if text is None or not scored:
        wanted = TEXT_COLUMNS if text is None else names
        raise ThresholdsError(no_column(path, wanted, table.columns))
    texts: list[str] = []
    scores: list[list[float | None]] = []
    wrong: list[tuple[str, str]] = []
    for place, row in zip(table.places, table.rows, strict=True):
        comment = "" if row[text] is None else row[text]
        if not isinstance(comment, str):
            wrong.append((place, f"{table.columns[text]}: got {comment!r}"[:100] + ", no text"))
            continue
        if not comment.strip():
            continue
        texts.append(comment)
        scores.append([_score(row[i]) for i in scored.values()])
        if None in scores[-1]:
            name = list(scored)[scores[-1].index(None)]
            wrong.append((place, f"{name}: got {row[scored[name]]!r}"[:120]))
    if wrong:
        total = len(table.rows)
        raise ThresholdsError(describe(path, wrong, total, "a score from 0 to 1"))
    if not texts:
        raise ThresholdsError(f"{path}: no comments")
    columns_of_scores = np.array(scores, dtype=np.float64).T
    by_name = dict(zip(scored, columns_of_scores, strict=True))
    return Scored(texts, by_name, len(table.rows) - len(texts))


def _score(cell: object) -> float | None:
    """Return a cell's score; NaN if it is empty, None if it has none."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return float("nan")
    try:
        # Python's float takes 0_9 as 9.
        value = float(str(decimal_point(cell)).replace("_", "x"))
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def measure(theirs: Floats, ours: Floats, thresholds: Floats) -> Floats:
    """Return, for each threshold, the matching one here, the agreement, and Cohen's kappa.

    The matching threshold lies midway between the last score that it flags and the first that it
    does not. All three are NaN where Perspective flags all or none: then many thresholds match.

    Args:
        theirs: Perspective's scores [comments].
        ours: the scores here [comments].
        thresholds: Perspective's [thresholds].

    Returns:
        [3, thresholds]
    """
    theirs_flag = theirs >= thresholds[:, None]  # [thresholds, comments]
    share = theirs_flag.mean(axis=1)
    matching = np.quantile(ours, 1 - share, method="midpoint")
    matching[(share == 0) | (share == 1)] = np.nan
    ours_flag = ours >= matching[:, None]
    ours_share = ours_flag.mean(axis=1)
    agreement = (theirs_flag == ours_flag).mean(axis=1)
    by_chance = share * ours_share + (1 - share) * (1 - ours_share)
    with np.errstate(invalid="ignore"):  # 0 / 0 where all or none are flagged
        kappa = (agreement - by_chance) / (1 - by_chance)
    return np.where(np.isnan(matching), np.nan, [matching, agreement, kappa])


def compare(theirs: Floats, ours: Floats, thresholds: Sequence[float]) -> list[Row]:
    """Return what each of Perspective's thresholds means here; see `measure`.

    Thresholds at which it flags all comments or none have no row.
    """
    shares = {level: float((theirs >= level).mean()) for level in thresholds}
    levels = np.array([level for level, share in shares.items() if 0 < share < 1])
    if not len(levels):
        return []
    values = measure(theirs, ours, levels)
    draw, count = np.random.default_rng(SEED), len(theirs)
    resamples = (draw.integers(0, count, count) for _ in range(RESAMPLES))
    # scipy.stats.bootstrap has no interval if one resample flags all or none; here it is left out.
    resampled = [measure(theirs[drawn], ours[drawn], levels) for drawn in resamples]
    low, high = np.nanquantile(resampled, [0.025, 0.975], axis=0)
    estimates = np.stack([values, low, high], axis=-1).tolist()  # [3, thresholds, 3]
    return [
        Row(level, shares[level], *(Estimate(*row[i]) for row in estimates))
        for i, level in enumerate(levels.tolist())
    ]


def farthest_apart(theirs: Floats, ours: Floats) -> list[int]:
    """Return the indices of the comments whose ranks differ most, the largest difference first."""
    difference = np.abs(rankdata(theirs) - rankdata(ours))
    return [int(i) for i in np.argsort(-difference, kind="stable")[:SHOWN]]


def report_file(path: Path, bundle: Bundle, table: Attributes, thresholds: Sequence[float]) -> str:
    """Return the report on a file; ThresholdsError if it cannot be used."""
    scored = read(path, table.names)
    rounded = bundle.score(scored.texts).attributes.astype(float).round(6)  # as the service does
    parts = [f"{bundle.manifest.name} {bundle.manifest.version}; in brackets: 95 % intervals"]
    if scored.blank:
        parts[0] += f"; rows without a text, left out: {scored.blank:,}"
    for name, column in scored.scores.items():
        known = np.flatnonzero(~np.isnan(column))
        if not len(known):
            raise ThresholdsError(f"{path}: {name}: no comment has a score")
        texts = [scored.texts[i] for i in known]
        ours = rounded[known, ATTRIBUTES.index(table.resolve(name))]
        title = f"{name}: Perspective's against ours, {len(texts)} comments"
        parts += [title, report(texts, column[known], ours, thresholds)]
    return "\n\n".join(parts)


def report(texts: Sequence[str], theirs: Floats, ours: Floats, thresholds: Sequence[float]) -> str:
    """Return the report on an attribute."""
    rows = compare(theirs, ours, thresholds)
    lines = ["  there ≥    flags   here ≥                   agreement                 kappa"]
    for row in rows:
        few = round(min(row.share, 1 - row.share) * len(texts)) < FEW
        lines.append(
            f"  {row.theirs:<8.3g} {row.share:6.1%}   {_show(row.ours, '.3f', few):<22}   "
            f"{_show(row.agreement, '.1%', few):<23}   {_show(row.kappa, '.2f', few)}"
        )
    for level in sorted({*thresholds} - {row.theirs for row in rows}):
        lines.append(f"  {level:<8.3g} flags {'all' if theirs.min() >= level else 'no'} comments")
    if any("(too few)" in line for line in lines):
        lines.append(f"  too few: fewer than {FEW} comments on one side, so no interval")
    lines += ["", "  farthest apart in rank", "  there   here"]
    for i in farthest_apart(theirs, ours):
        text = "".join(c if c.isprintable() else "·" for c in " ".join(texts[i].split()))
        lines.append(f"  {theirs[i]:.3f}   {ours[i]:.3f}   {text[:80]}")
    return "\n".join(lines)


def _show(estimate: Estimate, form: str, few: bool) -> str:
    interval = "too few" if few else f"{estimate.low:{form}} to {estimate.high:{form}}"
    return f"{estimate.value:{form}} ({interval})"
