import csv
import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from serving.tables import TableError, decimal_point, read_lines, read_table

Put = Callable[[str, bytes], Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"text,label\nhi,hate\nho,ok\n"),
        ("a.csv", b"\xef\xbb\xbf text , label \r\nhi,hate\r\n\r\nho,ok"),
        ("A.CSV", b"text;label\nhi;hate\nho;ok\n;\n"),
        ("a.csv", b"text\tlabel\rhi\thate\rho\tok\r"),
        ("a.tsv", b"text\tlabel\nhi\thate\nho\tok\n"),
        ("a.TSV", b'"text","label"\n"hi","hate"\n"ho","ok"\n'),
        ("a.csv", b"text|label\nhi|hate\nho|ok\n"),
        ("a.csv", b"sep=|\r\ntext|label\r\nhi|hate\r\nho|ok\r\n"),
        (
            "a.jsonl",
            b'\xef\xbb\xbf{"text": "hi", "label": "hate"}\n\n{"label": "ok", "text": "ho"}',
        ),
        ("a.NDJSON", b'{"text": "hi", "label": "hate"}\r\n{"text": "ho", "label": "ok"}\r\n'),
    ],
)
def test_all_of_these_are_the_same_table(put: Put, name: str, content: bytes) -> None:
    table = read_table(put(name, content))
    assert table.columns == ["text", "label"]
    assert table.rows == [["hi", "hate"], ["ho", "ok"]]


