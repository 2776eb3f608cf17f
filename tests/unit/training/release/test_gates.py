"""Each gate refuses a candidate that breaks only that gate, and accepts the others."""

import dataclasses

import numpy as np
import pytest

from tests.conftest import ROOT
from training.config import load_file
from training.evaluation.behaviour import Outcome
from training.evaluation.metrics import Ranking
from training.partial_labels import LABELS
from training.release.gates import (
    Gates,
    Report,
    SourceRows,
    evaluate_gates,
    flips,
    macro_f1_change,
    refusals,
)
from training.release.gates_report import markdown

ROWS = 1200
GATES = Gates(
    floors={"sources.ours.rows": 1000, "sources.*.macro_f1": 0.6, "suite.all": 0.5},
    ceilings={"sources.ours.ece": 0.05, "batch.label_changes": 0, "int8.loss": 0.01},
    significance=0.01,
    max_macro_f1_drop=0.05,
    max_roc_auc_drop=0.05,
    max_capability_drop=0.3,
    max_drop={"suite.all": 0.05},
    max_rise={"sources.ours.ece": 0.02},
    max_ratio={"milliseconds.p95": 1.2},
)
FIGURES = {
    "sources.ours.rows": 1200.0,
    "sources.ours.macro_f1": 0.8,
    "sources.ours.ece": 0.02,
    "sources.other.macro_f1": 0.7,
    "batch.label_changes": 0.0,
    "int8.loss": 0.001,
    "suite.all": 0.85,
    "milliseconds.p95": 2.0,
}


def source_rows(wrong: float, seed: int = 1, rows: int = ROWS, classes: int = 3) -> SourceRows:
    """Rows of which the share `wrong` is wrong; equal rows for equal arguments."""
    truth = np.arange(rows) % classes
    missed = np.random.default_rng(seed).random(rows) < wrong
    chosen = np.where(missed, (truth + 1) % classes, truth)
    return SourceRows(LABELS[:classes], truth, chosen, tuple(f"text {i}" for i in range(rows)))


def report(**changes: object) -> Report:
    """A report that passes every gate, with changes."""
    good = Report(
        version="0123456789ab",
        data="sources",
        reference="ours",
        sources={"ours": source_rows(0.2), "other": source_rows(0.2, classes=2)},
        behaviour={"negation": Outcome(8, 10, 0.5, "no"), "emoji": Outcome(9, 10, 0.5, "no")},
        figures=FIGURES,
        rankings={},
    )
    return dataclasses.replace(good, **changes)


def make_sources(**changes: SourceRows) -> dict[str, SourceRows]:
    return report().sources | changes


def shifted(label: int) -> SourceRows:
    """The good rows, with half of one label's wrong."""
    good = source_rows(0.2)
    lost = (good.truth == label) & (np.arange(ROWS) % 2 == 0)
    return dataclasses.replace(good, chosen=np.where(lost, (good.truth + 1) % 3, good.chosen))


def figures(**changes: float | None) -> dict[str, float]:
    """The good figures with changes, `__` in a name for a dot; None: not measured."""
    named = FIGURES | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in named.items() if value is not None}


def refused_gates(
    candidate: Report, production: Report | None = None, gates: Gates = GATES
) -> list[str]:
    return [result.gate for result in refusals(evaluate_gates(candidate, production, gates))]


def test_a_good_candidate_passes_with_and_without_an_equal_production_model() -> None:
    assert not refused_gates(report())
    assert not refused_gates(report(), report(figures=figures(int8__loss=None)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sources.ours.rows", 900),
        ("sources.ours.macro_f1", 0.59),
        ("sources.other.macro_f1", 0.59),
        ("sources.ours.ece", 0.051),
        ("batch.label_changes", 1),
        ("int8.loss", 0.011),
        ("suite.all", 0.49),
        ("suite.all", np.nan),
        ("sources.ours.ece", np.nan),
    ],
)
def test_a_floor_or_a_ceiling_refuses(name: str, value: float) -> None:
    assert refused_gates(report(figures=FIGURES | {name: value})) == [name]


