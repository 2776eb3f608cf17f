"""The behavioural suite itself: well-formed, and independent of what a model may learn from."""

from pathlib import Path

import pandas as pd
import yaml

from training.labels import LABELS
from training.text import build_normalizer, words

ROOT = Path(__file__).resolve().parent.parent.parent
SUITE = yaml.safe_load((Path(__file__).parent / "capabilities.yaml").read_text(encoding="utf-8"))


def cases(capability: dict) -> list[str]:
    """A template's placeholders are all filled from one index of the parallel group lists."""
    size = len(next(iter(SUITE["groups"].values())))
    fillings = [{name: forms[at] for name, forms in SUITE["groups"].items()} for at in range(size)]
    expanded = [
        template.format(**filling)
        for template in capability.get("templates", [])
        for filling in fillings
    ]
    return expanded + capability.get("cases", [])


def test_the_suite_is_well_formed() -> None:
    assert len({len(forms) for forms in SUITE["groups"].values()}) == 1
    names = [capability["name"] for capability in SUITE["capabilities"]]
    assert len(names) == len(set(names)) >= 25
    for capability in SUITE["capabilities"]:
        assert set(capability["expect"]) <= set(LABELS), capability["name"]
        assert len(cases(capability)) >= 5, capability["name"]
        assert not any("{" in case for case in cases(capability)), capability["name"]


def test_no_case_is_in_the_bundled_sample() -> None:
    """The sample is learned from; a case that it holds would test memory, not behaviour."""
    normalizer = build_normalizer()
    files = sorted((ROOT / "data" / "sample").glob("*.csv"))
    sample = [text for file in files for text in pd.read_csv(file)["text"]]
    taught = [set(words(normalizer.normalize_str(text))) for text in sample]
    for case in {case for c in SUITE["capabilities"] for case in cases(c)}:
        asked = set(words(normalizer.normalize_str(case)))
        assert all(len(asked & one) < 0.8 * len(asked | one) for one in taught), case
