import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from serving.bundle import (
    ATTRIBUTES,
    LABELS,
    MAX_WINDOWS,
    Bundle,
    BundleError,
    Encoding,
    Scores,
    Thresholds,
    content_version,
    decide,
    scores_by_label,
)
from serving.bundle.decision import combine_windows

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
    labels, attributes = bundle.score(TEXTS, batch_size=3)
    assert labels.shape == (len(TEXTS), len(LABELS))
    assert attributes.shape == (len(TEXTS), len(ATTRIBUTES))
    assert np.allclose(labels.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(attributes[:, 0], labels[:, :2].sum(axis=1), atol=1e-5)
    assert ((attributes >= 0) & (attributes <= 1)).all()
    together = np.concatenate([labels, attributes], axis=1)
    alone = np.concatenate([np.concatenate(bundle.score([text]), axis=1) for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-3
    assert len(np.unique(labels.round(4), axis=0)) > 3


def test_calibration_turns_an_attributes_logit_into_its_probability(folder: Path) -> None:
    before = Bundle.load(folder).score(TEXTS).attributes
    manifest = json.loads((folder / "bundle.json").read_text())
    changed = manifest["attributes"] | {"THREAT": {"scale": 2.0, "bias": 1.0}}
    rewrite(folder, attributes=changed)
    after = Bundle.load(folder).score(TEXTS).attributes
    old, column = manifest["attributes"]["THREAT"], ATTRIBUTES.index("THREAT")
    logit = (np.log(before / (1 - before))[:, column] - old["bias"]) / old["scale"]
    assert after[:, column] == pytest.approx(1 / (1 + np.exp(-(2 * logit + 1))), abs=1e-4)
    others = [i for i in range(len(ATTRIBUTES)) if i != column]
    assert np.array_equal(after[:, others], before[:, others])


def test_a_parallel_inference_gives_the_same_scores(folder: Path) -> None:
    bundle = Bundle.load(folder, threads=1, parallel_threads=2)
    batch = bundle.encode(TEXTS)
    for one, parallel in zip(
        bundle.infer(batch), bundle.infer(batch, intra_op_parallel=True), strict=True
    ):
        assert np.array_equal(one, parallel)


def test_a_long_text_has_windows_and_is_truncated_after_the_last(folder: Path) -> None:
    bundle = Bundle.load(folder)
    encodings = bundle.encode([*TEXTS, "word " * 3000])
    assert [row.truncated for row in encodings] == [False] * len(TEXTS) + [True]
    windows = [len(row.windows) for row in encodings]
    assert [count > 1 for count in windows] == [len(text) > 1000 for text in TEXTS] + [True]
    assert max(windows) == MAX_WINDOWS
    longest = max(len(window) for row in encodings for window in row.windows)
    assert longest == bundle.manifest.max_tokens


def test_a_long_text_has_the_scores_of_its_worst_window(folder: Path) -> None:
    bundle = Bundle.load(folder)
    words = ["have a lovely day"] * 40 + ["you absolute clown"] * 20 + ["good morning"] * 40
    (encoding,) = bundle.encode([" ".join(words)])
    windows = bundle.infer([Encoding((window,), False) for window in encoding.windows])
    whole = bundle.infer([encoding])
    assert len(encoding.windows) > 1
    worst = windows.attributes[:, 0].argmax()
    assert whole.labels[0] == pytest.approx(windows.labels[worst], abs=1e-3)
    assert whole.attributes[0] == pytest.approx(windows.attributes.max(axis=0), abs=1e-3)


def test_no_texts_have_no_scores(folder: Path) -> None:
    labels, attributes = Bundle.load(folder).score([])
    assert (labels.shape, attributes.shape) == ((0, len(LABELS)), (0, len(ATTRIBUTES)))


def test_golden_scores_are_reproduced_and_a_wrong_one_is_detected(folder: Path) -> None:
    assert Bundle.load(folder).golden_error() < 1e-5
    golden = json.loads((folder / "bundle.json").read_text())["golden"]
    for part, name, wrong in (("scores", "hate", 0.25), ("attributes", "THREAT", 0.5)):
        golden[1][part][name] += wrong
        rewrite(folder, golden=golden)
        assert Bundle.load(folder).golden_error() == pytest.approx(wrong, abs=1e-4)


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
        ({"schema_version": 3}, "schema 3 is newer than 2"),
        ({"schema_version": 1}, "schema 1 has no attributes"),
        ({"attributes": {"THREAT": {"scale": 1, "bias": 0}}}, "attributes: got"),
        ({"attributes": {"THREAT": {"scale": 0, "bias": 0}}}, "attributes.THREAT.scale"),
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


def test_scores_of_windows_become_scores_of_texts() -> None:
    labels = np.array([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1], [0.0, 0.1, 0.9]], dtype=np.float32)
    attributes = np.zeros((3, len(ATTRIBUTES)), dtype=np.float32)
    attributes[:, 0] = labels[:, :2].sum(axis=1)
    attributes[:, 5] = 0.3, 0.1, 0.2
    scores = Scores(labels, attributes)
    texts = combine_windows(scores, [2, 1])
    assert np.array_equal(texts.labels, labels[[1, 2]])
    assert texts.attributes[:, 0] == pytest.approx([0.9, 0.1])
    assert texts.attributes[:, 5] == pytest.approx([0.3, 0.2])
    assert combine_windows(scores, [1, 1, 1]) is scores


def test_scores_by_label() -> None:
    scores = {"hate": 0.5, "offensive": 0.25, "neither": 0.25}
    assert scores_by_label([0.5, 0.25, 0.25]) == scores