def test_a_figure_that_was_not_measured_is_refused() -> None:
    candidate = report(figures=figures(int8__loss=None))
    (failed,) = refusals(evaluate_gates(candidate, None, GATES))
    assert str(failed) == "int8.loss: not measured, wanted at most 0.01"
    gates = GATES.model_copy(update={"floors": {"attributes.*.roc_auc": 0.9}})
    assert refused_gates(report(), gates=gates) == ["attributes.*.roc_auc"]


def test_a_model_of_the_sample_is_refused() -> None:
    assert refused_gates(report(data="sample")) == ["training data"]


def test_each_capability_has_a_floor() -> None:
    weak = {"negation": Outcome(4, 10, 0.5, "no"), "emoji": Outcome(9, 10, 0.5, "no")}
    assert refused_gates(report(behaviour=weak)) == ["behaviour: negation"]


@pytest.mark.parametrize(
    ("name", "value", "gate"),
    [
        ("sources.ours.ece", 0.045, "sources.ours.ece: rise"),
        ("suite.all", 0.79, "suite.all: drop"),
        ("milliseconds.p95", 2.5, "milliseconds.p95: ratio"),
    ],
)
def test_a_limit_relative_to_production_refuses(name: str, value: float, gate: str) -> None:
    candidate = report(figures=FIGURES | {name: value})
    assert not refused_gates(candidate)  # the absolute limits allow it
    assert refused_gates(candidate, report()) == [f"{gate} against production"]
    # Production has no figure to compare with, or the candidate has none.
    relative = [
        "suite.all: drop against production",
        "sources.ours.ece: rise against production",
        "milliseconds.p95: ratio against production",
    ]
    assert refused_gates(report(), report(figures={})) == relative
    free = GATES.model_copy(update={"floors": {}, "ceilings": {}})
    assert refused_gates(report(figures={}), report(), free) == relative


def test_a_figure_of_a_pattern_that_only_production_has_fails() -> None:
    gates = GATES.model_copy(update={"max_drop": {"attributes.*.roc_auc": 0.01}})
    figure = {"attributes.ours.INSULT.roc_auc": 0.9}
    more = figure | {"attributes.ours.THREAT.roc_auc": 0.9}
    candidate, production = report(figures=FIGURES | figure), report(figures=FIGURES | more)
    assert refused_gates(production, candidate, gates) == [
        "attributes.ours.THREAT.roc_auc: drop against production"
    ]
    assert refused_gates(candidate, production, gates) == [
        "attributes.ours.THREAT.roc_auc: drop against production"
    ]


def test_a_worse_candidate_is_refused_by_bootstrap_and_by_flips() -> None:
    worse = report(sources=make_sources(ours=source_rows(0.28)))
    assert not refused_gates(worse)
    refused = refused_gates(worse, report())
    assert {"ours: macro-F1 against production", "ours: flips"} <= set(refused)
    assert all(gate.startswith("ours: ") for gate in refused)


def test_a_label_with_a_significant_loss_is_refused() -> None:
    refused = refusals(
        evaluate_gates(report(sources=make_sources(ours=shifted(1))), report(), GATES)
    )
    named = {r.gate for r in refused if "recall" in r.gate and "against" in r.gate}
    assert named == {"ours: recall of offensive against production"}


@pytest.mark.parametrize(
    ("positives", "missed", "refused"), [(40, 1, False), (1000, 25, True), (40, 3, True)]
)
def test_a_loss_of_roc_auc_is_refused_if_it_is_large_or_not_by_chance(
    positives: int, missed: int, refused: bool
) -> None:
    """A candidate ranks some positives below all negatives; production none."""
    path = "attributes.ours.THREAT.roc_auc"
    truth = np.arange(ROWS) < positives
    good = Ranking(truth.astype(float), truth)
    worse = Ranking(np.where(np.arange(ROWS) < missed, -1.0, good.scores), truth)
    lost = missed / positives
    gates = GATES.model_copy(update={"max_drop": {path: 0.01}})
    candidate, production = (
        report(figures=FIGURES | {path: 1 - loss}, rankings={path: ranking})
        for loss, ranking in ((lost, worse), (0, good))
    )
    (result,) = (r for r in evaluate_gates(candidate, production, gates) if path in r.gate)
    assert result.passed is not refused
    assert result.found.startswith(f"{-lost:+.3f} (")
    assert result.wanted == "no significant loss over 0.010, none over 0.050"
    assert not refused_gates(production, candidate, gates)
    wider = GATES.model_copy(update={"max_drop": {path: 0.08}})
    assert not refused_gates(candidate, production, wider)


