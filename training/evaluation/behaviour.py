"""The behavioural suite: short texts by capability, and what passes (CheckList style).

    configs/behaviour.yaml -> load_suite -> texts -> labels and attributes of a model
                           -> outcomes, group_rates, differing_pairs

Nothing of the suite is learned from.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from serving.bundle import ATTRIBUTES, Floats
from training.errors import ConfigError

SUITE = Path("configs/behaviour.yaml")
HIGH = 0.5  # a probability from here on is high, below it low


class Capability(NamedTuple):
    """What a model should be able to do, and the share of texts that must pass."""

    name: str
    description: str
    expect: tuple[str, ...]  # any of these labels passes; empty: any label does
    attributes: dict[str, bool]  # whether the attribute must be high or low
    floor: float  # share of the texts
    texts: tuple[str, ...]
    templates: tuple[str | None, ...]  # the template of each text; None: a text of its own
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


class _Row(NamedTuple):
    """A text of the suite."""

    text: str
    template: str | None
    group: str | None


def load_suite(path: Path = SUITE) -> list[Capability]:
    """Return the suite, with each template filled with every group.

    The lists under `groups` are parallel: all placeholders of a template get the same index.

    Raises:
        ConfigError: the file cannot be read, the lists are of different lengths, a capability has
            no texts or expects nothing, or an attribute, its level or a placeholder is unknown.
    """
    try:
        return _load_suite(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except KeyError as error:
        raise ConfigError(f"{path}: no {error}; wanted one") from None
    except (ValueError, TypeError, AttributeError, IndexError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None


def _load_suite(path: Path) -> list[Capability]:
    content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    forms = content["groups"]
    if len(lengths := {len(form) for form in forms.values()}) > 1:
        raise ValueError(f"groups: got lists of {sorted(lengths)} entries, wanted one length")
    names = next(iter(forms.values()))
    suite = []
    for entry in content["capabilities"]:
        rows = [
            _Row(template.format(**{name: form[i] for name, form in forms.items()}), template, name)
            for template in entry.get("templates", [])
            for i, name in enumerate(names)
        ]
        rows += [_Row(case, None, None) for case in entry.get("cases", [])]
        attributes = entry.get("attributes", {})
        _check_expected(str(entry["name"]), entry.get("expect"), attributes)
        if not rows:
            raise ValueError(f"{entry['name']}: got no texts, wanted templates or cases")
        texts, templates, groups = zip(*rows, strict=True)
        suite.append(
            Capability(
                entry["name"], entry["description"], tuple(entry.get("expect", ())),
                {name: level == "high" for name, level in attributes.items()}, entry["floor"],
                texts, templates, groups,
            )
        )  # fmt: skip
    return suite


def _check_expected(where: str, expect: Sequence[str] | None, attributes: dict[str, str]) -> None:
    if not expect and not attributes:
        raise ValueError(f"{where}: got neither `expect` nor `attributes`, wanted one of them")
    for name, level in attributes.items():
        if name not in ATTRIBUTES:
            raise ValueError(f"{where}: got attribute {name}, wanted one of {list(ATTRIBUTES)}")
        if level not in ("high", "low"):
            raise ValueError(f"{where}: {name}: got {level!r}, wanted 'high' or 'low'")


def outcomes(
    suite: Sequence[Capability], labels: Sequence[str], attributes: Floats
) -> dict[str, Outcome]:
    """Return a model's outcome by capability, in the suite's order.

    A text passes if it has an expected label, and every attribute named is at the level named.

    Args:
        suite: the capabilities.
        labels: the model's label of every text, in the suite's order.
        attributes: [texts, attributes] its probabilities, in the order of ATTRIBUTES.

    Raises:
        ValueError: there are not as many labels or rows of attributes as texts.
    """
    _check_lengths(suite, len(labels), len(attributes))
    results, start = {}, 0
    for capability in suite:
        end = start + len(capability.texts)
        rows = zip(capability.texts, labels[start:end], attributes[start:end], strict=True)
        failed = [text for text, label, row in rows if not _passes(capability, label, row)]
        count = len(capability.texts)
        results[capability.name] = Outcome(
            count - len(failed), count, capability.floor, next(iter(failed), "")
        )
        start = end
    return results


def _passes(capability: Capability, label: str, attributes: Floats) -> bool:
    return (not capability.expect or label in capability.expect) and all(
        (attributes[ATTRIBUTES.index(name)] >= HIGH) == high
        for name, high in capability.attributes.items()
    )


def _check_lengths(suite: Sequence[Capability], *lengths: int) -> None:
    texts = sum(len(capability.texts) for capability in suite)
    for length in lengths:
        if length != texts:
            raise ValueError(f"got {length} rows, wanted {texts}: one for each text of the suite")


def group_rates(suite: Sequence[Capability], labels: Sequence[str]) -> dict[str, float]:
    """Return how often templates that are not hate are labelled hate, by group.

    All groups have the same templates, so only the group makes a difference. Templates of
    capabilities that expect no label are left out.
    """
    _check_lengths(suite, len(labels))
    rows = [(c.expect, group) for c in suite for group in c.groups]
    called: dict[str, list[bool]] = {}
    for (expect, group), label in zip(rows, labels, strict=True):
        if group is not None and expect and "hate" not in expect:
            called.setdefault(group, []).append(label == "hate")
    return {group: sum(hits) / len(hits) for group, hits in called.items()}


def differing_pairs(suite: Sequence[Capability], labels: Sequence[str]) -> float:
    """Return the share of pairs of groups that get different labels in the same template.

    All pairs of all templates count alike, whatever label is expected. 0 without templates.
    """
    _check_lengths(suite, len(labels))
    pairs = differing = 0
    for chosen in _labels_by_template(suite, labels):
        count = len(chosen)
        pairs += count * (count - 1) // 2
        # n² less the ordered pairs that agree (a label with itself included) counts a pair twice.
        differing += (count**2 - sum(n**2 for n in Counter(chosen).values())) // 2
    return differing / pairs if pairs else 0.0


def _labels_by_template(suite: Sequence[Capability], labels: Sequence[str]) -> Iterator[list[str]]:
    chosen: dict[tuple[str, str], list[str]] = {}
    rows = [(c.name, template) for c in suite for template in c.templates]
    for (name, template), label in zip(rows, labels, strict=True):
        if template is not None:
            chosen.setdefault((name, template), []).append(label)
    yield from chosen.values()