def test_cells_stay_as_they_are(put: Put) -> None:
    cells = [
        "NA",
        "null",
        "007",
        " x ",
        "1e5",
        "a\u2028b\x85c\x0b",
        'say "hi"',
        "two\nlines",
        "a\rb",
    ]
    out = io.StringIO()
    csv.writer(out).writerows([["text", "n"], *([cell, i] for i, cell in enumerate(cells))])
    table = read_table(put("a.csv", out.getvalue().encode()))
    assert [row[0] for row in table.rows] == cells
    # Rows that come after a cell of two lines are named with their line.
    assert table.places[:2] == ["row 1", "row 2"]
    assert table.places[8] == "row 9, line 11"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,label\nwell, you,hate\n", "row 1: got 3 fields, the header has 2 .a text"),
        ("a.csv", b"text,label\nhi,hate,\n", r"row 1: got 3 .* \(a separator at the end\)"),
        ("a.csv", b"text,label\nhi\n", "row 1: got 1 fields, the header has 2"),
        (
            "a.csv",
            b'text,label\n"hi,hate\nyou,ok\n',
            "row 1: a quotation mark opens a cell, and none",
        ),
        ("a.csv", b'text,label\nx,ok\n"hi,ok\n"a, b",ok\n', "row 2: a quotation mark in a quoted"),
        ("a.csv", b'text,label\n"hi,hate\nyou",ok\nx,hate\n', "row 1: text has rows of the table"),
        ("a.csv", b'text,label\n"\nyou,ok\n",ok\nx,hate\n', "row 1: text has rows of the table"),
        (
            "a.csv",
            b'text,label\r"\n,hate\n",",hate\r\n"\r;",ok\r\n',
            "row 2, line 6: an odd number of quotation marks, and row 1 has a cell of several",
        ),
        ("a.csv", b'n,text\n1,"hi\n2,you"\n3,x\n', "row 1: text has rows of the table in it"),
        ("a.csv", b'text,n\n"' + b"x" * 140_000 + b'",1\n', "row 1: a cell has more than 131,072"),
        ("a.csv", b"text,label\na\0b,hate\n", "row 1: got a NUL byte"),
        ("a.csv", b"text,text\na,b\n", "the header has 'text' twice"),
        ("a.csv", b"text, text\na,b\n", "the header has 'text' twice"),
        ("a.csv", b"te\0xt,b\na,b\n", "header: got a NUL byte"),
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"\r\n \n", "the file is empty"),
        (
            "a.csv",
            b"text,n\nok,1\n\x93hi\x94,2\n",
            "row 2: byte 0x93 is not UTF-8; convert the file",
        ),
        (
            "a.csv",
            b"text,n\nok,1\n\xe9,2\n",
            r"iconv -f WINDOWS-1252 -t UTF-8 a\.csv > a-utf8\.csv",
        ),
        ("a.csv", "text,n\na,1\n".encode("utf-16"), "UTF-16; convert it: iconv -f UTF-16"),
        ("a.xlsx", b"PK\x03\x04...", "spreadsheet or ZIP archive; in Excel save it as CSV UTF-8"),
        ("a.csv", b"PK\x03\x04...", "spreadsheet or ZIP archive"),
        ("a.csv", b"\x1f\x8b...", "gzip; unpack it: gzip -d"),
        ("a.csv", b"\x28\xb5\x2f\xfd...", "zstd; unpack it: zstd -d"),
        ("a.csv", b"\xef\xbb\xbf<!doctype html><html>, login", "a web page"),
        ("a.csv", "text,n\na,1\n".encode("utf-32"), "UTF-32; convert it: iconv -f UTF-32"),
        ("a.csv", b'{"text": "a", "label": "b"}\n', "this file is JSON"),
        ("a.csv", b'[\n{"text": "a"}]\n', "this file is JSON"),
        ("a.jsonl", b'{"text": "hi"}\n{"text": "ho"\n', "row 2: not JSON: Expecting"),
        ("a.jsonl", b'{"text": "hi", "text": "ho"}\n', "row 1: .*'text' twice"),
        ("a.jsonl", b'{"n": NaN}\n', "row 1: .*NaN is not JSON"),
        ("a.jsonl", b'"hi"\n', "row 1: got no JSON object"),
        ("a.jsonl", b'[{"text": "hi"}]\n', "JSON array; wanted an object on each line"),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', r"row 1: got U\+D83D, half of a character"),
        ("a.jsonl", b'{"text": ["a", "\\u0000"]}\n', "row 1: got a NUL byte"),
        ("a.jsonl", b'{"text": "\xe9"}\n', "row 1: byte 0xE9 is not UTF-8"),
        ("a.jsonl", b"[" * 100_000, "JSON array"),
        ("a.jsonl", b'{"a":' * 100_000, "row 1: not usable"),
    ],
)
def test_a_row_that_does_not_fit_is_an_error(
    put: Put, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(TableError, match=f"{name}: .*{message}") as error:
        read_table(put(name, content))
    assert "\n" not in str(error.value)


def test_of_many_wrong_rows_the_first_five_and_the_count_are_named(put: Put) -> None:
    with pytest.raises(TableError) as error:
        read_table(put("a.csv", b"text,n\nok,1\n" + b"a,b,c\n" * 2000))
    assert str(error.value).count("got 3 fields") == 5
    assert "row 6: got" in str(error.value)
    assert "row 7" not in str(error.value)
    assert "2,000 of 2,001 rows are wrong" in str(error.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"none\.csv: No such file"):
        read_table(tmp_path / "none.csv")


def test_a_quotation_mark_for_inches_is_no_error_where_no_cell_has_several_lines(put: Put) -> None:
    table = read_table(put("a.csv", b'text,label\na 5" screen,ok\nsay "hi",ok\n"a, b",hate\n'))
    assert [row[0] for row in table.rows] == ['a 5" screen', 'say "hi"', "a, b"]


def test_a_text_of_several_lines_is_no_error(put: Put) -> None:
    content = b'text,label\n"Dear all,\nI go, now",ok\n"a\n\nb, c",hate\n'
    table = read_table(put("a.csv", content))
    assert [row[0] for row in table.rows] == ["Dear all,\nI go, now", "a\n\nb, c"]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"\xef\xbb\xbfa\nb\n", ["a", "b"]),
        (b"a\r\n\r\nb\r\n", ["a", "", "b"]),
        (b"a\rb\r", ["a", "b"]),
        ("a\u2028\x85\x1cb\nc".encode(), ["a\u2028\x85\x1cb", "c"]),
    ],
)
def test_lines_are_split_at_line_ends_only(put: Put, content: bytes, lines: list[str]) -> None:
    assert read_lines(put("a.TXT", content)) == lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\x93\n", "row 2: byte 0x93 is not UTF-8; convert .* a.txt > a-utf8.txt"),
        (b"a\0\n", "row 1: got a NUL byte"),
        (b"\n", "the file is empty"),
        ("a\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_lines_that_are_no_text_are_an_error(put: Put, content: bytes, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read_lines(put("a.txt", content))


@pytest.mark.parametrize(
    ("cell", "number"),
    [("0,83", "0.83"), (",5", "0.5"), ("1,0", "1.0"), ("1,000", "1,000"), ("12,5", "12,5"), (3, 3)],
)
def test_a_decimal_comma_is_read_where_it_can_mean_nothing_else(
    cell: object, number: object
) -> None:
    assert decimal_point(cell) == number


CELLS = st.text(st.sampled_from('ab,;"\n\r\t x=é😂'), max_size=8)
LABEL_ROWS = st.lists(st.tuples(CELLS, st.sampled_from(["hate", "ok"])), max_size=6)
# As in tests/integration/test_fuzz.py, where it is the number of all cases.
CASES = int(os.environ.get("FUZZ_CASES", "400"))
SECONDS = max(600, CASES // 8)  # of a test, at most
FUZZ = settings(
    max_examples=max(200, CASES // 8),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def as_csv(rows: list[tuple[str, str]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("text", "label"), *rows])
    return out.getvalue()


@pytest.mark.timeout(SECONDS)
@FUZZ
@given(rows=LABEL_ROWS)
def test_what_python_writes_is_read_back_or_refused(put: Put, rows: list[tuple[str, str]]) -> None:
    table = read_table(put("a.csv", as_csv(rows).encode()))
    assert [tuple(row) for row in table.rows] == rows


@pytest.mark.timeout(SECONDS)
@FUZZ
@example(rows=[(";;\r;", "ok")], place=0.5625, new=",")
@given(rows=LABEL_ROWS, place=st.floats(0, 1), new=st.sampled_from(["", '"', ",", "\n", "\0", "a"]))
def test_one_wrong_character_loses_no_row(
    put: Put, rows: list[tuple[str, str]], place: float, new: str
) -> None:
    content = as_csv(rows)
    i = int(place * (len(content) - 1))
    for changed in (content[:i] + new + content[i:], content[:i] + new + content[i + 1 :]):
        try:
            table = read_table(put("a.csv", changed.encode()))
        except TableError:
            continue
        # Where the quotation mark that opens a text is gone, each of its lines may be a row: there
        # are more than before, and nothing is lost. Every reader asks for its columns by name.
        assert len(table.rows) >= len(rows) or table.columns != ["text", "label"]


@pytest.mark.timeout(SECONDS)
@FUZZ
@given(
    content=st.binary(max_size=60)
    | st.text(st.sampled_from('{}[]":,\\u0d8n1\n'), max_size=40).map(str.encode),
    name=st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.txt"]),
)
def test_any_bytes_are_a_table_or_an_error(put: Put, content: bytes, name: str) -> None:
    for read in (read_table, read_lines):
        with suppress(TableError):
            read(put(name, content))
