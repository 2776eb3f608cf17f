"""The figures of a bundle, on a few synthetic rows and with scores that are known."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from serving.bundle import ATTRIBUTES, LABELS, Scores
from tests.conftest import ROOT
from training.config import load_sources
from training.evaluation.behaviour import Capability
from training.evaluation.measure import Measurement, compare_with_fp32, figures, measure
from training.evaluation.model_card import model_card, results

SOURCES = load_sources(ROOT / "configs" / "sources.yaml")
UNKNOWN = [np.nan] * 5
SUITE = [
    Capability("praise", "", ("neither",), {}, 0.5, ("kind x", "kind y"), ("{g}",) * 2, ("x", "y")),
    Capability("threat", "", (), {"THREAT": True}, 0.5, ("hate z",), (None,), (None,)),
]


class Words:
    """A stand-in for a bundle: a text's first word says its label; the second may raise THREAT."""

    def __init__(self, error: float = 0.0) -> None:
        self.error = error

    def score(self, texts: list[str]) -> Scores:
        words = [text.split()[0] for text in texts]
        chosen = [LABELS.index(word) if word in LABELS else 2 for word in words]
        labels = np.full((len(texts), 3), 0.1, np.float32)
        labels[np.arange(len(texts)), chosen] = 0.8
        attributes = np.full((len(texts), len(ATTRIBUTES)), 0.25, np.float32)
        attributes[:, 0] = labels[:, :2].sum(axis=1)
        attributes[:, -1] = [0.75 if "hate" in text else 0.25 for text in texts]
        return Scores(labels, attributes + np.float32(self.error))

    def encode(self, texts: list[str]) -> list[str]:
        return texts

    infer = score

    def decide(self, scores: np.ndarray) -> np.ndarray:
        return scores.argmax(axis=1)


def rows() -> Iterator[tuple[Any, ...]]:
    """Text, labels, source, whether in test, attributes."""
    for i in range(40):
        label = LABELS[i % 3]
        chosen = "hate" if i % 10 == 0 else label
        yield f"{chosen} women {i}", [label], "davidson", True, [1.0] * 5
        threat = [0.0, 1.0, np.nan, 0.0, float(i % 3 == 0)]
        yield f"{label} text {i}", [label], "jigsaw", True, threat
        toxic = ["hate", "offensive"] if i % 2 else ["neither"]
        yield f"{toxic[0]} words {i}", toxic, "hatexplain_val", False, UNKNOWN
    for i in range(24):
        label = "neither" if i % 2 else "offensive"
        chosen = "offensive" if i % 8 == 1 else label
        yield f"{chosen} " + f"word{i} " * 70, [label], "jigsaw_long", True, [0.0] * 5


@pytest.fixture(scope="module")
def measured() -> Measurement:
    columns = ["text", "labels", "source", "in_test", "attributes"]
    return measure(Words(), pd.DataFrame(list(rows()), columns=columns), SOURCES, SUITE)


@pytest.fixture(scope="module")
def metrics(measured: Measurement) -> dict[str, Any]:
    return figures(measured, draws=100) | {
        "version": "0123456789ab",
        "int8_against_fp32": compare_with_fp32(Words(), Words(0.01), measured, draws=100),
        "milliseconds_a_text": {name: {"p50": 1.0, "p95": 2.0} for name in ("int8", "fp32")},
        "megabytes": 25.0,
    }


def test_each_source_is_measured_by_what_it_knows(metrics: dict[str, Any]) -> None:
    assert metrics["reference"] == "davidson"
    assert set(metrics["sources"]) == {"davidson", "jigsaw", "jigsaw_long"}
    assert list(metrics["external"]) == ["hatexplain_val"]
    assert metrics["external"]["hatexplain_val"]["roc_auc"] == 1.0
    attributes = metrics["attributes"]
    assert list(attributes) == ["jigsaw", "jigsaw_long"]
    # Of INSULT no row is known, and davidson teaches no attribute, whatever its rows know.
    assert set(attributes["jigsaw"]) == set(ATTRIBUTES) - {"INSULT"}
    threat = attributes["jigsaw"]["THREAT"]
    assert (threat["positives"], threat["f1"], threat["roc_auc"]) == (14, 1.0, 1.0)
    assert threat["ece"] == pytest.approx(0.25)
    assert attributes["jigsaw"]["IDENTITY_ATTACK"]["positives"] == 40
    assert "roc_auc" not in attributes["jigsaw"]["IDENTITY_ATTACK"]
    assert attributes["jigsaw"]["TOXICITY"]["roc_auc"] == 1.0


