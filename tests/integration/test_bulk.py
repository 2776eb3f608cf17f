"""`tweet-tagger score` on the shipped model: equal to `predict`, resumed after kill -9, errors."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet as pq

from tests.support.bulk import RELEASE, ROOT, score, start, wait_for_parts

TEXTS = [
    "you are all welcome here",
    "you absolute clown",
    "😂😂",
    "I will find you and break your legs",
    "Das ist ein schöner Tag und ich gehe jetzt mit dem Hund spazieren",
    "so " * 400 + "long",
]


def write_csv(path: Path, texts: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("id", "text"), *enumerate(texts)])
    return path


def many(count: int) -> list[str]:
    """Different texts of different lengths."""
    return [f"{i} " + " ".join(["word"] * (i % 9)) + TEXTS[i % 5] for i in range(count)]


def nested(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the output in the shape of `predict`."""
    parts = {name: {key.removeprefix(f"{name}_"): value for key, value in row.items()
                    if key.startswith(f"{name}_")} for name in ("score", "attribute")}  # fmt: skip
    names = ("label", "toxicity", "action", "language", "truncated", "warnings")
    return {name: row[name] for name in names} | {
        "scores": parts["score"],
        "attributes": parts["attribute"],
    }


def test_scores_equal_those_of_predict_to_the_last_bit(tmp_path: Path) -> None:
    texts = TEXTS + many(200)
    code, said = score(write_csv(tmp_path / "in.csv", texts), "--out", tmp_path / "out")
    assert (code, said.splitlines()[-1]) == (
        0,
        "206 rows scored, 206 of them in this run; 0 rejected",
    )
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["text"] for row in rows] == texts
    lines = subprocess.run(
        [sys.executable, "-m", "serving", "predict", "--bundle", str(RELEASE), "-"],
        cwd=ROOT, input="\n".join(texts), capture_output=True, text=True, check=True, timeout=120,
    ).stdout.splitlines()  # fmt: skip
    assert [nested(row) for row in rows] == [json.loads(line) for line in lines]
    version = json.loads((RELEASE / "bundle.json").read_text())["version"]
    assert {(row["model_version"], row["policy_version"]) for row in rows} == {(version, "1")}


def test_all_formats_of_input_and_output_have_the_same_rows(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", TEXTS)
    assert score(source, "--out", tmp_path / "a.parquet")[0] == 0
    assert score(source, "--out", tmp_path / "a.jsonl")[0] == 0
    code, _ = score(
        "-", "--format", "csv", "--out", tmp_path / "a.csv", stdin=source.read_text("utf-8")
    )
    assert code == 0
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    lines = (tmp_path / "a.jsonl").read_text("utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == rows
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as handle:
        for cells, row in zip(csv.DictReader(handle), rows, strict=True):
            shown = {"truncated": str(row["truncated"]).lower(),
                     "warnings": " ".join(row["warnings"])}  # fmt: skip
            assert cells == {name: str(value) for name, value in (row | shown).items()}


def test_a_run_killed_at_any_moment_goes_on_and_ends_like_one_that_was_not(tmp_path: Path) -> None:
    texts = many(900)
    texts[500] = " "
    source, out = write_csv(tmp_path / "in.csv", texts), tmp_path / "out"
    options = (source, "--out", out, "--id", "id", "--part-rows", "50", "--resume")
    for parts in (1, 5, 9):
        process = start(*options)
        wait_for_parts(out, parts)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "out.rejected.jsonl").exists()
    kept = len(list(out.glob("part-*.parquet")))
    code, said = score(*options)
    assert code == 3
    fresh = int(said.split(" rows scored, ")[1].split(" of them")[0].replace(",", ""))
    assert fresh <= 899 - (kept - 1) * 50
    assert said.startswith("899 rows scored")
    ids = pq.read_table(out, columns=["id"]).column("id").to_pylist()
    assert ids == [str(i) for i in range(900) if i != 500]
    (line,) = (tmp_path / "out.rejected.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "file": str(source), "row": 501, "line": 502, "reason": "got no text", "id": "500",
    }  # fmt: skip
    again = score(*options)
    assert again[0] == 3
    assert "899 rows scored, 0 of them in this run; 1 rejected" in again[1]
    # The same as in one go.
    assert score(source, "--out", tmp_path / "once", "--id", "id")[0] == 3
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "once"))


def test_resuming_standard_input_with_other_rows_is_refused(tmp_path: Path) -> None:
    options = ("-", "--format", "jsonl", "--out", tmp_path / "out.csv", "--part-rows", "20")
    # More than is read before the first part: 1,000 lines tell the columns.
    whole = [json.dumps({"text": text}) + "\n" for text in many(1200)]
    with start(*options, stdin=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write("".join(whole))
        process.stdin.close()
        wait_for_parts(tmp_path / "out.csv.parts", 2)
        process.kill()
    assert not (tmp_path / "out.csv").exists()
    for changed in (['{"text": "another"}\n', *whole], whole[:20]):
        code, said = score(*options, "--resume", stdin="".join(changed))
        assert code == 2
        assert "standard input has other rows than when the run began" in said
    code, said = score(*options, "--resume", stdin="".join(whole))
    assert code == 0
    assert said.splitlines()[-1].startswith("1,200 rows scored, ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.csv", "--text", "tweet"], "in.csv: no column 'tweet'; it has 'id', 'text'"),
        (["gone.csv"], "gone.csv: No such file or directory"),
        (["in.csv", "--resume", "--overwrite"], "got --resume and --overwrite, wanted one of them"),
        (["-"], "-: --format is missing; wanted csv or jsonl for standard input"),
        (["-", "--format", "csv", "--ray", "local"], "standard input cannot be read on a Ray"),
        (["in.csv", "--bundle", "gone"], "gone"),
    ],
)
def test_what_is_wrong_is_one_sentence_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    write_csv(tmp_path / "in.csv", TEXTS)
    arguments = [str(tmp_path / each) if each.endswith(".csv") else each for each in arguments]
    code, said = score(*arguments, "--out", tmp_path / "out")
    assert code == 2
    assert message in said
    assert len(said.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv"]


def test_an_extra_that_is_not_installed_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; from importlib import util; found = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == sys.argv[1] else found(name, *a)\n"
        "from serving.cli import main; main(sys.argv[2:])"
    )
    for missing, extra in (("pyarrow", "bulk"), ("ray", "scale")):
        ended = subprocess.run(
            [sys.executable, "-c", code, missing, "score", "x.csv", "--ray", "local", "--out",
             str(tmp_path / "out")],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (
            2,
            f"{missing} is not installed; wanted: pip install 'toxic-tweet-tagger[{extra}]'\n",
        )
