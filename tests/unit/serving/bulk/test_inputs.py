"""Which files a bulk run reads, and what becomes of each of their rows."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs
from pyarrow import parquet as pq

from serving.bulk import inputs
from serving.bulk.inputs import BulkError, Chunk, Stdin, find_sources, probe, read_chunks

Put = Callable[[str, str | bytes], Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def read(*paths: Path | str, text: str = "text", id_: str | None = None, rows: int = 4096,
         form: str | None = None) -> list[Chunk]:  # fmt: skip
    stdin = Stdin()
    sources = find_sources([str(each) for each in paths], form, Path("/nowhere/out"))
    layout = probe(sources, text, id_, stdin)
    return [
        chunk
        for i, source in enumerate(sources)
        for chunk in read_chunks(source, i, layout, rows, stdin)
    ]


def rows_of(chunks: list[Chunk]) -> list[dict[str, Any]]:
    return [row for chunk in chunks for row in chunk.table.to_pylist()]


def test_csv_json_lines_parquet_and_compressed_files_are_the_same_rows(put: Put) -> None:
    rows = [{"id": "1", "text": "hi"}, {"id": "2", "text": "ho"}]
    csv = "id;text\r\n1;hi\r\n2;ho\r\n"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    parquet = put("a.parquet", "")
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    files = [put("a.csv", csv), put("b.csv.gz", gzip.compress(csv.encode())),
             put("a.jsonl", lines), parquet]  # fmt: skip
    for file in files:
        assert rows_of(read(file)) == rows, file
        assert read(file)[-1].read == 1.0


def test_a_folder_is_read_with_all_below_it_but_hidden_and_unknown_files(put: Put) -> None:
    for name in ("in/b.csv", "in/a/c.CSV", "in/.hidden.csv", "in/_tmp/d.csv", "in/notes.txt"):
        put(name, f"text\n{name}\n")
    folder = put("in/e.csv", "text\ne\n").parent
    assert [row["text"] for row in rows_of(read(folder))] == ["in/a/c.CSV", "in/b.csv", "e"]


def test_a_glob_and_a_url_name_files_and_a_file_is_read_once(put: Put) -> None:
    one, two = put("x1.csv", "text\none\n"), put("x2.csv", "text\ntwo\n")
    put("y.csv", "text\nthree\n")
    texts = [row["text"] for row in rows_of(read(one.with_name("x?.csv"), two))]
    assert texts == ["one", "two"]
    assert rows_of(read(one.as_uri())) == [{"text": "one"}]


def test_a_url_keeps_its_escapes_and_its_query(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put("my folder/50%.csv.gz", gzip.compress(b"text\none\n"))
    for url in (file.as_uri(), file.parent.as_uri()):
        assert rows_of(read(url)) == [{"text": "one"}]
    store = fs.SubTreeFileSystem(str(file.parent.parent), fs.LocalFileSystem())
    opened = []

    def filesystem(url: str) -> tuple[fs.FileSystem, str]:
        opened.append(url)
        return store, unquote(urlsplit(url).netloc.rpartition("@")[2] + urlsplit(url).path)

    put("bucket/a b.csv", "text\ntwo\n")
    monkeypatch.setattr(inputs, "_filesystem", filesystem)
    query = "?endpoint_override=localhost:9&scheme=http"
    for url in (f"s3://k:s@bucket/a%20b.csv{query}", f"s3://k:s@bucket{query}"):
        assert rows_of(read(url)) == [{"text": "two"}]
        assert opened[-1] == f"s3://k:s@bucket/a%20b.csv{query}"
        (source,) = find_sources([url], None, Path("/nowhere/out"))
        assert source.name == "s3://bucket/a%20b.csv"


def test_the_output_of_a_run_is_no_input_of_the_next(put: Put) -> None:
    folder = put("a.csv", "text\na\n").parent
    put("out.csv", "text\nb\n")
    put("out.csv.rejected.jsonl", "{}")
    put("out.csv.parts/part-00000-0000000.parquet", b"PAR1")
    sources = find_sources([str(folder)], None, folder / "out.csv")
    assert [Path(source.uri).name for source in sources] == ["a.csv"]
    (folder / "latest.csv").symlink_to("out.csv")
    (folder / "in").mkdir()
    for same in (
        str(folder / "out.csv"),
        str(folder / "in" / ".." / "out.csv"),
        str(folder / "latest.csv"),
        (folder / "out.csv").as_uri(),
    ):
        with pytest.raises(BulkError, match="it is the output"):
            find_sources([same], None, folder / "out.csv")
    with pytest.raises(BulkError, match="it is the output"):
        find_sources([str(folder / "out.csv")], None, folder / "latest.csv")


def test_an_input_may_have_the_name_of_the_output_and_an_ending(put: Put) -> None:
    path = put("out.csv", "text\na\n")
    (source,) = find_sources([str(path)], None, path.with_name("out"))
    assert source.uri == str(path)


def test_each_row_that_does_not_fit_is_rejected_with_its_place(put: Put) -> None:
    content = b'id,text\n1,fine\n2\n3,"two\nlines"\n4, \n5,caf\xe9\n6,a"b\n\n7,"a"b\n8,last\n'
    chunks = read(put("a.csv", content), id_="id")
    assert [row["id"] for row in rows_of(chunks)] == ["1", "3", "8"]
    rejected = [(each.row, each.line, each.id, each.reason) for each in chunks[0].rejected]
    assert rejected == [
        (2, 3, None, "got 1 fields, the header has 2"),
        (4, 6, "4", "got no text"),
        (5, 7, None, "byte 0xE9 is not UTF-8"),
        (6, 8, None, "an odd number of quotation marks, and row 3 has a cell of several lines; is "
         "a quotation mark missing, or too much?"),
        (7, 10, None, "a quotation mark in a quoted cell is not doubled, or one that opens a cell "
         "is too much"),
    ]  # fmt: skip


def test_rows_between_two_stray_quotation_marks_are_rejected(put: Put) -> None:
    chunks = read(put("a.csv", 'text,kind\none,ok\n"two,ok\nthree,ok\nfour",ok\nfive,ok\n'))
    assert [row["text"] for row in rows_of(chunks)] == ["one", "five"]
    assert "rows of the table in it" in chunks[0].rejected[0].reason


def test_json_lines_are_checked_row_by_row(put: Put) -> None:
    lines = ['{"text": "a", "n": 1}', "{", '{"text": null}', '{"text": "\\ud800", "n": 2}', "",
             '{"text": "b", "n": 3}']  # fmt: skip
    chunks = read(put("a.jsonl", "\n".join(lines)))
    assert rows_of(chunks) == [{"text": "a", "n": 1}, {"text": "b", "n": 3}]
    assert [(each.row, each.line) for each in chunks[0].rejected] == [(2, 2), (3, 3), (4, 4)]
    assert [each.reason for each in chunks[0].rejected][1:] == [
        "got no text",
        "got U+D800, half of a character",
    ]


def test_half_a_character_inside_of_a_json_value_is_rejected(put: Put) -> None:
    lines = ['{"text": "a", "meta": {"k": 1}}', '{"text": "b", "meta": {"k": "\\ud800"}}']
    (chunk,) = read(put("a.jsonl", "\n".join(lines)))
    assert rows_of([chunk]) == [{"text": "a", "meta": '{"k": 1}'}]
    assert [each.reason for each in chunk.rejected] == ["meta: got U+D800, half of a character"]


def test_json_values_keep_their_types_and_mixed_ones_become_json(put: Put) -> None:
    rows = [
        {"text": "a", "n": 1, "x": 1, "b": True, "l": [1], "m": 1, "e": None},
        {"text": "b", "n": 2, "x": 0.5, "b": False, "l": ["é"], "m": "1"},
    ]
    table = read(put("a.jsonl", "\n".join(map(json.dumps, rows))))[0].table
    assert table.schema.field("n").type == pa.int64()
    assert table.to_pylist() == [
        {"text": "a", "n": 1, "x": 1.0, "b": True, "l": "[1]", "m": "1", "e": None},
        {"text": "b", "n": 2, "x": 0.5, "b": False, "l": '["é"]', "m": '"1"', "e": None},
    ]


def test_a_json_row_unlike_the_first_thousand_is_rejected_and_not_cut(put: Put) -> None:
    lines = ['{"text": "a", "n": 1}'] * 1000 + ['{"text": "a", "n": "x"}', '{"text": "a", "q": 1}']
    chunks = read(put("a.jsonl", "\n".join(lines)))
    assert sum(chunk.table.num_rows for chunk in chunks) == 1000
    assert [(each.row, each.reason[:30]) for each in chunks[0].rejected] == [
        (1001, "n: got str, wanted a whole num"),
        (1002, "got the key 'q', wanted those "),
    ]


def test_rows_of_parquet_without_a_text_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None, " ", "b"], "n": [1, 2, 3, 4]}), path)
    (chunk,) = read(path, id_="n")
    assert chunk.table.to_pylist() == [{"text": "a", "n": 1}, {"text": "b", "n": 4}]
    assert [(each.row, each.line, each.id) for each in chunk.rejected] == [
        (2, None, 2),
        (3, None, 3),
    ]


def test_rows_of_parquet_that_are_no_utf8_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    offsets, data = (
        pa.py_buffer(np.array([0, 1, 2, 3], np.int32).tobytes()),
        pa.py_buffer(b"a\xe9b"),
    )
    broken = pa.StringArray.from_buffers(3, offsets, data)
    for columns in ({"text": broken, "n": [1, 2, 3]}, {"text": ["a", "x", "b"], "n": broken}):
        pq.write_table(pa.table(columns), path)
        (chunk,) = read(path, id_="n")
        assert chunk.table.column("text").to_pylist() == ["a", "b"]
        assert [each[1:4] for each in chunk.rejected] == [(2, None, "got bytes that are not UTF-8")]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_chunks_have_the_asked_rows_and_are_the_same_each_time(put: Put, suffix: str) -> None:
    texts = [f"text {i}" for i in range(1000)]
    path = put(f"a.{suffix}", "text\n" + "\n".join(texts))
    if suffix == "parquet":
        pq.write_table(pa.table({"text": texts}), path, row_group_size=300)
    first, second = read(path, rows=300), read(path, rows=300)
    assert [row["text"] for row in rows_of(first)] == texts
    assert [chunk.digest for chunk in first] == [chunk.digest for chunk in second]
    assert len({chunk.digest for chunk in first}) == len(first) >= 2
    assert [chunk.index for chunk in first] == list(range(len(first)))


def test_a_file_with_a_header_alone_is_one_empty_chunk(put: Put) -> None:
    (chunk,) = read(put("a.csv", "text,id\n"))
    assert (chunk.table.num_rows, chunk.rejected) == (0, [])


def test_files_may_have_their_columns_in_another_order(put: Put) -> None:
    one, two = put("1.csv", "id,text\n1,a\n"), put("2.csv", "text,id\nb,2\n")
    assert rows_of(read(one, two)) == [{"id": "1", "text": "a"}, {"id": "2", "text": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "tweet\nx\n", "no column 'text'; it has 'tweet'"),
        ("a.csv", "txt\nx\n", "did you mean 'txt'?"),
        ("a.csv", "", "the file is empty"),
        ("a.csv", b"PK\x03\x04", "a spreadsheet or ZIP archive"),
        ("a.csv", b"a,a\n1,2\n", "the header has 'a' twice"),
        ("a.jsonl", "[\n", "this file is a JSON array"),
        ("a.jsonl", '{"text": 1}\n', "'text' has int64, wanted texts"),
        ("a.jsonl", '{"text": 1}\n{"text": "a"}\n', "'text' has values of other types"),
        ("a.parquet", b"no parquet at all", "a.parquet: "),
        ("a.csv.gz", b"no gzip", "a.csv.gz: "),
        ("a.xyz", "text\n", "got an unknown ending, wanted .csv"),
        ("b/c.xyz", "text\n", "got an unknown ending"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    put: Put, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(BulkError) as raised:
        read(put(name, content))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.csv", "No such file or directory"),
        ("gone*.csv", "got no file with a known ending"),
        ("nothing://x/y.csv", "nothing://x/y.csv: "),
        ("-", "--format is missing"),
    ],
)
def test_an_input_that_names_nothing_is_one_sentence(name: str, message: str) -> None:
    with pytest.raises(BulkError, match=message):
        read(name)


def test_files_with_other_columns_than_the_first_are_named(put: Put) -> None:
    one, two = put("1.csv", "text,a\nx,1\n"), put("2.csv", "text,b\nx,1\n")
    with pytest.raises(BulkError, match=r"2\.csv: got the columns text \(string\), b .*1\.csv"):
        read(one, two)


def test_a_file_that_breaks_off_is_named(put: Put) -> None:
    whole = gzip.compress(b"text\n" + b"".join(b"%d\n" % (i * 7919) for i in range(50_000)))
    with pytest.raises(BulkError, match=r"a\.csv\.gz: "):
        read(put("a.csv.gz", whole[: len(whole) // 2]))
