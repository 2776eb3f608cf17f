"""The behavioural suite: its form, its distance from the sample, and how results are counted."""

from pathlib import Path

import pandas as pd
import pytest

from training.data.normalize import build_normalizer, words
from training.evaluation.behaviour import Capability, group_rates, load_suite, outcomes
from training.partial_labels import LABELS

ROOT = Path(__file__).resolve().parents[4]
SUITE = load_suite(ROOT / "configs" / "behaviour.yaml")


def test_the_suite_is_well_formed() -> None:
    names = [capability.name for capability in SUITE]
    assert len(names) == len(set(names)) >= 25
    for capability in SUITE:
        assert set(capability.expect) <= set(LABELS), capability.name
        assert len(capability.texts) >= 5, capability.name
        assert 0 <= capability.floor < 1, capability.name
        assert not any("{" in text for text in capability.texts), capability.name


def test_every_template_is_filled_with_every_group() -> None:
    filled = [(t, g) for c in SUITE for t, g in zip(c.texts, c.groups, strict=True) if g]
    counts = pd.Series([group for _, group in filled]).value_counts()
    assert len(counts) == 10
    assert counts.nunique() == 1
    muslims = [text.lower() for text, group in filled if group == "Muslims"]
    assert all("muslim" in text.replace(" ", "") for text in muslims if "mus" in text)
    assert not any("women" in text for text in muslims)


def test_no_case_is_in_the_bundled_sample() -> None:
    """The model learns from the sample; a case from it would test memory, not behaviour."""
    normalizer = build_normalizer()

    def split(text: str) -> list[str]:
        return words(normalizer.normalize_str(text))

    def runs(text: list[str]) -> set[tuple[str, ...]]:
        return {tuple(text[i : i + 6]) for i in range(len(text) - 5)}

    files = sorted((ROOT / "data" / "sample").glob("*.csv"))
    learned = [split(text) for file in files for text in pd.read_csv(file)["text"]]
    learned_runs = {run for one in learned for run in runs(one)}
    learned_words = [set(one) for one in learned]
    for case in {text for capability in SUITE for text in capability.texts}:
        case_words = split(case)
        assert not runs(case_words) & learned_runs, f"six words in a row: {case}"
        distinct = set(case_words)
        half = any(len(distinct & one) >= 0.5 * len(distinct | one) for one in learned_words)
        assert not half, f"half of its words: {case}"


def test_outcomes_are_counted_by_capability_and_group() -> None:
    suite = [
        Capability("praise", "", ("neither",), 0.5, ("a", "b", "c", "d"), ("x", "y", "x", "y")),
        Capability("abuse", "", ("hate", "offensive"), 0.9, ("e", "f"), ("x", None)),
    ]
    labels = ["neither", "hate", "neither", "offensive", "offensive", "neither"]
    results = outcomes(suite, labels)
    assert [(row.passed, row.texts, row.floor, row.failure) for row in results.values()] == [
        (2, 4, 0.5, "b"),
        (1, 2, 0.9, "f"),
    ]
    assert results["abuse"].rate == 0.5
    # Only templates that are not hate count.
    assert group_rates(suite, labels) == {"x": 0.0, "y": 0.5}
    with pytest.raises(ValueError, match="shorter"):
        outcomes(suite, labels[:-1])
