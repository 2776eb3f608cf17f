"""The behavioural suite: short texts by capability, and the labels that pass (CheckList style).

    configs/behaviour.yaml -> load_suite -> texts -> labels of a model -> outcomes, group_rates

Nothing of the suite is learned from.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

SUITE = Path("configs/behaviour.yaml")


class Capability(NamedTuple):
    """What a model should be able to do, and the share of texts that must pass."""

    name: str
    description: str
    expect: tuple[str, ...]  # any of these labels passes
    floor: float  # share of the texts
    texts: tuple[str, ...]
    groups: tuple[str | None, ...]  # the group in each text's template; None: no template


class Outcome(NamedTuple):
    """A model's result in one capability."""

    passed: int
    texts: int
    floor: float
    failure: str  # the first text that failed; empty: none did

    @property
    def rate(self) -> float:
        """Share of texts that passed."""
        return self.passed / self.texts


def load_suite(path: Path = SUITE) -> list[Capability]:
    """Return the suite, with each template filled with every group.

    The lists under `groups` are parallel: all placeholders of a template get the same index.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    forms = content["groups"]
    groups = next(iter(forms.values()))
    suite = []
    for entry in content["capabilities"]:
        filled = [
            (template.format(**{name: form[i] for name, form in forms.items()}), group)
            for template in entry.get("templates", [])
            for i, group in enumerate(groups)
        ]
        rows = filled + [(case, None) for case in entry.get("cases", [])]
        suite.append(
            Capability(
                entry["name"], entry["description"], tuple(entry["expect"]), entry["floor"],
                tuple(text for text, _ in rows), tuple(group for _, group in rows),
            )
        )  # fmt: skip
    return suite


def outcomes(suite: Sequence[Capability], labels: Sequence[str]) -> dict[str, Outcome]:
    """Return a model's outcome by capability, in the suite's order.

    Args:
        suite: the capabilities.
        labels: the model's label of every text, in the suite's order.
    """
    results, start = {}, 0
    for capability in suite:
        chosen = labels[start : start + len(capability.texts)]
        start += len(capability.texts)
        failed = [
            text
            for text, label in zip(capability.texts, chosen, strict=True)
            if label not in capability.expect
        ]
        count = len(capability.texts)
        results[capability.name] = Outcome(
            count - len(failed), count, capability.floor, next(iter(failed), "")
        )
    return results


def group_rates(suite: Sequence[Capability], labels: Sequence[str]) -> dict[str, float]:
    """Return how often templates that are not hate are labelled hate, by group.

    All groups have the same templates, so only the group makes a difference.
    """
    rows = [row for c in suite for row in [(c.expect, group) for group in c.groups]]
    called: dict[str, list[bool]] = {}
    for (expect, group), label in zip(rows, labels, strict=True):
        if group is not None and "hate" not in expect:
            called.setdefault(group, []).append(label == "hate")
    return {group: sum(hits) / len(hits) for group, hits in called.items()}
