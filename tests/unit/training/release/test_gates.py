"""Each gate refuses a candidate that breaks only that gate, and accepts the others."""

import dataclasses

import numpy as np
import pytest

from tests.conftest import ROOT
from training.config import load_file
from training.evaluation.behaviour import Outcome
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
    min_rows=1000,
    macro_f1={"ours": 0.6, "other": 0.5},
    recall={"hate": 0.3, "offensive": 0.5, "neither": 0.5},
    max_ece=0.05,
    max_fp32_loss=0.01,
    max_fp32_changes=0.03,
    max_batch_changes=0,
    max_batch_difference=1e-3,
    max_megabytes=40,
    max_identity_gap=0.2,
    max_template_gap=0.3,
    min_suite=0.5,
    significance=0.01,
    max_macro_f1_drop=0.05,
    max_ece_rise=0.02,
    max_gap_rise=0.1,
    max_suite_drop=0.05,
    max_capability_drop=0.3,
    max_p95_ratio=1.2,
    max_size_ratio=1.2,
)


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
        ece=0.02,
        identity_gap=0.05,
        template_gap=0.1,
        batch_changes=0,
        batch_difference=1e-6,
        p95_ms=2.0,
        megabytes=25.0,
        behaviour={"negation": Outcome(8, 10, 0.5, "no"), "emoji": Outcome(9, 10, 0.5, "no")},
        fp32_loss=0.001,
        fp32_changes=0.01,
    )
    return dataclasses.replace(good, **changes)


def make_sources(**changes: SourceRows) -> dict[str, SourceRows]:
    return report().sources | changes


def shifted(label: int) -> SourceRows:
    """The good rows, with half of one label's wrong."""
    good = source_rows(0.2)
    lost = (good.truth == label) & (np.arange(ROWS) % 2 == 0)
    return dataclasses.replace(good, chosen=np.where(lost, (good.truth + 1) % 3, good.chosen))


def test_a_good_candidate_passes_with_and_without_an_equal_production_model() -> None:
    assert not refusals(evaluate_gates(report(), None, GATES))
    assert not refusals(evaluate_gates(report(), report(fp32_loss=None, fp32_changes=None), GATES))


ABSOLUTE = [
    ({"data": "sample"}, "training data"),
    ({"sources": make_sources(ours=source_rows(0.2, rows=900))}, "ours: test rows"),
    ({"sources": make_sources(ours=source_rows(0.45))}, "ours: macro-F1"),
    ({"sources": make_sources(other=source_rows(0.55, classes=2))}, "other: macro-F1"),
    ({"sources": {"ours": source_rows(0.2)}}, "other: macro-F1"),
    ({"ece": 0.051}, "calibration error (ECE)"),
    ({"fp32_loss": 0.011}, "int8 against fp32: macro-F1 lost"),
    ({"fp32_changes": 0.031}, "int8 against fp32: labels changed"),
    ({"fp32_loss": None}, "int8 against fp32"),
    ({"batch_changes": 1}, "batch: labels changed"),
    ({"batch_difference": 0.0011}, "batch: probability moved"),
    ({"megabytes": 41.0}, "size in MB"),
    ({"identity_gap": 0.21}, "gap between groups, tweets"),
    ({"template_gap": 0.31}, "gap between groups, templates"),
]


@pytest.mark.parametrize(("changes", "gate"), ABSOLUTE, ids=lambda value: str(value)[:40])
def test_an_absolute_limit_refuses(changes: dict[str, object], gate: str) -> None:
    assert [result.gate for result in refusals(evaluate_gates(report(**changes), None, GATES))] == [
        gate
    ]


def test_a_lost_label_is_refused_by_its_recall() -> None:
    gates = GATES.model_copy(update={"macro_f1": {}, "recall": {"hate": 0.6}})
    refused = refusals(evaluate_gates(report(sources=make_sources(ours=shifted(0))), None, gates))
    assert [result.gate for result in refused] == ["ours: recall of hate"]


