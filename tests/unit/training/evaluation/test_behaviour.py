"""The behavioural suite: its form, its distance from the sample, and how results are counted."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from serving.bundle import ATTRIBUTES
from training.data.normalize import build_normalizer, words
from training.errors import ConfigError
from training.evaluation.behaviour import (
    Capability,
    differing_pairs,
    group_rates,
    load_suite,
    outcomes,
)
from training.partial_labels import LABELS

ROOT = Path(__file__).resolve().parents[4]
SUITE = load_suite(ROOT / "configs" / "behaviour.yaml")


def test_the_suite_is_well_formed() -> None:
    names = [capability.name for capability in SUITE]
    assert len(names) == len(set(names)) >= 50
    for capability in SUITE:
        assert set(capability.expect) <= set(LABELS), capability.name
        assert len(set(capability.texts)) == len(capability.texts), capability.name
        assert len(capability.texts) >= 5, capability.name
        assert 0.6 <= capability.floor < 1, capability.name
        assert not any("{" in text for text in capability.texts), capability.name


def test_every_template_is_filled_with_every_group() -> None:
    filled = [(t, g) for c in SUITE for t, g in zip(c.texts, c.groups, strict=True) if g]
    counts = pd.Series([group for _, group in filled]).value_counts()
    assert len(counts) == 20
    assert counts.nunique() == 1
    muslims = [text.lower() for text, group in filled if group == "Muslims"]
    named = [text.replace(" ", "") for text in muslims if "mus" in text]
    assert len(named) > 100
    assert all("muslim" in text for text in named)
    assert not any("women" in text for text in muslims)


def test_no_case_is_in_the_bundled_sample() -> None:
    """The model learns from the sample; a case from it would test memory, not behaviour.

    Templates of both sides are also compared with one word in place of any group.
    """
    normalizer = build_normalizer()

    def split(text: str) -> list[str]:
        return words(normalizer.normalize_str(re.sub(r"\{\w+\}", "group", text)))

    def runs(text: list[str]) -> set[tuple[str, ...]]:
        return {tuple(text[i : i + 6]) for i in range(len(text) - 5)}

    files = sorted((ROOT / "data" / "sample").glob("*.csv"))
    tables = [table for file in files if "text" in (table := pd.read_csv(file))]
    learned = [split(text) for table in tables for text in table["text"]]
    learned_runs = {run for one in learned for run in runs(one)}
    learned_words = [set(one) for one in learned]
    texts = {text for capability in SUITE for text in capability.texts}
    templates = {template for capability in SUITE for template in capability.templates if template}
    near = {}
    for case in texts | templates:
        case_words = split(case)
        distinct = set(case_words)
        if runs(case_words) & learned_runs:
            near[case] = "six words in a row"
        # In "I hate {group}", half of the words is too little to tell.
        elif (case in texts or len(case_words) >= 5) and any(
            len(distinct & one) >= 0.5 * len(distinct | one) for one in learned_words
        ):
            near[case] = "half of its words"
    assert not near


def test_each_attribute_must_be_high_somewhere_and_most_also_low() -> None:
    wanted = {item for capability in SUITE for item in capability.attributes.items()}
    # TOXICITY is p(hate) + p(offensive): the labels test it.
    assert {name for name, high in wanted if high} == set(ATTRIBUTES) - {"TOXICITY"}
    assert {name for name, high in wanted if not high} == set(ATTRIBUTES) - {"TOXICITY"}


def capability(
    name: str, expect: tuple[str, ...], groups: tuple[str | None, ...], **attributes: bool
) -> Capability:
    """A capability with floor 0.5, whose texts are `<name> 0`, `<name> 1` …

    The n-th text of a group belongs to the n-th template.
    """
    texts = tuple(f"{name} {i}" for i in range(len(groups)))
    templates = tuple(g and f"template {groups[:i].count(g)}" for i, g in enumerate(groups))
    return Capability(name, "", expect, attributes, 0.5, texts, templates, groups)


NO_ATTRIBUTES = np.zeros((6, len(ATTRIBUTES)), np.float32)


def test_outcomes_are_counted_by_capability_and_group() -> None:
    suite = [
        capability("praise", ("neither",), ("x", "y", "x", "y")),
        capability("abuse", ("hate", "offensive"), ("x", None)),
    ]
    labels = ["neither", "hate", "neither", "offensive", "offensive", "neither"]
    results = outcomes(suite, labels, NO_ATTRIBUTES)
    assert [(row.passed, row.texts, row.floor, row.failure) for row in results.values()] == [
        (2, 4, 0.5, "praise 1"),
        (1, 2, 0.5, "abuse 1"),
    ]
    assert results["abuse"].rate == 0.5
    # Only templates that are not hate count.
    assert group_rates(suite, labels) == {"x": 0.0, "y": 0.5}
    with pytest.raises(ValueError, match="got 5 rows, wanted 6"):
        outcomes(suite, labels[:-1], NO_ATTRIBUTES)
    with pytest.raises(ValueError, match="got 5 rows, wanted 6"):
        outcomes(suite, labels, NO_ATTRIBUTES[:-1])
    with pytest.raises(ValueError, match="got 5 rows, wanted 6"):
        group_rates(suite, labels[:-1])
    with pytest.raises(ValueError, match="got 5 rows, wanted 6"):
        differing_pairs(suite, labels[:-1])


def test_a_text_passes_if_its_label_and_its_attributes_do() -> None:
    suite = [
        capability("threat", ("hate", "offensive"), (None,) * 3, THREAT=True, PROFANITY=False),
        capability("calm", (), (None,) * 3, THREAT=False),
    ]
    attributes = NO_ATTRIBUTES.copy()
    attributes[:, ATTRIBUTES.index("THREAT")] = [0.5, 0.49, 0.9, 0.49, 0.5, 0.0]
    labels = ["hate", "hate", "neither", "hate", "neither", "offensive"]
    found = outcomes(suite, labels, attributes)
    assert {name: (row.passed, row.failure) for name, row in found.items()} == {
        "threat": (1, "threat 1"),
        "calm": (2, "calm 1"),
    }
    attributes[0, ATTRIBUTES.index("PROFANITY")] = 0.7
    assert outcomes(suite, labels, attributes)["threat"].passed == 0
    # A capability that expects no label says nothing about false alarms for hate.
    assert group_rates([capability("calm", (), ("x", "y"), THREAT=False)], ["hate"] * 2) == {}


def test_pairs_of_groups_that_differ_are_counted_within_a_template() -> None:
    groups = ("x", "y", "z", "x", "y", "z")
    suite = [capability("a", ("hate",), groups), capability("b", ("hate",), (None, *groups[:3]))]
    same = ["hate"] * 3 + ["neither"] * 3
    assert differing_pairs(suite, same + ["offensive"] + ["hate"] * 3) == 0
    # 0 of 3 pairs, 2 of 3 and 3 of 3.
    labels = ["hate"] * 3 + ["hate", "neither", "neither"]
    labels += ["hate", "hate", "neither", "offensive"]
    assert differing_pairs(suite, labels) == pytest.approx(5 / 9)
    assert differing_pairs([capability("c", ("hate",), (None,))], ["hate"]) == 0


GOOD = {"name": "n", "description": "d", "expect": ["hate"], "floor": 0.6, "cases": ["c"]}
BAD = [
    ({"expect": []}, "n: got neither `expect` nor `attributes`, wanted one of them"),
    ({"attributes": {"ANGER": "high"}}, "n: got attribute ANGER, wanted one of ['TOXICITY'"),
    ({"attributes": {"THREAT": "hihg"}}, "n: THREAT: got 'hihg', wanted 'high' or 'low'"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda value: str(value)[:30])
def test_a_capability_that_cannot_be_checked_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "behaviour.yaml"
    suite = {"groups": {"group": ["x"]}, "capabilities": [GOOD | changes]}
    path.write_text(yaml.safe_dump(suite))
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_suite(path)


def test_lists_of_groups_that_are_not_parallel_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "behaviour.yaml"
    groups = {"group": ["x", "y"], "person": ["x"]}
    path.write_text(yaml.safe_dump({"groups": groups, "capabilities": [GOOD]}))
    with pytest.raises(ConfigError, match=re.escape("groups: got lists of [1, 2] entries")):
        load_suite(path)


@pytest.mark.parametrize(
    "content",
    ["", "- a", "groups: [", "groups: {group: [x]}", "groups: {group: [x]}\ncapabilities: [{}]"],
)
def test_a_suite_of_another_form_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "behaviour.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: ")):
        load_suite(path)
    with pytest.raises(ConfigError, match="No such file"):
        load_suite(tmp_path / "none.yaml")
