"""The behavioural suite: short texts by capability, and which labels pass.

tests/model/capabilities.yaml holds it. Nothing of it is learned from. This module knows no model:
it is given a label for each text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

SUITE = Path("tests/model/capabilities.yaml")


class Capability(NamedTuple):
    """What a model should be able to do, and how often it must."""

    name: str
    description: str
    expect: tuple[str, ...]  # any of these labels passes
    floor: float  # share of the texts
    texts: tuple[str, ...]
    groups: tuple[str | None, ...]  # of each text, the group that its template was filled with


class Outcome(NamedTuple):
    """How a model did in one capability."""

    passed: int
    texts: int
    floor: float
    failure: str  # the first text that failed, or nothing

    @property
    def rate(self) -> float:
        """The share of texts that passed."""
        return self.passed / self.texts


def load_suite(path: Path = SUITE) -> list[Capability]:
    """Return the suite, each template filled with every group.

    The lists under `groups` are parallel: all placeholders of a template are filled from one index.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    forms = content["groups"]
    groups = next(iter(forms.values()))
    suite = []
    for entry in content["capabilities"]:
        filled = [
            (template.format(**{name: form[at] for name, form in forms.items()}), group)
            for template in entry.get("templates", [])
            for at, group in enumerate(groups)
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
    """Return how a model did by capability, in the suite's order.

    Args:
        suite: the capabilities.
        labels: the model's label of every text, capability after capability.
    """
    found, start = {}, 0
    for capability in suite:
        chosen = labels[start : start + len(capability.texts)]
        start += len(capability.texts)
        failed = [
            text
            for text, label in zip(capability.texts, chosen, strict=True)
            if label not in capability.expect
        ]
        count = len(capability.texts)
        found[capability.name] = Outcome(
            count - len(failed), count, capability.floor, next(iter(failed), "")
        )
    return found


def group_rates(suite: Sequence[Capability], labels: Sequence[str]) -> dict[str, float]:
    """Return how often innocent templates are called hate, by the group that they are filled with.

    Every group has the same templates, so what differs is the group alone.
    """
    rows = [row for c in suite for row in [(c.expect, group) for group in c.groups]]
    called: dict[str, list[bool]] = {}
    for (expect, group), label in zip(rows, labels, strict=True):
        if group is not None and "hate" not in expect:
            called.setdefault(group, []).append(label == "hate")
    return {group: sum(hits) / len(hits) for group, hits in called.items()}
