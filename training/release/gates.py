"""The gates: may a candidate replace production? A pure comparison of two reports.

    candidate Report, production Report, configs/gates.yaml -> evaluate_gates -> GateResults

A limit names a figure by its path in metrics.json, in which `*` stands for any characters; a figure
that was not measured fails. `promote` measures both bundles on the same rows in one run. Without a
production model the gates that compare with it are left out.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import binomtest

from training.evaluation.behaviour import Outcome
from training.evaluation.metrics import (
    Floats,
    Ints,
    Ranking,
    areas,
    bootstrap_interval,
    macro_f1,
)

Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
# By path of a figure, in which `*` stands for any characters.
Limits = dict[str, Finite]
DRAWS = 2000  # bootstrap resamples


class Gates(BaseModel):
    """The content of configs/gates.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    floors: Limits
    ceilings: Limits
    significance: Annotated[float, Field(gt=0, lt=0.5)]
    max_macro_f1_drop: Share
    max_roc_auc_drop: Share
    max_capability_drop: Share
    max_drop: Limits
    max_rise: Limits
    max_ratio: Limits


@dataclass(frozen=True)
class SourceRows:
    """One source's rows by the classes of its scheme.

    `truth` and `chosen` are class indices [rows]; `texts` are normalised for printing.
    """

    classes: tuple[str, ...]
    truth: Ints
    chosen: Ints
    texts: tuple[str, ...]

    @property
    def correct(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """[rows] whether the model chose the annotators' class."""
        return np.asarray(self.truth == self.chosen)

    def macro_f1(self) -> float:
        """Return macro-F1 over the classes."""
        return float(macro_f1(self.truth, self.chosen, len(self.classes)))


@dataclass(frozen=True)
class Report:
    """Measurements of a bundle. Compared reports are of the same rows and the same run.

    version: of the bundle.
    data: "sources" or "sample".
    reference: the source among `sources` that has all three labels.
    sources: rows of the reference and of each external source.
    behaviour: results by capability.
    figures: every number of metrics.json, by dotted path; those against fp32 only of the candidate,
        because production's fp32 parent is not kept.
    rankings: by the path of a ROC AUC among the figures, the rows that it is of.
    """

    version: str
    data: str
    reference: str
    sources: dict[str, SourceRows]
    behaviour: dict[str, Outcome]
    figures: dict[str, float]
    rankings: dict[str, Ranking]


class GateResult(NamedTuple):
    """One gate's result: the value found, the value wanted, and whether it passed."""

    gate: str
    passed: bool
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.gate}: {self.found}, wanted {self.wanted}"


class Flips(NamedTuple):
    """Rows that only one of two models has right, with McNemar's exact p-value."""

    lost: tuple[int, ...]  # production right, candidate wrong
    won: tuple[int, ...]
    p: float

    def worse(self, significance: float) -> bool:
        """Whether the candidate lost more rows than it won, significantly."""
        return len(self.lost) > len(self.won) and self.p < significance


def flips(candidate: SourceRows, production: SourceRows, label: int | None = None) -> Flips:
    """Compare two models row by row, on the rows of one class or all.

    Raises:
        ValueError: the two were not measured on the same rows.
    """
    if not np.array_equal(candidate.truth, production.truth):
        raise ValueError("got reports of different rows, wanted the same rows")
    among = np.ones(len(candidate.truth), bool) if label is None else candidate.truth == label
    lost = np.flatnonzero(among & production.correct & ~candidate.correct)
    won = np.flatnonzero(among & candidate.correct & ~production.correct)
    count = len(lost) + len(won)
    p = float(binomtest(len(lost), count).pvalue) if count else 1.0
    return Flips(tuple(lost.tolist()), tuple(won.tolist()), p)


class Change(NamedTuple):
    """A figure of the candidate less that of production, with a paired bootstrap interval.

    Both are evaluated on the same resampled rows, so that rows that are hard for both cancel out.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def macro_f1_change(candidate: SourceRows, production: SourceRows, significance: float) -> Change:
    """Return how macro-F1 changes."""
    count = len(candidate.classes)

    def change(drawn: Ints) -> Floats:
        ours, theirs = (
            macro_f1(rows.truth[drawn], rows.chosen[drawn], count)
            for rows in (candidate, production)
        )
        return ours - theirs

    interval = bootstrap_interval(change, len(candidate.truth), DRAWS, 1 - significance)
    return Change(candidate.macro_f1() - production.macro_f1(), *interval.tolist())


def roc_auc_change(candidate: Ranking, production: Ranking, significance: float) -> Change:
    """Return how the area under the ROC curve changes."""

    def change(drawn: Ints) -> Floats:
        return areas(candidate, drawn)[0] - areas(production, drawn)[0]

    rows = len(candidate.truth)
    interval = bootstrap_interval(change, rows, DRAWS, 1 - significance)
    return Change(float(change(np.arange(rows)[None])[0]), *interval.tolist())


def evaluate_gates(candidate: Report, production: Report | None, gates: Gates) -> list[GateResult]:
    """Return every gate's result; the candidate is accepted if all of them pass."""
    results = list(_absolute(candidate, gates))
    if production is not None:
        results += _relative(candidate, production, gates)
    return results


