"""What a bulk run writes, what it refuses to replace, and which columns it has."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from serving.bulk.inputs import BulkError, Layout, Rejected
from serving.bulk.output import Output, replaced
from serving.bulk.progress import Progress
from serving.bulk.scoring import META, OUTPUTS, output_schema

RUN = {"model": "m1", "--text": "text"}


def part(values: list[Any], rejected: list[Rejected] | None = None, digest: str = "d") -> bytes:
    table = pa.table({"text": values, "warnings": [["a", "b"]] * len(values)})
    figures = json.dumps({"digest": digest, "rejected": rejected or []})
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({META: figures.encode()}), sink)
    return bytes(sink.getvalue())


def layout(*names: str, id_: str | None = None) -> Layout:
    return Layout(pa.schema([(name, pa.string()) for name in names]), names[0], id_)


def test_the_id_comes_first_and_input_columns_like_ours_get_a_prefix() -> None:
    names = output_schema(layout("text", "LABEL", "key", id_="key")).names
    assert names[:3] == ["key", "text", "input_LABEL"]
    assert names[3:] == OUTPUTS.names
    assert len({name.lower() for name in names}) == len(names)


def test_a_prefixed_name_that_is_taken_is_refused() -> None:
    with pytest.raises(BulkError, match="'input_label': got it twice"):
        output_schema(layout("text", "label", "Input_Label"))


def test_two_columns_without_a_name_are_refused() -> None:
    with pytest.raises(BulkError, match="column '': got it twice"):
        output_schema(layout("text", "", ""))


@pytest.mark.parametrize("name", ["out", "out.parquet", "out.csv", "out.jsonl"])
def test_a_finished_output_has_all_parts_in_order_and_the_rejected_rows(
    tmp_path: Path, name: str
) -> None:
    output = Output(tmp_path / name, None)
    assert output.open(RUN, resume=False, overwrite=False) is None
    bad = Rejected("a.csv", 7, 9, "got no text", "x")
    output.write_part(1, 0, part(["c"], [bad]))
    output.write_part(0, 1, part(["b\n,"]))
    output.write_part(0, 0, part(["a"]))
    assert output.finish(RUN) == (3, 1)
    (line,) = output.rejected.read_text().splitlines()
    assert json.loads(line) == bad._asdict()
    path = tmp_path / name
    if output.format == "parquet":
        rows = pq.read_table(path).to_pylist()
    elif output.format == "csv":
        with path.open(newline="") as handle:
            rows = [row | {"warnings": row["warnings"].split()} for row in csv.DictReader(handle)]
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"text": text, "warnings": ["a", "b"]} for text in ("a", "b\n,", "c")]
    left = {name, f"{name}.run.json", f"{name}.rejected.jsonl"}
    assert {each.name for each in tmp_path.iterdir()} == left


def test_an_output_that_exists_is_refused_unless_told_what_to_do(tmp_path: Path) -> None:
    output = Output(tmp_path / "out", None)
    output.open(RUN, resume=False, overwrite=False)
    output.write_part(0, 0, part(["a"]))
    with pytest.raises(BulkError, match="it exists; wanted --resume to go on, or --overwrite"):
        output.open(RUN, resume=False, overwrite=False)
    assert output.open(RUN, resume=True, overwrite=False) is None
    assert output.digests(0) == {0: "d"}
    output.finish(RUN)
    assert output.open(RUN, resume=True, overwrite=False) == (1, 0)
    assert output.open(RUN, resume=False, overwrite=True) is None
    assert output.digests(0) == {}


@pytest.mark.parametrize("name", ["out", "out.csv"])
def test_two_runs_never_write_one_output(tmp_path: Path, name: str) -> None:
    first, second = (Output(tmp_path / name, None) for _ in range(2))
    first.open(RUN, resume=False, overwrite=False)
    first.write_part(0, 0, part(["a"]))
    for resume in (True, False):
        with pytest.raises(BulkError, match="another `tweet-tagger score` writes it now"):
            second.open(RUN, resume=resume, overwrite=not resume)
    assert first.digests(0) == {0: "d"}
    first.close()
    assert second.open(RUN, resume=True, overwrite=False) is None
    assert second.digests(0) == {0: "d"}


def test_resuming_with_another_model_or_option_is_refused(tmp_path: Path) -> None:
    output = Output(tmp_path / "out", None)
    output.open(RUN, resume=False, overwrite=False)
    for key, got in (("model", "m2"), ("--text", "tweet")):
        with pytest.raises(BulkError, match=f'another {key}: got "{got}", wanted "{RUN[key]}"'):
            output.open(RUN | {key: got}, resume=True, overwrite=False)


def test_what_no_run_has_made_is_neither_resumed_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    output = Output(tmp_path / "out", None)
    with pytest.raises(BulkError, match="cannot be resumed"):
        output.open(RUN, resume=True, overwrite=False)
    with pytest.raises(BulkError, match="a folder that `score` has not made"):
        output.open(RUN, resume=False, overwrite=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["out", "out.csv"])
def test_an_empty_folder_is_no_earlier_run(tmp_path: Path, name: str) -> None:
    """As after a disk that was full when the run began."""
    output = Output(tmp_path / name, None)
    for options in ((False, False), (True, False), (False, True)):
        output.parts.mkdir()
        resume, overwrite = options
        assert output.open(RUN, resume=resume, overwrite=overwrite) is None
        output.write_part(0, 0, part(["a"]))
        assert output.finish(RUN) == (1, 0)
        output.open(RUN, resume=False, overwrite=True)
        output.close()
        shutil.rmtree(output.parts)
        output.path.with_name(f"{name}.run.json").unlink()


def test_files_are_put_together_by_their_numbers(tmp_path: Path) -> None:
    output = Output(tmp_path / "out.csv", None)
    output.open(RUN, resume=False, overwrite=False)
    for file in (100_000, 99_999, 3):
        output.write_part(file, 0, part([str(file)]))
    output.finish(RUN)
    assert [line.split(",")[0] for line in output.path.read_text().splitlines()] == [
        "text", "3", "99999", "100000",
    ]  # fmt: skip


def test_lists_of_the_input_stay_lists_and_any_id_is_written(tmp_path: Path) -> None:
    output = Output(tmp_path / "out.csv", None)
    output.open(RUN, resume=False, overwrite=False)
    table = pa.table({"text": ["a"], "tags": [["x y", None]], "warnings": [["a", "b"]]})
    rejected = [Rejected("a", 1, 1, "no", 2**64), Rejected("a", 2, 2, "no", "\ud800")]
    figures = json.dumps({"digest": "d", "rejected": rejected})
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({META: figures.encode()}), sink)
    output.write_part(0, 0, bytes(sink.getvalue()))
    assert output.finish(RUN) == (1, 2)
    with output.path.open(newline="") as handle:
        (row,) = csv.DictReader(handle)
    assert row == {"text": "a", "tags": '["x y",null]', "warnings": "a b"}
    lines = output.rejected.read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [2**64, "\ud800"]


def test_a_folder_that_does_not_exist_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BulkError, match="its folder does not exist"):
        Output(tmp_path / "no" / "out", None).open(RUN, resume=False, overwrite=False)


def test_a_file_is_complete_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "part"

    def broken() -> None:
        with replaced(path) as stream:
            stream.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert list(tmp_path.iterdir()) == []


def test_scratch_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    output = Output(tmp_path / "out", None)
    output.open(RUN, resume=False, overwrite=False)
    (output.parts / ".part-00000-0000000.parquet.17").write_bytes(b"half")
    output.open(RUN, resume=True, overwrite=False)
    assert list(output.parts.iterdir()) == []


def test_the_time_left_counts_what_this_run_has_done() -> None:
    with Progress(1000) as progress:
        progress.skip(0, 500)
        progress._began -= 10
        progress.advance(0, 750, 100)
        line = progress.line()
    assert line.startswith("100 rows, 10 rows/s, 75%, 0:00:1")  # 250 bytes took 10 s, 250 are left
