import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from serving.bundle import (
    LABELS,
    Bundle,
    BundleError,
    Thresholds,
    content_version,
    decide,
    scores_by_label,
)

TEXTS = [
    "have a lovely day",
    "you absolute clown",
    "i d i o t",
    "",
    "😂😂",
    "word " * 300,
    "привет",
    "ok",
]


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained bundle that a test can change."""
    for name in ("model.onnx", "tokenizer.json", "bundle.json"):
        shutil.copy(trained / "models" / "candidate" / name, tmp_path / name)
    return tmp_path


def rewrite(folder: Path, *, reseal: bool = True, **changes: object) -> None:
    path = folder / "bundle.json"
    content = json.loads(path.read_text()) | changes
    if reseal:
        content["version"] = content_version(content)
    path.write_text(json.dumps(content))


def test_scores_are_probabilities_in_the_order_of_the_texts(folder: Path) -> None:
    bundle = Bundle.load(folder)
    scores = bundle.score(TEXTS, batch_size=3)
    assert scores.shape == (len(TEXTS), len(LABELS))
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    alone = np.concatenate([bundle.score([text]) for text in TEXTS])
    assert np.abs(scores - alone).max() < 1e-3
    assert len(np.unique(scores.round(4), axis=0)) > 3


def test_a_parallel_inference_gives_the_same_scores(folder: Path) -> None:
    bundle = Bundle.load(folder, threads=1, parallel_threads=2)
    batch = bundle.encode(TEXTS)
    assert np.array_equal(bundle.infer(batch, intra_op_parallel=True), bundle.infer(batch))


def test_an_encoding_says_whether_its_text_was_truncated(folder: Path) -> None:
    bundle = Bundle.load(folder)
    encodings = bundle.encode(TEXTS)
    assert [row.truncated for row in encodings] == [len(text) > 1000 for text in TEXTS]
    assert max(len(row.ids) for row in encodings) == bundle.manifest.max_tokens


def test_no_texts_have_no_scores(folder: Path) -> None:
    assert Bundle.load(folder).score([]).shape == (0, len(LABELS))


def test_golden_scores_are_reproduced_and_a_wrong_one_is_detected(folder: Path) -> None:
    assert Bundle.load(folder).golden_error() < 1e-5
    golden = json.loads((folder / "bundle.json").read_text())["golden"]
    golden[1]["scores"]["hate"] += 0.25
    rewrite(folder, golden=golden)
    assert Bundle.load(folder).golden_error() == pytest.approx(0.25, abs=1e-4)


def test_equal_content_has_one_version(folder: Path) -> None:
    content = json.loads((folder / "bundle.json").read_text())
    assert content_version(content | {"created": "later", "git_sha": "other"}) == content["version"]
    assert content_version(content | {"temperature": 9.0}) != content["version"]


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "bundle.json"])
def test_an_incomplete_bundle_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_an_altered_file_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} does not match its SHA-256 .* altered"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema 2 is newer than 1"),
        ({"labels": ["offensive", "hate", "neither"]}, "labels: got"),
        ({"temperature": -1.0}, "temperature: "),
        ({"surprise": 1}, "surprise: "),
    ],
)
def test_an_invalid_manifest_is_refused(
    folder: Path, changes: dict[str, object], message: str
) -> None:
    rewrite(folder, **changes)
    with pytest.raises(BundleError, match=message):
        Bundle.load(folder)


def test_a_changed_manifest_is_refused(folder: Path) -> None:
    rewrite(folder, reseal=False, thresholds={"hate": 0.9, "toxic": 0.9})
    with pytest.raises(BundleError, match="its version does not match its content"):
        Bundle.load(folder)


def test_a_manifest_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match="not JSON"):
        Bundle.load(folder)


def test_files_that_match_the_manifest_but_cannot_be_loaded_are_refused(folder: Path) -> None:
    import hashlib

    (folder / "model.onnx").write_bytes(b"nonsense")
    files = json.loads((folder / "bundle.json").read_text())["files"]
    rewrite(folder, files=files | {"model.onnx": hashlib.sha256(b"nonsense").hexdigest()})
    with pytest.raises(BundleError, match="cannot be loaded"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("scores", "label"),
    [
        ([0.41, 0.39, 0.20], "hate"),
        ([0.36, 0.50, 0.14], "hate"),
        ([0.30, 0.50, 0.20], "offensive"),
        ([0.28, 0.25, 0.47], "offensive"),
        ([0.20, 0.25, 0.55], "neither"),
        ([0.42, 0.00, 0.58], "hate"),
    ],
)
def test_thresholds_decide_the_label(scores: list[float], label: str) -> None:
    (index,) = decide(np.array([scores], dtype=np.float32), Thresholds(hate=0.4, toxic=0.5))
    assert LABELS[index] == label


def test_with_a_threshold_of_one_half_hate_means_that_it_is_the_likeliest_label() -> None:
    scores = np.random.default_rng(3).dirichlet([1, 1, 1], 500).astype(np.float32)
    labels = decide(scores, Thresholds(hate=0.5, toxic=0.5))
    assert ((labels == 0) == (scores.argmax(axis=1) == 0)).all()


def test_scores_by_label() -> None:
    scores = {"hate": 0.5, "offensive": 0.25, "neither": 0.25}
    assert scores_by_label([0.5, 0.25, 0.25]) == scores
