"""The gates: may a candidate replace production? A pure comparison of two reports.

    candidate Report, production Report, configs/gates.yaml -> evaluate_gates -> GateResults

`promote` measures both bundles on the same rows in one run. Without a production model the gates
that compare with it are left out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import binomtest

from training.evaluation.behaviour import Outcome
from training.evaluation.metrics import Floats, Ints, bootstrap_interval, macro_f1

Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(gt=0)]


class Gates(BaseModel):
    """The content of configs/gates.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_rows: Annotated[int, Field(ge=1)]
    macro_f1: dict[str, Share]
    recall: dict[str, Share]
    max_ece: Share
    max_fp32_loss: Share
    max_fp32_changes: Share
    max_batch_changes: Annotated[int, Field(ge=0)]
    max_batch_difference: Share
    max_megabytes: Ratio
    max_identity_gap: Share
    max_template_gap: Share
    min_suite: Share
    significance: Annotated[float, Field(gt=0, lt=0.5)]
    max_macro_f1_drop: Share
    max_ece_rise: Share
    max_gap_rise: Share
    max_suite_drop: Share
    max_capability_drop: Share
    max_p95_ratio: Ratio
    max_size_ratio: Ratio


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
    """Measurements of a bundle. Compared reports are of the same rows and the same run."""

    version: str
    data: str  # "sources" or "sample"
    reference: str  # the source among `sources` that has all three labels
    sources: dict[str, SourceRows]
    ece: float
    identity_gap: float
    template_gap: float
    batch_changes: int
    batch_difference: float
    p95_ms: float
    megabytes: float
    behaviour: dict[str, Outcome]
    # None for production: its fp32 parent is not kept, and was measured when it was the candidate.
    fp32_loss: float | None = None
    fp32_changes: float | None = None

    @property
    def suite(self) -> float:
        """The share of all behavioural texts that passed."""
        rows = self.behaviour.values()
        return sum(row.passed for row in rows) / sum(row.texts for row in rows)


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


def macro_f1_change(
    candidate: SourceRows, production: SourceRows, significance: float, draws: int = 2000
) -> tuple[float, float, float]:
    """Return the candidate's macro-F1 less production's, and its paired bootstrap interval.

    Both are evaluated on the same resampled rows, so that rows that are hard for both cancel out.
    """
    count = len(candidate.classes)

    def change(drawn: Ints) -> Floats:
        ours, theirs = (
            macro_f1(rows.truth[drawn], rows.chosen[drawn], count)
            for rows in (candidate, production)
        )
        return ours - theirs

    interval = bootstrap_interval(change, len(candidate.truth), draws, 1 - significance)
    return candidate.macro_f1() - production.macro_f1(), *interval.tolist()


def evaluate_gates(candidate: Report, production: Report | None, gates: Gates) -> list[GateResult]:
    """Return every gate's result; the candidate is accepted if all of them pass."""
    results = list(_absolute(candidate, gates))
    if production is not None:
        results += _relative(candidate, production, gates)
    return results


def _at_most(gate: str, value: float, limit: float, style: str = ".3f") -> GateResult:
    return GateResult(gate, value <= limit, f"{value:{style}}", f"at most {limit:{style}}")


def _at_least(gate: str, value: float, limit: float, style: str = ".3f") -> GateResult:
    return GateResult(gate, value >= limit, f"{value:{style}}", f"at least {limit:{style}}")


def _absolute(report: Report, gates: Gates) -> Iterator[GateResult]:
    yield GateResult("training data", report.data == "sources", report.data, "sources")
    reference = report.sources[report.reference]
    yield _at_least(f"{report.reference}: test rows", len(reference.truth), gates.min_rows, "d")
    for source, floor in gates.macro_f1.items():
        if source in report.sources:
            yield _at_least(f"{source}: macro-F1", report.sources[source].macro_f1(), floor)
        else:
            yield GateResult(f"{source}: macro-F1", False, "not measured", f"at least {floor:.3f}")
    for label, floor in gates.recall.items():
        rows = reference.truth == reference.classes.index(label)
        recall = float(reference.correct[rows].mean()) if rows.any() else 0.0
        yield _at_least(f"{report.reference}: recall of {label}", recall, floor)
    yield _at_most("calibration error (ECE)", report.ece, gates.max_ece)
    if report.fp32_loss is None or report.fp32_changes is None:
        yield GateResult("int8 against fp32", False, "not measured", "models/fp32.onnx")
    else:
        yield _at_most("int8 against fp32: macro-F1 lost", report.fp32_loss, gates.max_fp32_loss)
        yield _at_most(
            "int8 against fp32: labels changed", report.fp32_changes, gates.max_fp32_changes, ".2%"
        )
    yield _at_most("batch: labels changed", report.batch_changes, gates.max_batch_changes, "d")
    yield _at_most(
        "batch: probability moved", report.batch_difference, gates.max_batch_difference, ".1e"
    )
    yield _at_most("size in MB", report.megabytes, gates.max_megabytes, ".1f")
    yield _at_most("gap between groups, tweets", report.identity_gap, gates.max_identity_gap)
    yield _at_most("gap between groups, templates", report.template_gap, gates.max_template_gap)
    yield _at_least("behaviour: all texts", report.suite, gates.min_suite, ".1%")
    for name, row in report.behaviour.items():
        yield _at_least(f"behaviour: {name}", row.rate, row.floor, ".0%")


def _relative(candidate: Report, production: Report, gates: Gates) -> Iterator[GateResult]:
    for source, ours in candidate.sources.items():
        theirs = production.sources[source]
        change, low, high = macro_f1_change(ours, theirs, gates.significance)
        yield GateResult(
            f"{source}: macro-F1 against production",
            high >= 0 and change >= -gates.max_macro_f1_drop,
            f"{change:+.3f} ({low:+.3f} to {high:+.3f})",
            f"no significant loss, none over {gates.max_macro_f1_drop:.3f}",
        )
        yield _flip_result(f"{source}: flips", flips(ours, theirs), gates.significance)
    ours, theirs = (r.sources[candidate.reference] for r in (candidate, production))
    for i, label in enumerate(ours.classes):
        gate = f"{candidate.reference}: recall of {label} against production"
        yield _flip_result(gate, flips(ours, theirs, i), gates.significance)
    yield _at_most("calibration error: rise", candidate.ece - production.ece, gates.max_ece_rise)
    for name in ("identity_gap", "template_gap"):
        rise = getattr(candidate, name) - getattr(production, name)
        what = "tweets" if name == "identity_gap" else "templates"
        yield _at_most(f"gap between groups, {what}: rise", rise, gates.max_gap_rise)
    suite_drop = production.suite - candidate.suite
    yield _at_most("behaviour: drop of all texts", suite_drop, gates.max_suite_drop, ".1%")
    drops = {
        name: row.rate - candidate.behaviour[name].rate
        for name, row in production.behaviour.items()
    }
    worst = max(drops, key=lambda name: drops[name])
    yield _at_most(
        f"behaviour: largest drop ({worst})", drops[worst], gates.max_capability_drop, ".0%"
    )
    yield _at_most(
        "p95 milliseconds a text, over production's",
        candidate.p95_ms / production.p95_ms,
        gates.max_p95_ratio,
        ".2f",
    )
    yield _at_most(
        "size over production's",
        candidate.megabytes / production.megabytes,
        gates.max_size_ratio,
        ".2f",
    )


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