def _matching(figures: Mapping[str, float], pattern: str) -> dict[str, float]:
    """Return the figures whose path matches; one that is no number if none does."""
    found = {path: value for path, value in figures.items() if fnmatchcase(path, pattern)}
    return found or {pattern: math.nan}


def _limits(figures: Mapping[str, float], limits: Limits, *, floor: bool) -> Iterator[GateResult]:
    for pattern, limit in limits.items():
        for path, value in _matching(figures, pattern).items():
            yield _limit(path, value, limit, floor=floor)


def _limit(gate: str, value: float, limit: float, *, floor: bool = False) -> GateResult:
    """Return the result of a floor, or else of a ceiling; NaN passes neither."""
    return GateResult(
        gate,
        value >= limit if floor else value <= limit,
        "not measured" if math.isnan(value) else f"{value:.4g}",
        f"at {'least' if floor else 'most'} {limit:.4g}",
    )


def _absolute(report: Report, gates: Gates) -> Iterator[GateResult]:
    yield GateResult("training data", report.data == "sources", report.data, "sources")
    yield from _limits(report.figures, gates.floors, floor=True)
    yield from _limits(report.figures, gates.ceilings, floor=False)
    for name, row in report.behaviour.items():
        yield _limit(f"behaviour: {name}", row.rate, row.floor, floor=True)


def _relative(candidate: Report, production: Report, gates: Gates) -> Iterator[GateResult]:
    yield from _sources(candidate, production, gates)
    drops = {
        name: row.rate - candidate.behaviour[name].rate
        for name, row in production.behaviour.items()
    }
    worst = max(drops, key=lambda name: drops[name])
    yield _limit(f"behaviour: largest drop ({worst})", drops[worst], gates.max_capability_drop)
    for what, limits in (
        ("drop", gates.max_drop), ("rise", gates.max_rise), ("ratio", gates.max_ratio),
    ):  # fmt: skip
        for pattern, limit in limits.items():
            # Of both: a figure that the candidate has no more fails.
            for path in _matching(candidate.figures | production.figures, pattern):
                value = candidate.figures.get(path, math.nan)
                gate = f"{path}: {what} against production"
                ours, theirs = (r.rankings.get(path) for r in (candidate, production))
                if what == "drop" and ours and theirs:
                    yield _ranking_result(gate, ours, theirs, limit, gates)
                else:
                    change = _change(what, value, production.figures.get(path, math.nan))
                    yield _limit(gate, change, limit)


def _change(what: str, ours: float, theirs: float) -> float:
    if what == "ratio":
        return ours / theirs
    return theirs - ours if what == "drop" else ours - theirs


def _ranking_result(
    gate: str, ours: Ranking, theirs: Ranking, limit: float, gates: Gates
) -> GateResult:
    """Return the result for a ROC AUC: with few positives chance alone exceeds the limit."""
    change = roc_auc_change(ours, theirs, gates.significance)
    most = gates.max_roc_auc_drop
    return GateResult(
        gate,
        change.value >= -limit or (change.high >= 0 and change.value >= -most),
        str(change),
        f"no significant loss over {limit:.3f}, none over {most:.3f}",
    )


def _sources(candidate: Report, production: Report, gates: Gates) -> Iterator[GateResult]:
    for source, ours in candidate.sources.items():
        theirs = production.sources[source]
        change = macro_f1_change(ours, theirs, gates.significance)
        yield GateResult(
            f"{source}: macro-F1 against production",
            change.high >= 0 and change.value >= -gates.max_macro_f1_drop,
            str(change),
            f"no significant loss, none over {gates.max_macro_f1_drop:.3f}",
        )
        yield _flip_result(f"{source}: flips", flips(ours, theirs), gates.significance)
    ours, theirs = (r.sources[candidate.reference] for r in (candidate, production))
    for i, label in enumerate(ours.classes):
        gate = f"{candidate.reference}: recall of {label} against production"
        yield _flip_result(gate, flips(ours, theirs, i), gates.significance)


def _flip_result(gate: str, changed: Flips, significance: float) -> GateResult:
    return GateResult(
        gate,
        not changed.worse(significance),
        f"{len(changed.won)} won, {len(changed.lost)} lost (McNemar p = {changed.p:.2g})",
        f"no loss with p < {significance:g}",
    )


def refusals(results: Iterable[GateResult]) -> list[GateResult]:
    """Return the failed results."""
    return [result for result in results if not result.passed]
