from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.inference.policy import Policy
from serving.settings import SettingsError

ROOT = Path(__file__).parents[4]
CONTENT: dict[str, Any] = {
    "version": "test",
    "toxicity": {"uncertain": 0.3, "high": 0.6, "strong": 0.9},
    "block": {"hate": 0.8, "toxic": 0.95},
    "review": {"hate": 0.3, "toxic": 0.6},
    "margin": 0.02,
}


@pytest.fixture
def policy() -> Policy:
    return Policy.model_validate(CONTENT)


def decide(policy: Policy, hate: float, offensive: float) -> tuple[str, str, tuple[str, ...]]:
    return policy.apply({"hate": hate, "offensive": offensive, "neither": 1 - hate - offensive})


@pytest.mark.parametrize(
    ("hate", "offensive", "toxicity", "action"),
    [
        (0.0, 0.0, "none", "allow"),
        (0.0, 0.3, "uncertain", "allow"),
        (0.25, 0.25, "uncertain", "allow"),
        (0.3, 0.0, "uncertain", "review"),
        (0.0, 0.6, "high", "review"),
        (0.1, 0.8, "strong", "review"),
        (0.8, 0.0, "high", "block"),
        (0.0, 0.95, "strong", "block"),
        (1.0, 0.0, "strong", "block"),
    ],
)
def test_bands_and_actions_start_at_their_bounds(
    policy: Policy, hate: float, offensive: float, toxicity: str, action: str
) -> None:
    assert decide(policy, hate, offensive)[:2] == (toxicity, action)


@pytest.mark.parametrize(
    ("hate", "offensive", "warnings"),
    [
        (0.0, 0.1, ()),
        (0.0, 0.29, ("toxicity_near_boundary",)),
        (0.0, 0.31, ("toxicity_near_boundary",)),
        (0.29, 0.16, ("action_near_boundary",)),
        (0.0, 0.59, ("toxicity_near_boundary", "action_near_boundary")),
        (0.0, 0.75, ()),
    ],
)
def test_scores_near_a_bound_have_a_warning_on_both_sides(
    policy: Policy, hate: float, offensive: float, warnings: tuple[str, ...]
) -> None:
    assert decide(policy, hate, offensive)[2] == warnings


def test_the_shipped_policy_allows_harmless_and_blocks_hateful_texts() -> None:
    policy = Policy.load(ROOT / "configs" / "policy.yaml")
    assert policy.version
    assert decide(policy, 0.0, 0.0) == ("none", "allow", ())
    assert decide(policy, 1.0, 0.0)[:2] == ("strong", "block")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"toxicity": {"uncertain": 0.7, "high": 0.6, "strong": 0.9}}, "toxicity: .*increase"),
        ({"toxicity": {"uncertain": 0.3, "high": 0.6}}, "toxicity.strong: "),
        ({"block": {"hate": 0.1, "toxic": 0.95}}, "bounds of review must not be above"),
        ({"block": {"hate": 1.1, "toxic": 0.95}}, "block.hate: "),
        ({"version": ""}, "version: "),
        ({"surprise": 1}, "surprise: "),
    ],
)
def test_an_invalid_policy_is_refused_and_the_message_has_the_key(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(CONTENT | changes))
    with pytest.raises(SettingsError, match=message):
        Policy.load(path)


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with pytest.raises(SettingsError, match=r"policy\.yaml: No such file"):
        Policy.load(path)
    path.write_text("a: [")
    with pytest.raises(SettingsError, match="not YAML"):
        Policy.load(path)


def test_another_language_gets_a_warning_and_is_not_blocked(policy: Policy) -> None:
    for hate, action in ((0.0, "allow"), (0.5, "review"), (0.9, "review")):
        decision = policy.apply({"hate": hate, "offensive": 0.0, "neither": 1 - hate})
        assert policy.for_language(decision, "en") == decision
        german = policy.for_language(decision, "de")
        assert (german.toxicity, german.action) == (decision.toxicity, action)
        assert german.warnings == (*decision.warnings, "language_not_supported")


def test_the_languages_without_a_warning_are_configured() -> None:
    policy = Policy.model_validate(CONTENT | {"languages": ["de", "en"]})
    decision = policy.apply({"hate": 0.9, "offensive": 0.0, "neither": 0.1})
    assert policy.for_language(decision, "de") == decision
    assert policy.for_language(decision, "fr").action == "review"