def test_harmless_long_texts_that_are_called_toxic_are_counted(metrics: dict[str, Any]) -> None:
    long = metrics["long_texts"]
    assert (long["rows"], long["harmless_rows"], long["positives"]) == (24, 12, 12)
    assert long["harmless_called_toxic"] == pytest.approx(3 / 12)
    low, high = long["intervals"]["harmless_called_toxic"]
    assert low < 0.25 < high
    assert metrics["lengths"]["60 words and more"]["rows"] == 24


def test_the_gap_between_groups_is_that_of_tweets(metrics: dict[str, Any]) -> None:
    (group,) = metrics["identity"]["groups"]
    assert group == "women"
    assert metrics["identity"]["groups"]["women"]["rows"] == 26  # of davidson's 40, not hate


def test_the_suite_is_part_of_the_figures(metrics: dict[str, Any]) -> None:
    behaviour = metrics["behaviour"]
    assert (behaviour["texts"], behaviour["all"], behaviour["differing_pairs"]) == (3, 1.0, 0.0)
    assert behaviour["capabilities"] == {"praise": 1.0, "threat": 1.0}


def test_int8_is_compared_in_labels_and_attributes(metrics: dict[str, Any]) -> None:
    compared = metrics["int8_against_fp32"]
    assert compared["max_abs_difference"] == pytest.approx(0.01)
    assert compared["macro_f1_difference"] == compared["label_changes"] == 0
    assert compared["intervals"]["macro_f1_difference"] == [0, 0]


def test_rows_without_long_texts_or_attributes_have_no_such_figures() -> None:
    few = pd.DataFrame(
        [(text, labels, *rest, UNKNOWN) for text, labels, *rest, _ in list(rows())[:3:2]],
        columns=["text", "labels", "source", "in_test", "attributes"],
    )
    metrics = figures(measure(Words(), few, SOURCES, SUITE), draws=0)
    assert metrics["long_texts"] == metrics["attributes"] == {}
    assert "intervals" not in metrics["test"]


def test_the_table_fits_100_columns_and_the_card_has_every_figure(metrics: dict[str, Any]) -> None:
    table = dict(results(metrics))
    width = max(map(len, table))
    assert all(2 + width + 2 + len(value) <= 100 for value in table.values())
    assert table["jigsaw test: THREAT"].startswith("AUC 1.000 (1.000–1.000), AP 1.000")
    assert table["jigsaw test: IDENTITY_ATTACK"].startswith("AUC –, AP –, ECE 0.75")
    assert table["60 to 250 words: harmless called toxic"].startswith("0.250 (")
    assert table["behaviour: worst capability"] == "1.000 (praise)"
    assert table["tweets: largest gap between groups"].endswith(" (women)")
    calibration = SimpleNamespace(hate=0.5, toxic=0.5)
    manifest = {
        "name": "tweet-tagger", "version": "0123456789ab", "data": "sources", "created": "today",
        "git_sha": "0", "base": "minilm", "opset": 18, "quantisation": "int8", "max_tokens": 96,
        "thresholds": calibration, "temperature": 1.0, "data_sha": "0",
    }  # fmt: skip
    counts = {
        "read": ["davidson"], "kept": {key: {} for key in ("train", "val", "test", "external")},
        "duplicates": 0, "near_duplicates": 0, "conflicts": 0, "benchmarks": {},
    }  # fmt: skip
    card = model_card(manifest, metrics, counts, missing=[])
    assert "| jigsaw | THREAT | 40 | 14 | 1.000 (1.000–1.000) |" in card
    assert "| hatexplain_val | hate, offensive / neither | 40 | 1.000 (1.000–1.000) |" in card
    assert "| praise | 100 % |" in card
    template = Path(ROOT, "training/evaluation/MODEL_CARD.md.j2").read_text()
    assert card.count("\n## ") == template.count("\n## ")
    log = {
        "texts": {"by_reviewers": 41, "by_clients": 7}, "rows": {"in train": 40, "in val": 8},
        "reviews": {"read": 50, "entered": 45, "refused": {"unsure": 5}},
        "feedback": {"read": 99, "agreed": 21, "confirmed": 3, "refused": {"too_few_clients": 75}},
    }  # fmt: skip
    with_log = model_card(manifest, metrics, counts | {"logs": {"reviewed": log}}, missing=["x"])
    assert "reviewed is a prediction log: 41 texts have the label of reviewers, 7 one " in with_log
    assert "agree. 40 in train, 8 in val.\n\n| labels of reviewed | number |\n" in with_log
    assert "| by clients, refused: too few clients | 75 |\n\nNot used, because" in with_log
    assert len(with_log.splitlines()) > len(card.splitlines()) + 8
