"""The columns that are compared, and the reference's file."""

import json
from pathlib import Path

import pytest

from serving.bundle import LABELS, Bundle
from serving.drift.columns import (
    MAX_REFERENCE_ROWS,
    Columns,
    DriftError,
    Reference,
    digest,
    make_reference,
    read_reference,
    unknown_shares,
)
from tests.conftest import ROOT

TEXTS = [
    "you are all welcome here",
    "สวัสดีครับ คุณสบายดีไหม",
    "wörds and 😂",
    "¿dónde está la biblioteca hoy?",
]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(ROOT / "models" / "release", threads=1)


@pytest.fixture(scope="module")
def reference(bundle: Bundle) -> Reference:
    return make_reference(bundle, TEXTS, bundle.score(TEXTS), "four texts")


def columns(**changes: object) -> Columns:
    values = {"label": ["hate"], "hate": [0.9], "offensive": [0.1], "neither": [0.0],
              "language": ["en"]}  # fmt: skip
    return Columns.model_validate(values | changes)


def test_a_row_describes_its_text_without_it(bundle: Bundle, reference: Reference) -> None:
    order = sorted(range(len(TEXTS)), key=lambda i: digest(TEXTS[i]))
    scores = bundle.score(TEXTS).labels
    made = reference.columns
    assert made.characters == [len(TEXTS[i]) for i in order]
    assert made.language == [["en", "th", "en", "es"][i] for i in order]
    assert made.label == [LABELS[i] for i in bundle.decide(scores)[order]]
    assert made.hate == pytest.approx(scores[order, 0].tolist(), abs=1e-4)
    assert not any(text in reference.dumps() for text in TEXTS)


def test_the_share_of_unknown_pieces_is_that_of_the_text_s_own_pieces(bundle: Bundle) -> None:
    # Of the Thai text's two pieces the tokenizer knows none.
    assert unknown_shares(bundle, TEXTS) == [0, 1, 0, 0]
    assert unknown_shares(bundle, ["", "hello สวัสดีครับ"]) == [0, 0.5]


def test_the_rows_are_chosen_by_hash_and_so_the_same_in_any_order(bundle: Bundle) -> None:
    texts = [f"text number {i}" for i in range(MAX_REFERENCE_ROWS + 50)]
    scores = bundle.score(texts[:1])
    scores = type(scores)(*(part.repeat(len(texts), axis=0) for part in scores))
    made = make_reference(bundle, texts, scores, "many")
    assert made.columns.rows == MAX_REFERENCE_ROWS
    assert make_reference(bundle, texts[::-1], scores, "many") == made


def test_the_file_is_read_as_it_was_written(reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "drift_reference.json"
    path.write_text(reference.dumps())
    assert read_reference(path) == reference
    assert json.loads(reference.dumps())["origin"] == "four texts"
    assert read_reference(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": "a", "origin": "b", "columns": {}}']
)
def test_a_file_that_is_no_reference_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "drift_reference.json"
    path.write_text(content)
    with pytest.raises(DriftError, match="not a drift reference"):
        read_reference(path)


def test_columns_have_one_length_and_our_labels() -> None:
    assert set(columns().present()) == {"label", *LABELS, "language"}
    with pytest.raises(ValueError, match="different lengths"):
        columns(hate=[0.9, 0.8])
    with pytest.raises(ValueError, match=r"got \['rude'\], wanted hate, offensive, neither"):
        columns(label=["rude"])