def test_behaviour_has_a_floor_for_each_capability_and_one_for_all() -> None:
    weak = {"negation": Outcome(4, 10, 0.5, "no"), "emoji": Outcome(9, 10, 0.5, "no")}
    refused = refusals(evaluate_gates(report(behaviour=weak), None, GATES))
    assert [result.gate for result in refused] == ["behaviour: negation"]
    weaker = {"negation": Outcome(2, 10, 0.1, "no"), "emoji": Outcome(5, 10, 0.5, "no")}
    refused = refusals(evaluate_gates(report(behaviour=weaker), None, GATES))
    assert [result.gate for result in refused] == ["behaviour: all texts"]


RELATIVE = [
    ({"ece": 0.045}, "calibration error: rise"),
    ({"identity_gap": 0.16}, "gap between groups, tweets: rise"),
    ({"template_gap": 0.21}, "gap between groups, templates: rise"),
    ({"p95_ms": 2.5}, "p95 milliseconds a text, over production's"),
    ({"megabytes": 31.0}, "size over production's"),
]


@pytest.mark.parametrize(("changes", "gate"), RELATIVE, ids=lambda value: str(value)[:40])
def test_a_limit_relative_to_production_refuses(changes: dict[str, object], gate: str) -> None:
    assert not refusals(
        evaluate_gates(report(**changes), None, GATES)
    )  # the absolute limits allow it
    refused = refusals(evaluate_gates(report(**changes), report(), GATES))
    assert [result.gate for result in refused] == [gate]


def test_a_worse_candidate_is_refused_by_bootstrap_and_by_flips() -> None:
    worse = report(sources=make_sources(ours=source_rows(0.28)))
    assert not refusals(evaluate_gates(worse, None, GATES))
    refused = [result.gate for result in refusals(evaluate_gates(worse, report(), GATES))]
    assert {"ours: macro-F1 against production", "ours: flips"} <= set(refused)
    assert all(gate.startswith("ours: ") for gate in refused)


def test_a_label_with_a_significant_loss_is_refused() -> None:
    refused = refusals(
        evaluate_gates(report(sources=make_sources(ours=shifted(1))), report(), GATES)
    )
    named = {r.gate for r in refused if "recall" in r.gate and "against" in r.gate}
    assert named == {"ours: recall of offensive against production"}


def test_another_model_of_the_same_quality_passes() -> None:
    other = report(
        sources=make_sources(ours=source_rows(0.2, seed=2), other=source_rows(0.2, 2, classes=2))
    )
    assert not refusals(evaluate_gates(other, report(), GATES))


def test_a_large_drop_is_refused_even_if_few_rows_make_it_insignificant() -> None:
    gates = GATES.model_copy(update={"min_rows": 30})
    few = {"ours": source_rows(0.2, rows=60), "other": source_rows(0.2, classes=2)}
    chosen = few["ours"].chosen.copy()
    right = np.flatnonzero(few["ours"].correct)[:4]
    chosen[right] = (few["ours"].truth[right] + 1) % 3
    fewer = few | {"ours": dataclasses.replace(few["ours"], chosen=chosen)}
    refused = refusals(evaluate_gates(report(sources=fewer), report(sources=few), gates))
    assert [result.gate for result in refused] == ["ours: macro-F1 against production"]


def test_a_large_drop_in_one_capability_is_refused() -> None:
    many = {f"c{i}": Outcome(10, 10, 0.1, "") for i in range(20)}
    collapsed = many | {"c7": Outcome(6, 10, 0.1, "no")}
    refused = refusals(evaluate_gates(report(behaviour=collapsed), report(behaviour=many), GATES))
    assert [result.gate for result in refused] == ["behaviour: largest drop (c7)"]
    faded = {name: Outcome(9, 10, 0.1, "no") for name in many}
    refused = refusals(evaluate_gates(report(behaviour=faded), report(behaviour=many), GATES))
    assert [result.gate for result in refused] == ["behaviour: drop of all texts"]


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
    worse = report(sources=make_sources(ours=dataclasses.replace(ours, texts=texts)), p95_ms=9)
    theirs = dataclasses.replace(source_rows(0.2), chosen=ours.truth)
    production = report(sources=make_sources(ours=theirs), version="ba9876543210")
    page = markdown(worse, production, evaluate_gates(worse, production, GATES), examples=ROWS)
    assert page.startswith("# Gates: 0123456789ab is refused\n")
    assert "- **p95 milliseconds a text, over production's: 4.50, wanted at most 1.20**" in page
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
    assert set(gates.recall) == set(LABELS)
    assert gates.macro_f1
