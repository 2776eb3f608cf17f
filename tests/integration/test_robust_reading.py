"""The shipped model reads disguised texts as it reads plain ones.

The texts are the behavioural suite's. Each transformation may cost at most 5 points of recall on
abusive texts and add at most 1 point of false positives on clean ones.
"""

import random

import numpy as np
import pytest

from serving.bundle import Bundle
from tests.support.service import ROOT
from tests.support.transformations import TRANSFORMATIONS
from training.evaluation.behaviour import load_suite

MAX_LOST_RECALL = 0.05
MAX_FALSE_POSITIVES = 0.01
# They have disguises of their own, or are in another language.
LEFT_OUT = ("hate_misspelled", "hate_leetspeak", "word_boundaries", "unusual", "glued", "entities",
            "spelled_out", "obfuscated", "emoji", "look_alike", "other_languages")  # fmt: skip


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(ROOT / "models" / "release")


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    """Abusive and clean texts: of each template three fillings, so that no group outweighs."""
    found: dict[str, list[str]] = {"abusive": [], "clean": []}
    for capability in load_suite(ROOT / "configs" / "behaviour.yaml"):
        if not capability.expect or any(name in capability.name for name in LEFT_OUT):
            continue
        if "neither" not in capability.expect or capability.expect == ("neither",):
            kind = "clean" if capability.expect == ("neither",) else "abusive"
            pairs = zip(capability.templates, capability.texts, strict=True)
            found[kind] += [text for i, (template, text) in enumerate(pairs)
                            if template is None or i % 7 == 0]  # fmt: skip
    return found


def toxic_share(bundle: Bundle, texts: list[str]) -> float:
    return float((bundle.decide(bundle.score(texts).labels) != 2).mean())


def test_there_are_enough_texts(bundle: Bundle, texts: dict[str, list[str]]) -> None:
    assert min(map(len, texts.values())) >= 100
    assert toxic_share(bundle, texts["abusive"]) > 0.85
    assert toxic_share(bundle, texts["clean"]) < 0.15


# Not reached by the shipped model; docs/experiments.md has the figures. A full stop or "!" in the
# middle of a sentence changes its score, although the words are read.
NOT_REACHED = ("spaces", "spaced capitals", "hashtag", "glued by !", "glued by .",
               "glued to a link by )")  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(name in NOT_REACHED, reason="", strict=True))
        for name in TRANSFORMATIONS
    ],
)
def test_a_disguise_costs_little(bundle: Bundle, texts: dict[str, list[str]], name: str) -> None:
    change = TRANSFORMATIONS[name]
    moved = {}
    for kind, plain in texts.items():
        disguised = [change(text, random.Random(f"{name} {text}")) for text in plain]
        assert np.mean([a != b for a, b in zip(plain, disguised, strict=True)]) > 0.1
        moved[kind] = toxic_share(bundle, disguised) - toxic_share(bundle, plain)
    assert moved["abusive"] >= -MAX_LOST_RECALL
    assert moved["clean"] <= MAX_FALSE_POSITIVES
