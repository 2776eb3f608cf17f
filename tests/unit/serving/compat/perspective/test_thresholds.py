import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.bundle import Bundle
from serving.compat.perspective.thresholds import (
    Floats,
    MapError,
    agreement,
    compare,
    disagreements,
    main,
    matching,
    read,
    run,
)
from serving.compat.perspective.translate import Attributes

TABLE = Attributes.load(Path(__file__).parents[5] / "configs" / "perspective.yaml")


def shifted(comments: int, seed: int) -> tuple[Floats, Floats]:
    """Perspective's scores and ours: on the logit scale, ours lie one lower, with some noise."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(-0.5, 1.5, comments)
    theirs, ours = logits, logits - 1 + draw.normal(0, 0.4, comments)
    return 1 / (1 + np.exp(-theirs)), 1 / (1 + np.exp(-ours))


def test_the_threshold_that_flags_as_many_is_found_within_its_interval() -> None:
    """In 95 of 100 files of 400 comments; here 60, of which 51 or more with p > 0.999."""
    truth = [matching(*shifted(1_000_000, seed=99), threshold) for threshold in (0.5, 0.8)]
    # Almost the shift alone: a score of .5 there is one of 1 / (1 + e) here.
    assert truth[0] == pytest.approx(1 / (1 + np.e), abs=0.02)
    held = np.zeros(2, dtype=int)
    for seed in range(60):
        rows = compare(*shifted(400, seed), (0.5, 0.8))
        held += [row.ours.low <= t <= row.ours.high for row, t in zip(rows, truth, strict=True)]
    assert (held >= 51).all(), held


def test_the_same_share_is_flagged() -> None:
    theirs, ours = shifted(1001, seed=1)
    for row in compare(theirs, ours, (0.3, 0.7, 0.9)):
        assert (ours >= row.ours.value).mean() == pytest.approx(row.share)
        assert row.ours.low < row.ours.value < row.ours.high
        assert row.same.low <= row.same.value <= row.same.high
        assert 0.5 < row.kappa.value < row.same.value


def test_equal_scores_are_flagged_together() -> None:
    theirs, ours = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.5, 0.5, 0.5, 0.9])
    assert matching(theirs, ours, 0.7) == 0.5
    assert agreement(theirs, ours, 0.7, 0.5) == (0.5, 0.0)
    assert np.isnan(matching(theirs, ours, 0.95))
    assert np.isnan(matching(theirs, ours, 0.1))


def test_agreement_is_kappa_as_its_authors_work_it_out() -> None:
    """Cohen's example: 20 + 15 of 50 alike, margins of a half and of 0.6."""
    there = np.repeat([1.0, 1.0, 0.0, 0.0], [20, 5, 10, 15])
    here = np.repeat([1.0, 0.0, 1.0, 0.0], [20, 5, 10, 15])
    assert agreement(there, here, 0.5, 0.5) == (0.7, pytest.approx(0.4))


def test_the_farthest_apart_come_first() -> None:
    theirs, ours = np.linspace(0, 1, 50), np.linspace(0, 0.5, 50)
    ours[[3, 40]] = 0.6, 0.001
    assert disagreements(theirs, ours)[:2] == [3, 40]


def write(path: Path, rows: list[list[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    rows = [["id", "Comment_Text", "toxicity", "INSULT"], [1, "a\nb", 0.5, ""], [2, " ", 1, 1]]
    found = read(write(tmp_path / "f.csv", [*rows, [3, "ü,", "", 1]]), TABLE.attributes)
    assert found.texts == ["a\nb", "ü,"]
    assert set(found.scores) == {"TOXICITY", "INSULT"}
    assert np.array_equal(found.scores["TOXICITY"], [0.5, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([["words", "TOXICITY"], ["a", 1]], "text or comment"),
        ([["text", "THREAT"], ["a", 1]], "TOXICITY or IDENTITY_ATTACK"),
        ([["text", "TOXICITY"]], "no comments"),
        ([["text", "TOXICITY"], ["a", 0.1], ["b", "high"]], "f.csv:3: TOXICITY: got 'high'"),
        ([["text", "TOXICITY"], ["a", 1.5]], "f.csv:2: TOXICITY: got '1.5'"),
        ([["text", "TOXICITY"], ["a", "nan"]], "got 'nan'"),
        ([["text", "TOXICITY"], ["a"]], "no comment has a score"),
    ],
)
def test_a_wrong_file_is_named(
    tmp_path: Path, trained: Path, rows: list[list[object]], named: str
) -> None:
    bundle = Bundle.load(trained / "models" / "candidate")
    with pytest.raises(MapError, match=named):
        run(write(tmp_path / "f.csv", rows), bundle, TABLE, (0.5,))
    with pytest.raises(MapError, match="absent"):
        read(tmp_path / "absent", TABLE.attributes)


def test_the_whole_way_from_a_file_of_known_shift(
    tmp_path: Path,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = trained / "models" / "candidate"
    with (trained / "data" / "sample" / "tweets.csv").open(encoding="utf-8", newline="") as file:
        texts = [row[0] for row in list(csv.reader(file))[1:]]
    scores = Bundle.load(folder).score(texts).astype(float)
    ours = scores[:, 0] + scores[:, 1]
    path = write(tmp_path / "f.csv", [["text", "TOXICITY"], *zip(texts, ours**2, strict=True)])
    truth = float(np.median(ours))
    arguments = ["x", str(path), "--bundle", str(folder), "--thresholds", str(truth**2)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--table", "configs/perspective.yaml"])
    monkeypatch.chdir(Path(__file__).parents[5])
    main()
    printed = capsys.readouterr().out
    assert f"TOXICITY: Perspective's against p(hate) + p(offensive) here, {len(texts)}" in printed
    found = re.findall(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)", printed)
    value, low, high = map(float, found[0])
    assert low - 0.001 <= truth <= high + 0.001
    assert value == pytest.approx(truth, abs=0.01)
    assert "100.0%" in printed
    assert any(text[:60] in printed for text in texts)


def test_what_is_wrong_ends_the_program_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", "f.csv"])
    with pytest.raises(SystemExit, match=r"bundle\.json is missing"):
        main()
