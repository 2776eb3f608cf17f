"""The policy: from scores to a toxicity band, an action, and warnings near a bound.

    scores by label + configs/policy.yaml ──> Policy.apply ──> PolicyDecision

Pure functions. They know no text and no model, and do not choose the label: the bundle does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.settings import load_config

Toxicity = Literal["none", "uncertain", "high", "strong"]
Action = Literal["allow", "review", "block"]
Language = Annotated[str, Field(pattern="^[a-z]{2}$")]  # ISO 639-1
Share = Annotated[float, Field(gt=0, le=1)]


class PolicyDecision(NamedTuple):
    """The result of the policy for one text."""

    toxicity: Toxicity
    action: Action
    warnings: tuple[str, ...]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bands(_Section):
    """Lower bounds of the toxicity bands, in p(hate) + p(offensive)."""

    uncertain: Share
    high: Share
    strong: Share

    @model_validator(mode="after")
    def _check_order(self) -> "Bands":
        if not self.uncertain < self.high < self.strong:
            raise ValueError("bounds must increase")
        return self


class Bounds(_Section):
    """Lower bounds of an action: p(hate), and p(hate) + p(offensive). Reaching one is enough."""

    hate: Share
    toxic: Share


class Policy(_Section):
    """The content of `configs/policy.yaml`."""

    version: Annotated[str, Field(min_length=1, max_length=64)]
    toxicity: Bands
    block: Bounds
    review: Bounds
    margin: Annotated[float, Field(ge=0, lt=0.5)]
    languages: Annotated[tuple[Language, ...], Field(min_length=1)] = ("en",)

    @model_validator(mode="after")
    def _check_review(self) -> "Policy":
        if self.review.hate > self.block.hate or self.review.toxic > self.block.toxic:
            raise ValueError("bounds of review must not be above those of block")
        return self

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read a policy file.

        Raises:
            SettingsError: the file is missing or invalid.
        """
        return load_config(path, cls)

    def apply(self, scores: Mapping[str, float]) -> PolicyDecision:
        """Return the decision for a text's probabilities by label."""
        hate = scores["hate"]
        toxic = hate + scores["offensive"]
        return PolicyDecision(
            self._band(toxic), self._action(hate, toxic), self._warnings(hate, toxic)
        )

    def for_language(self, decision: PolicyDecision, language: str) -> PolicyDecision:
        """Return a decision as it is for a text in a language.

        In a language that the model has not learned, its scores are a guess: no text is blocked
        because of them alone, and there is a warning.
        """
        if language in self.languages:
            return decision
        action: Action = "review" if decision.action == "block" else decision.action
        warnings = (*decision.warnings, "language_not_supported")
        return decision._replace(action=action, warnings=warnings)

    def _band(self, toxic: float) -> Toxicity:
        if toxic >= self.toxicity.strong:
            return "strong"
        if toxic >= self.toxicity.high:
            return "high"
        return "uncertain" if toxic >= self.toxicity.uncertain else "none"

    def _action(self, hate: float, toxic: float) -> Action:
        if hate >= self.block.hate or toxic >= self.block.toxic:
            return "block"
        return "review" if hate >= self.review.hate or toxic >= self.review.toxic else "allow"

    def _warnings(self, hate: float, toxic: float) -> tuple[str, ...]:
        """Return a warning for each result that would differ if both values moved by `margin`."""
        lower, upper = -self.margin, self.margin
        warnings = []
        if self._band(toxic + lower) != self._band(toxic + upper):
            warnings.append("toxicity_near_boundary")
        if self._action(hate + lower, toxic + lower) != self._action(hate + upper, toxic + upper):
            warnings.append("action_near_boundary")
        return tuple(warnings)
