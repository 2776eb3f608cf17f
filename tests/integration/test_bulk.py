"""`tweet-tagger score` with the shipped model: ways in and out, kill -9, and Ray."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import csv as arrow_csv
from pyarrow import parquet as pq

from serving.cli import main
from tests.support.service import ROOT, without_settings

SAMPLE = ROOT / "data/sample/tweets.csv"
OURS = ["label", "score_hate", "score_offensive", "score_neither", "toxicity", "action", "language",
        "truncated", "warnings"]  # fmt: skip


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "serving", *map(str, arguments)]


def environment() -> dict[str, str]:
    return without_settings() | {"TAGGER_BUNDLE": str(ROOT / "models/release")}


def run(*arguments: object, stdin: bytes = b"") -> Result:
    """Run a command in this process: to start one takes longer than most of these tests."""
    settings = {"TAGGER_BUNDLE": str(ROOT / "models/release")}
    return CliRunner().invoke(main, list(map(str, arguments)), input=stdin, env=settings)


def write_csv(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return path


def sample(count: int) -> list[tuple[int, str]]:
    """Different texts with an id each."""
    with SAMPLE.open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    return [(i, f"{texts[i % len(texts)]} {i // len(texts) or ''}".strip()) for i in range(count)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A CSV file with the columns id and text."""
    return write_csv(tmp_path / "in.csv", [("id", "text"), *sample(200)])


def test_score_and_predict_agree_to_the_last_digit(rows: Path, tmp_path: Path) -> None:
    assert run("score", rows, "--out", tmp_path / "out.jsonl", "--id", "id").exit_code == 0
    texts = "\n".join(text for _, text in sample(200))
    predicted = run("predict", "-", stdin=texts.encode()).stdout.splitlines()
    scored = (tmp_path / "out.jsonl").read_text().splitlines()
    for got, want in zip(map(json.loads, scored), map(json.loads, predicted), strict=True):
        assert {name: got[f"score_{name}"] for name in want["scores"]} == want["scores"]
        assert {name: got[f"attribute_{name}"] for name in want["attributes"]} == want["attributes"]
        plain = ("label", "toxicity", "action", "language", "truncated", "warnings")
        assert {name: got[name] for name in plain} == {name: want[name] for name in plain}


def test_parquet_csv_and_json_lines_give_equal_rows(rows: Path, tmp_path: Path) -> None:
    table = arrow_csv.read_csv(rows)
    pq.write_table(table, tmp_path / "in.parquet")
    lines = [json.dumps(row) for row in table.to_pylist()]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    tables = []
    for name in ("in.csv", "in.parquet", "in.jsonl"):
        out = tmp_path / f"out-{name.rpartition('.')[2]}"
        assert run("score", tmp_path / name, "--out", out).exit_code == 0
        tables.append(pq.read_table(out).drop_columns("id"))
    assert tables[0].num_rows == 200
    assert tables[0] == tables[1]
    assert tables[0] == tables[2]