def test_another_model_of_the_same_quality_passes() -> None:
    other = report(
        sources=make_sources(ours=source_rows(0.2, seed=2), other=source_rows(0.2, 2, classes=2))
    )
    assert not refusals(evaluate_gates(other, report(), GATES))


def test_a_large_drop_is_refused_even_if_few_rows_make_it_insignificant() -> None:
    few = {"ours": source_rows(0.2, rows=60), "other": source_rows(0.2, classes=2)}
    chosen = few["ours"].chosen.copy()
    right = np.flatnonzero(few["ours"].correct)[:4]
    chosen[right] = (few["ours"].truth[right] + 1) % 3
    fewer = few | {"ours": dataclasses.replace(few["ours"], chosen=chosen)}
    refused = refusals(evaluate_gates(report(sources=fewer), report(sources=few), GATES))
    assert [result.gate for result in refused] == ["ours: macro-F1 against production"]


def test_a_large_drop_in_one_capability_is_refused() -> None:
    many = {f"c{i}": Outcome(10, 10, 0.1, "") for i in range(20)}
    collapsed = many | {"c7": Outcome(6, 10, 0.1, "no")}
    refused = refusals(evaluate_gates(report(behaviour=collapsed), report(behaviour=many), GATES))
    assert [result.gate for result in refused] == ["behaviour: largest drop (c7)"]


def test_the_bootstrap_is_paired() -> None:
    """Models with the same errors have no difference."""
    assert macro_f1_change(source_rows(0.3), source_rows(0.3), 0.05) == (0, 0, 0)
    change, low, high = macro_f1_change(source_rows(0.3, seed=2), source_rows(0.2), 0.05)
    assert low < change < high < 0


def test_flips_are_counted_in_both_directions() -> None:
    truth = np.zeros(30, int)
    ours = SourceRows(("a", "b"), truth, np.array([1] * 10 + [0] * 20), ("",) * 30)
    theirs = SourceRows(("a", "b"), truth, np.array([0] * 28 + [1] * 2), ("",) * 30)
    changed = flips(ours, theirs)
    assert changed.lost == tuple(range(10))
    assert changed.won == (28, 29)
    # Two-sided binomial tail of 10 and more of 12: 2 · (66 + 12 + 1) / 2¹².
    assert changed.p == pytest.approx(2 * 79 / 4096)
    assert flips(ours, ours).p == 1


def test_reports_of_different_rows_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different rows"):
        flips(source_rows(0.2, rows=90), source_rows(0.2, rows=60))


def test_the_report_has_the_reasons_and_shows_texts_only_as_code() -> None:
    ours = source_rows(0.28)
    texts = ("| [x](y) `z`\n# boo " + "long " * 40, *ours.texts[1:])
    worse = report(
        sources=make_sources(ours=dataclasses.replace(ours, texts=texts)),
        figures=figures(milliseconds__p95=9.0),
    )
    theirs = dataclasses.replace(source_rows(0.2), chosen=ours.truth)
    production = report(sources=make_sources(ours=theirs), version="ba9876543210")
    page = markdown(worse, production, evaluate_gates(worse, production, GATES), examples=ROWS)
    assert page.startswith("# Gates: 0123456789ab is refused\n")
    assert "- **milliseconds.p95: ratio against production: 4.5, wanted at most 1.2**" in page
    assert "ba9876543210" in page
    assert "## Rows of ours that the candidate lost: " in page
    lost = flips(ours, theirs).lost
    assert sum(f"`text {i}`" in page for i in lost) == len(lost) - (0 in lost)
    cells = {line.count("|") for line in page.splitlines() if line.startswith("|")}
    assert cells == {5, 6}
    good = markdown(report(), None, evaluate_gates(report(), None, GATES))
    assert good.startswith("# Gates: 0123456789ab is accepted\n")
    assert "refused**" not in good


def test_the_gates_of_this_project_are_valid() -> None:
    gates = load_file(ROOT / "configs" / "gates.yaml", Gates)
    assert {f"sources.davidson.classes.{label}.recall" for label in LABELS} <= set(gates.floors)
    assert gates.ceilings["batch_invariance.label_changes"] == 0
