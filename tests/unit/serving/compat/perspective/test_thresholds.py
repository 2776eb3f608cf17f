import csv
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from serving.bundle import Bundle
from serving.compat.perspective.commands import map_thresholds
from serving.compat.perspective.thresholds import (
    Floats,
    ThresholdsError,
    agreement,
    compare,
    disagreements,
    matching,
    read,
    report_file,
)
from serving.compat.perspective.translate import Attributes

TABLE = Attributes.load(Path(__file__).parents[5] / "configs" / "perspective.yaml")


def shifted(comments: int, seed: int) -> tuple[Floats, Floats]:
    """Perspective's scores and ours: on the logit scale, ours lie one lower, with some noise."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(-0.5, 1.5, comments)
    theirs, ours = logits, logits - 1 + draw.normal(0, 0.4, comments)
    return 1 / (1 + np.exp(-theirs)), 1 / (1 + np.exp(-ours))


def test_the_interval_contains_the_threshold_that_flags_as_many() -> None:
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
        assert row.agreement.low <= row.agreement.value <= row.agreement.high
        assert 0.5 < row.kappa.value < row.agreement.value


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


def test_the_largest_differences_come_first() -> None:
    theirs, ours = np.linspace(0, 1, 50), np.linspace(0, 0.5, 50)
    ours[[3, 40]] = 0.6, 0.001
    assert disagreements(theirs, ours)[:2] == [3, 40]


def write(path: Path, rows: list[list[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    rows = [["id", "Comment_Text", "toxicity", "INSULT"], [1, "a\nb", 0.5, ""], [2, " ", 1, 1]]
    scored = read(write(tmp_path / "f.csv", [*rows, [3, "ü,", "", 1]]), TABLE.attributes)
    assert scored.texts == ["a\nb", "ü,"]
    assert set(scored.scores) == {"TOXICITY", "INSULT"}
    assert np.array_equal(scored.scores["TOXICITY"], [0.5, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("rows", "message"),
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
def test_an_unusable_file_is_reported(
    tmp_path: Path, trained: Path, rows: list[list[object]], message: str
) -> None:
    bundle = Bundle.load(trained / "models" / "candidate")
    with pytest.raises(ThresholdsError, match=message):
        report_file(write(tmp_path / "f.csv", rows), bundle, TABLE, (0.5,))
    with pytest.raises(ThresholdsError, match="absent"):
        read(tmp_path / "absent", TABLE.attributes)


def test_the_command_reports_a_known_shift(tmp_path: Path, trained: Path) -> None:
    folder = trained / "models" / "candidate"
    with (trained / "data" / "sample" / "tweets.csv").open(encoding="utf-8", newline="") as file:
        texts = [row[0] for row in list(csv.reader(file))[1:]]
    scores = Bundle.load(folder).score(texts).astype(float)
    ours = scores[:, 0] + scores[:, 1]
    path = write(tmp_path / "f.csv", [["text", "TOXICITY"], *zip(texts, ours**2, strict=True)])
    truth = float(np.median(ours))
    arguments = [str(path), "--bundle", str(folder), "--threshold", str(truth**2)]
    result = CliRunner().invoke(map_thresholds, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert f"TOXICITY: Perspective's against p(hate) + p(offensive) here, {len(texts)}" in (
        result.output
    )
    intervals = re.findall(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)", result.output)
    value, low, high = map(float, intervals[0])
    assert low - 0.001 <= truth <= high + 0.001
    assert value == pytest.approx(truth, abs=0.01)
    assert "100.0%" in result.output
    assert any(text[:60] in result.output for text in texts)
