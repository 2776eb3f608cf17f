import json
import shutil
import time
from collections.abc import Callable
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


# Of each, normalisation or the tokenizer makes more than of other texts, or takes longer.
COSTLY = [
    "ﷺ", "㌖", "🥴", "🔂", "➱", "👨\u200d👩\u200d👧", "🇺🇸", "½", "각", "漢", "\u0301", "\u200d",
    "a\u0301\u0316", "e\u0301" * 30, "@ ", "a ", "!?", "#aA", "&#0", "x", "\n", "f-u-c-k ",
    "i d i o t ", "@user ", "http://a.b/c(", "a$", "@a", "word" * 25 + " ",
    "qxzjvk" * 16 + " ", "бвгджз" * 16 + " ",
]  # fmt: skip


def seconds(function: Callable[[], object]) -> float:
    """The least processor time of three calls."""
    times = []
    for _ in range(3):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return min(times)


def of_size(unit: str, size: int) -> str:
    """`unit` again and again, up to `size` bytes."""
    return unit * (size // len(unit.encode()))


@pytest.mark.parametrize("unit", COSTLY)
def test_the_work_for_a_text_is_in_proportion_to_its_bytes(trained: Path, unit: str) -> None:
    bundle = Bundle.load(trained / "models" / "candidate")
    usual = of_size("nobody wants to read this long and boring comment today ", 30_000)
    text = of_size(unit, 30_000)
    cost = seconds(lambda: bundle.encode([text])) / seconds(lambda: bundle.encode([usual]))
    # A word of 96 pieces is split by trial; with the model's work it is a factor of two.
    assert cost < (12 if len(unit) > 90 else 4)
    for size in (60, 600, 6000):
        (encoding,) = bundle.encode([of_size(unit, size)])
        assert len(encoding.ids) <= 2 * size + 2 * bundle.manifest.max_tokens
        assert len(encoding.windows) <= MAX_WINDOWS


def test_a_text_that_normalisation_makes_too_long_is_cut_and_says_so(folder: Path) -> None:
    bundle = Bundle.load(folder)
    whole = "ﷺ" * 10_000
    short, cut, longer = bundle.encode(["ﷺ", whole, "ﷺ" * 40])
    assert [row.truncated for row in (short, cut, longer)] == [False, True, True]
    assert len(longer.windows) < MAX_WINDOWS  # it has five tokens for each of its bytes
    # What it begins with is read; a usual text of the same length is not cut.
    assert cut.windows[0] == bundle.encode([whole[:500]])[0].windows[0]
    accents = "é" * 5 + " "
    (usual,) = bundle.encode([accents * 1600])
    assert bundle.encode([accents * 1700])[0].windows == usual.windows
    assert (
        bundle.tokenizer.encode("naïve " * 80).ids == bundle.encode(["naïve " * 80])[0].windows[0]
    )


def test_equal_texts_of_a_list_are_tokenised_once(folder: Path) -> None:
    bundle = Bundle.load(folder)
    text = "nobody wants to read this " * 400
    once, often = (seconds(lambda n=n: bundle.encode([text] * n)) for n in (1, 50))
    assert often < 4 * once
    first, other, again = bundle.encode([text, "ok", text])
    assert first is again
    assert other == bundle.encode(["ok"])[0]


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