def test_a_folder_a_glob_and_standard_input_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_csv(folder / "b.csv", [["text"], ["second"]])
    write_csv(folder / "a.csv", [["text"], ["first"]])
    (folder / "notes.md").write_text("no table")
    for name, given in (("folder", folder), ("glob", folder / "*.csv")):
        assert run("score", given, "--out", tmp_path / name).exit_code == 0
        assert pq.read_table(tmp_path / name)["text"].to_pylist() == ["first", "second"]
    arguments = ("score", "-", "--format", "jsonl", "--out", tmp_path / "stdin")
    assert run(*arguments, stdin=b'{"text": "first"}\n{"text": "second"}\n').exit_code == 0
    assert pq.read_table(tmp_path / "stdin")["text"].to_pylist() == ["first", "second"]


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    given = write_csv(tmp_path / "in.csv", [("id", "text"), *sample(1200), (1200, ""), (1201, "a")])
    options = ("score", given, "--id", "id", "--part-rows", 32)
    assert run(*options, "--out", tmp_path / "whole").exit_code == 3
    out = tmp_path / "out"
    with subprocess.Popen(
        command(*options, "--out", out), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
    ) as process:
        end = time.monotonic() + 120
        while len(list(out.glob("part-*.parquet"))) < 3 and time.monotonic() < end:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert 3 <= len(before) < 38
    resumed = run(*options, "--out", out, "--resume")
    assert resumed.exit_code == 3
    assert "1,201 rows scored" in resumed.stderr
    assert "1 rejected" in resumed.stderr
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert pq.read_table(out) == pq.read_table(tmp_path / "whole")
    assert sorted(path.name for path in out.iterdir()) == [f"part-00000-{i:05}.parquet"
                                                           for i in range(38)]  # fmt: skip
    rejected = [json.loads(line) for line in (tmp_path / "out.rejected.jsonl").open()]
    assert rejected == [
        {"file": str(given), "row": 1201, "line": 1202, "reason": "got no text", "id": "1200"}
    ]
    again = run(*options, "--out", out, "--resume")
    assert "0 of them in this run" in again.stderr


def test_a_csv_output_appears_when_it_is_complete(tmp_path: Path) -> None:
    given = write_csv(tmp_path / "in.csv", [("text", "note"), ("a, b", "1"), ("c", "")])
    assert run("score", given, "--out", tmp_path / "out.csv", "--part-rows", 1).exit_code == 0
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        found = list(csv.DictReader(stream))
    assert [(row["text"], row["note"]) for row in found] == [("a, b", "1"), ("c", "")]
    assert set(OURS) <= set(found[0])
    assert not (tmp_path / "out.csv.parts").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["in.csv", "--text", "tweet"], "in.csv: no column 'tweet'"),
        (["none.csv"], "none.csv: No such file or directory"),
        (["in.xyz"], "in.xyz: got an unknown ending"),
        (["-"], "-: --format is missing"),
        (["in.csv", "--resume", "--overwrite"], "wanted one of them"),
        (["nowhere://a/b.csv"], "nowhere://a/b.csv: "),
    ],
)
def test_what_cannot_work_is_one_sentence_before_any_work(
    arguments: list[str], said: str, rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.xyz").write_text("x")
    given = [str(tmp_path / name) if name.startswith(("in.", "none.")) else name
             for name in arguments]  # fmt: skip
    ended = run("score", *given, "--out", tmp_path / "out")
    assert ended.exit_code == 2
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_needs_resume_or_overwrite(rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("score", rows, "--out", out).exit_code == 0
    refused = run("score", rows, "--out", out)
    assert (refused.exit_code, "--resume" in refused.stderr) == (2, True)
    other = run("score", rows, "--out", out, "--resume", "--id", "id")
    assert other.exit_code == 2
    assert "was begun with another --id: got" in other.stderr
    write_csv(rows, [("id", "text"), *sample(5)])
    assert "was begun with another input" in run("score", rows, "--out", out, "--resume").stderr
    assert run("score", rows, "--out", out, "--overwrite").exit_code == 0
    assert pq.read_table(out).num_rows == 5


def test_without_pyarrow_the_message_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'pyarrow': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    ended = subprocess.run(
        command("score", SAMPLE, "--out", tmp_path / "out"),
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 2
    assert b"pip install 'toxic-tweet-tagger[bulk]'" in ended.stderr


def test_ray_gives_the_very_same_parts(rows: Path, tmp_path: Path) -> None:
    options = ("score", rows, "--id", "id", "--part-rows", 64)
    assert run(*options, "--out", tmp_path / "here").exit_code == 0
    on_ray = run(*options, "--out", tmp_path / "ray", "--ray", "local")
    assert on_ray.exit_code == 0, on_ray.stderr
    parts = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert parts == sorted(path.name for path in (tmp_path / "ray").iterdir())
    for name in parts:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()
    assert pa.Table.equals(pq.read_table(tmp_path / "here"), pq.read_table(tmp_path / "ray"))
