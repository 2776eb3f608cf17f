import csv
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from serving.bundle import ATTRIBUTES, Bundle
from serving.compat.perspective.commands import map_thresholds
from serving.compat.perspective.thresholds import (
    Floats,
    ThresholdsError,
    compare,
    farthest_apart,
    measure,
    read,
    report,
    report_file,
)
from serving.compat.perspective.translate import Attributes

ROOT = Path(__file__).parents[5]
TABLE = Attributes.load(ROOT / "configs" / "perspective.yaml")


def shifted(comments: int, seed: int) -> tuple[Floats, Floats]:
    """Perspective's scores and ours: on the logit scale, ours are one lower, with some noise."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(-0.5, 1.5, comments)
    theirs, ours = logits, logits - 1 + draw.normal(0, 0.4, comments)
    return 1 / (1 + np.exp(-theirs)), 1 / (1 + np.exp(-ours))


def test_the_interval_covers_the_matching_threshold() -> None:
    """In 95 of 100 files of 400 comments; of the 60 here, in 51 or more with p > 0.999."""
    levels = (0.5, 0.8)
    truth = measure(*shifted(1_000_000, seed=99), np.array(levels))[0]
    # Almost the shift alone: a score of 0.5 there is one of 1 / (1 + e) here.
    assert truth[0] == pytest.approx(1 / (1 + np.e), abs=0.02)
    covered = np.zeros(2, dtype=int)
    for seed in range(60):
        rows = compare(*shifted(400, seed), levels)
        covered += [r.ours.low <= t <= r.ours.high for r, t in zip(rows, truth, strict=True)]
    assert (covered >= 51).all(), covered


def test_the_matching_threshold_flags_the_same_share() -> None:
    theirs, ours = shifted(1001, seed=1)
    for row in compare(theirs, ours, (0.3, 0.7, 0.9)):
        assert (ours >= row.ours.value).mean() == pytest.approx(row.share)
        assert row.ours.low < row.ours.value < row.ours.high
        assert row.agreement.low <= row.agreement.value <= row.agreement.high
        assert 0.5 < row.kappa.value < row.agreement.value


def test_equal_scores_are_flagged_together() -> None:
    theirs, ours = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.5, 0.5, 0.5, 0.9])
    assert measure(theirs, ours, np.array([0.7]))[:, 0].tolist() == [0.5, 0.5, 0.0]


def test_thresholds_that_flag_all_or_none_have_no_match() -> None:
    theirs, ours = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.1, 0.2, 0.8, 0.9])
    assert np.isnan(measure(theirs, ours, np.array([0.95, 0.1]))).all()
    assert [row.theirs for row in compare(theirs, ours, (0.1, 0.5, 0.95))] == [0.5]
    lines = report("abcd", theirs, ours, (0.1, 0.95)).splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["0.1", "flags", "all", "comments"],
        ["0.95", "flags", "no", "comments"],
    ]


def test_few_comments_on_one_side_of_a_threshold_have_no_interval() -> None:
    scores = np.linspace(0, 1, 101)
    text = report(["x"] * 101, scores, scores, (0.5, 0.95))
    half, few = text.splitlines()[1:3]
    assert (half.count(" to "), half.count("too few")) == (3, 0)
    assert (few.count(" to "), few.count("too few")) == (0, 3)
    assert "too few: fewer than 10 comments on one side, so no interval" in text
    assert "too few" not in report(["x"] * 101, scores, scores, (0.5,))


def test_resamples_that_flag_none_are_left_out() -> None:
    theirs, ours = np.array([0.9, 0.1, 0.2]), np.array([0.8, 0.1, 0.2])
    (row,) = compare(theirs, ours, (0.5,))
    assert not np.isnan([*row.ours, *row.agreement, *row.kappa]).any()


def test_kappa_of_cohens_example() -> None:
    """20 + 15 of 50 decisions are equal; the shares are 0.5 and 0.6."""
    there = np.repeat([1.0, 1.0, 0.0, 0.0], [20, 5, 10, 15])
    here = np.repeat([1.0, 0.0, 1.0, 0.0], [20, 5, 10, 15])
    # A share of 0.5 falls among equal scores here, so all of those are flagged.
    assert measure(there, here, np.array([0.5]))[1:, 0].tolist() == [0.7, pytest.approx(0.4)]


def test_the_comments_farthest_apart_come_first() -> None:
    theirs, ours = np.linspace(0, 1, 50), np.linspace(0, 0.5, 50)
    ours[[3, 40]] = 0.6, 0.001
    assert farthest_apart(theirs, ours)[:2] == [3, 40]


def write(path: Path, rows: list[list[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    rows = [["id", "Comment_Text", "toxicity", "INSULT"], [1, "a\nb", 0.5, ""], [2, " ", 1, 1]]
    scored = read(write(tmp_path / "f.csv", [*rows, [3, "ü,", "", 1]]), TABLE.names)
    assert scored.texts == ["a\nb", "ü,"]
    assert set(scored.scores) == {"TOXICITY", "INSULT"}
    assert np.array_equal(scored.scores["TOXICITY"], [0.5, np.nan], equal_nan=True)
    assert scored.blank == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.csv", b"\xef\xbb\xbftext;TOXICITY\r\nwell, you;0,83\r\nfine;0\r\n"),
        ("F.CSV", b'sep=;\ntext;TOXICITY\n"well, you";,83\nfine;0,0\n'),
        ("f.tsv", b"text\tTOXICITY\nwell, you\t0.83\nfine\t0\n"),
        ("f.jsonl", b'{"text": "well, you", "TOXICITY": 0.83}\n{"text": "fine", "TOXICITY": 0}\n'),
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    scored = read(tmp_path / name, TABLE.names)
    assert scored.texts == ["well, you", "fine"]
    assert scored.scores["TOXICITY"].tolist() == [0.83, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,TOXICITY\nwell, you,0.9\n", "row 1: got 3 fields, the header has 2"),
        (b'text,TOXICITY\n"so,0.1\nno,0.2\n', "row 1: a quotation mark opens a cell"),
        (b"text,TOXICITY\na\0b,0.1\n", "row 1: got a NUL byte"),
        (b"text,TOXICITY,toxicity\na,0.1,0.2\n", "the header has 'toxicity' twice"),
        (b"txt,TOXICITY\na,0.1\n", "it has 'txt', 'TOXICITY'; did you mean 'txt'"),
        (b"text,TOXICITY\na,1.000,\n", r"\(a separator at the end\)"),
        (b"text,TOXICITY\na,0_1\n", "row 1: TOXICITY: got '0_1', wanted a score from 0 to 1"),
        (b"text;TOXICITY\na;1,000\n", "row 1: TOXICITY: got '1,000', wanted a score from 0 to 1"),
        (b"text,TOXICITY\n" + b"a,high\n" * 7, "row 5: .* 7 of 7 rows are wrong, wanted a score"),
    ],
)
def test_no_row_is_lost_without_a_word(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f.csv").write_bytes(content)
    with pytest.raises(ThresholdsError, match=message) as error:
        read(tmp_path / "f.csv", TABLE.names)
    assert "\n" not in str(error.value)
    assert "row 6" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["words", "TOXICITY"], ["a", 1]], "'text' or 'comment'"),
        ([["text", "FLIRTATION"], ["a", 1]], "'TOXICITY' or 'SEVERE_TOXICITY'"),
        ([["text", "TOXICITY"]], "no comments"),
        ([["text", "TOXICITY"], ["a", 0.1], ["b", "high"]], "f.csv: row 2: TOXICITY: got 'high'"),
        ([["text", "TOXICITY"], ["a", 1.5]], "f.csv: row 1: TOXICITY: got '1.5'"),
        ([["text", "TOXICITY"], ["a", "nan"]], "got 'nan'"),
        ([["text", "TOXICITY"], ["a", ""]], "no comment has a score"),
        ([["text", "TOXICITY"], ["a"]], "row 1: got 1 fields, the header has 2"),
    ],
)
def test_an_invalid_file_is_an_error_that_names_the_place(
    tmp_path: Path, trained: Path, rows: list[list[object]], message: str
) -> None:
    bundle = Bundle.load(trained / "models" / "candidate")
    with pytest.raises(ThresholdsError, match=message):
        report_file(write(tmp_path / "f.csv", rows), bundle, TABLE, (0.5,))
    with pytest.raises(ThresholdsError, match="absent: No such file or directory"):
        read(tmp_path / "absent", TABLE.names)


@pytest.mark.parametrize("attribute", ["TOXICITY", "THREAT"])
def test_the_command_finds_a_known_threshold(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, attribute: str
) -> None:
    """Perspective's scores are the squares of ours, and its threshold the square of our median."""
    folder = trained / "models" / "candidate"
    with (trained / "data" / "sample" / "tweets.csv").open(encoding="utf-8", newline="") as file:
        texts = [row[0] for row in list(csv.reader(file))[1:]]
    scores = Bundle.load(folder).score(texts).attributes.astype(float)
    ours = scores[:, ATTRIBUTES.index(attribute)]
    path = write(tmp_path / "f.csv", [["text", attribute], *zip(texts, ours**2, strict=True)])
    truth = float(np.median(ours))
    monkeypatch.chdir(ROOT)
    arguments = [str(path), "--bundle", str(folder), "--threshold", str(truth**2)]
    printed = CliRunner().invoke(map_thresholds, arguments, catch_exceptions=False).stdout
    assert f"{attribute}: Perspective's against ours, {len(texts)} comments" in printed
    value, low, high = map(float, re.findall(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)", printed)[0])
    assert low - 0.001 <= truth <= high + 0.001
    assert value == pytest.approx(truth, abs=0.01)
    assert "100.0%" in printed
    assert any(text[:60] in printed for text in texts)


def test_the_command_ends_with_a_sentence_and_exit_2(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    bundle = str(trained / "models" / "candidate")
    ended = CliRunner().invoke(map_thresholds, ["absent.csv", "--bundle", bundle])
    assert ended.exit_code == 2
    assert ended.stderr.endswith("Error: absent.csv: No such file or directory\n")


def test_a_list_is_no_comment(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text('{"text": ["a", "b"], "TOXICITY": 0.5}\n')
    with pytest.raises(ThresholdsError, match=r"row 1: text: got \['a', 'b'\], no text"):
        read(path, ["TOXICITY"])
