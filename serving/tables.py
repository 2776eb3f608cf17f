"""Reading tables strictly: a row that does not fit is an error, and none is lost without a word.

    .csv .tsv        decode -> csv.reader -> check each row -> Records -> Table
    .jsonl .ndjson   decode -> json.loads -> check each line -> Records -> Table
    .txt             decode -> check each line -> list of texts

`stream_csv` and `stream_json_lines` read a file of any size row by row, and their caller decides
what becomes of a wrong row; `read_table` reads a whole file by the same rules and accepts none.

A message names the file and the rows: the first five, and how many there are.
"""

import csv
import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

JSON_LINES = (".jsonl", ".ndjson")
SHOWN = 5  # rows in a message
SIGNATURE_BYTES = 64  # from which a file's kind is told
HEAD_CHARS = 65_536  # from which a CSV file's separator is told
MAX_LINE = 1 << 24  # characters: a line is held in memory
# How files begin that are no tables in UTF-8, and what to do. ({0}: the file; {1}: another name)
SIGNATURES = (
    (b"PK\x03\x04", "a spreadsheet or ZIP archive; in Excel save it as CSV UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file; in Excel save it as CSV UTF-8"),
    (b"\x1f\x8b", "compressed with gzip; unpack it: gzip -d {0}"),
    (b"BZh91AY&SY", "compressed with bzip2; unpack it: bzip2 -d {0}"),
    (b"\xfd7zXZ", "compressed with xz; unpack it: xz -d {0}"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it: zstd -d {0}"),
    (b"%PDF-", "a PDF; wanted a table"),
    (b"<!DOCTYPE ", "a web page, perhaps an error or a login; download the table itself"),
    (b"<html", "a web page, perhaps an error or a login; download the table itself"),
    (b"\xff\xfe\0\0", "UTF-32; convert it: iconv -f UTF-32 -t UTF-8 {0} > {1}"),
    (b"\xff\xfe", "UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {0} > {1}"),
    (b"\xfe\xff", "UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {0} > {1}"),
    (b"version https://git-lfs", "a pointer of Git LFS; get the file itself: git lfs pull"),
    (b"PAR1", "Parquet; save it as CSV UTF-8 or, for training, name it .parquet"),
)
NO_TEXT = re.compile("[\0\ud800-\udfff]")
# Excel writes it for itself: the separator of the lines that follow.
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?(\r\n|\r|\n|$)')
# No number in another sense: 0,123 can have no thousands.
DECIMAL_COMMA = re.compile(r"\s*(0?),(\d+)\s*|\s*(1),(00?)\s*")


class TableError(Exception):
    """The file cannot be read as a table; the message names it and the rows."""


class Table(NamedTuple):
    """A file's rows.

    columns: their names, without spaces around them; all differ.
    rows: [rows][columns] the cells; of a CSV file texts, of JSON lines any value, None if absent.
    places: [rows] what an error calls each row: `row 3`, or `row 3, line 8` where rows of several
        lines or blank lines come before it. The first row after the header is row 1.
    """

    columns: list[str]
    rows: list[list[Any]]
    places: list[str]


class Record(NamedTuple):
    """A row of a file that is read row by row.

    row: its number; the first after the header is 1.
    line: the number of its first line.
    content: its cells, by column or by name, or what is wrong with it.
    """

    row: int
    line: int
    content: list[Any] | dict[str, Any] | str


class Records(NamedTuple):
    """A file that is read row by row.

    columns: of the header; empty for JSON lines, whose rows have their own.
    separator: of a CSV file's cells.
    rows: lists for CSV, dicts for JSON lines, texts for rows that do not fit.
    """

    columns: list[str]
    separator: str
    rows: Iterator[Record]


def read_table(path: Path, *, separator: str | None = None, header: Sequence[str] = ()) -> Table:
    """Read a .jsonl or .ndjson file as JSON lines, and any other as CSV.

    Args:
        path: the file, in UTF-8, with or without a byte order mark.
        separator: of a CSV file's cells. Default: what a first line `sep=;` says; else a tab for
            .tsv, and a comma otherwise; else the semicolon, tab or bar that the header has.
        header: the columns of a CSV file that has no header line.

    Raises:
        TableError: the file is missing, empty, in another format or encoding; the header names a
            column twice; or rows do not fit.
    """
    stream = io.BytesIO(_content(path))
    if path.suffix.lower() in JSON_LINES:
        return _json_table(path, stream_json_lines(path, stream))
    return _csv_table(path, stream_csv(path, stream, separator=separator, header=header), header)


def stream_csv(
    path: PurePath, stream: BinaryIO, *, separator: str | None = None, header: Sequence[str] = ()
) -> Records:
    """Read a CSV file row by row, in bounded memory; blank lines are left out.

    Args:
        path: its name, for messages and for the usual separator.
        stream: its bytes.
        separator, header: as for `read_table`.

    Raises:
        TableError: what is wrong with the file or its header, as in `read_table`; while the rows
            are read, only a line of more than MAX_LINE characters.
    """
    lines, head = _lines(path, stream, newline="")
    if re.match(r'\s*(\{\s*"|\[\s*\{)', head):
        raise TableError(f"{path}: this file is JSON; wanted an object on each line of a .jsonl")
    skipped = 0  # lines before the header
    if match := SEPARATOR_LINE.match(head):
        separator, head, skipped = match[1], head[match.end() :], 1
        next(lines)
    separator = separator or _separator(path, head)
    records = ((line + skipped, row, is_odd) for line, row, is_odd in _records(lines, separator)
               if isinstance(row, str) or any(cell.strip() for cell in row))  # fmt: skip
    columns = list(header)
    if not columns:
        row = next(records, (0, None, False))[1]
        if row is None:
            raise TableError(f"{path}: the file is empty")
        columns = _header(path, row)
    return Records(columns, separator, _csv_rows(records, columns, separator))


def stream_json_lines(path: PurePath, stream: BinaryIO) -> Records:
    """Read JSON lines row by row, in bounded memory; blank lines are left out.

    Raises:
        TableError: as `stream_csv`.
    """
    lines, head = _lines(path, stream, newline="\n")
    if head.lstrip().startswith("["):
        raise TableError(f"{path}: this file is a JSON array; wanted an object on each line")
    return Records([], "", _json_rows(lines))


def read_lines(path: Path) -> list[str]:
    """Return a text file's lines without their ends; blank lines at the end are left out.

    Raises:
        TableError: the file is missing, in another encoding, or has a NUL byte.
    """
    content = _read(path).rstrip("\r\n")
    # Tweets contain other characters that Python counts as line ends.
    lines = re.split(r"\r?\n" if "\n" in content else r"\r", content)
    wrong = [(f"row {i}", problem) for i, line in enumerate(lines, 1)
             if (problem := no_text(line))]  # fmt: skip
    if wrong:
        raise TableError(describe(path, wrong, len(lines)))
    return lines


def swallowed(
    columns: Sequence[str], rows: Sequence[Sequence[str]], separator: str
) -> list[tuple[int, str]]:
    """Find rows of a CSV file in which a cell contains the rows between two stray quotation marks.

    Such a cell ends its first line and begins its last one with what the other columns have, or a
    line between them is a whole row: with a value that another row has there, or a number where
    this row has one. Returns the index and the problem of each such row.
    """
    width = len(columns)
    values = [{row[i] for row in rows} - {""} for i in range(width)]
    wrong = []
    for number, row in enumerate(rows):
        for i, cell in enumerate(row):
            lines = re.split(r"\r\n|\r|\n", cell)
            if len(lines) == 1 or width == 1:
                continue
            right, left = lines[0].split(separator)[1:], lines[-1].split(separator)[:-1]
            candidates = [[*left, "", *right]] if len(left) == i else []
            candidates += [line.split(separator) for line in lines[1:-1]]
            if any(_is_row(fields, row, i, values) for fields in candidates):
                wrong.append(
                    (number, f"{columns[i]} has rows of the table in it; is a quotation mark "
                     "not closed? (JSON lines can have such a text)")
                )  # fmt: skip
    return wrong


def _is_row(fields: Sequence[str], row: Sequence[str], i: int, values: Sequence[set[str]]) -> bool:
    """Say whether fields beside the i-th look like those of the table's rows; see `swallowed`."""
    others = [j for j in range(len(row)) if j != i]
    return (
        len(fields) == len(row)
        and any(fields[j] for j in others)
        and all(
            not fields[j]
            or fields[j] in values[j]
            or (_is_number(fields[j]) and _is_number(row[j]))
            for j in others
        )
    )


def describe(path: PurePath, wrong: Sequence[tuple[str, str]], total: int, wanted: str = "") -> str:
    """Return an error's line: the first wrong rows of a file, and how many there are.

    Args:
        path: the file.
        wrong: the place and the problem of each wrong row.
        total: the number of all rows.
        wanted: what the values should have been.
    """
    parts = [f"{place}: {problem}" for place, problem in wrong[:SHOWN]]
    if len(wrong) > 1:
        parts.append(f"{len(wrong):,} of {total:,} rows are wrong")
    advice = ""
    if any("is not UTF-8" in problem for _, problem in wrong):
        names = _names(path)
        advice = (
            "; convert the file, if it comes from Windows: "
            f"iconv -f WINDOWS-1252 -t UTF-8 {names[0]} > {names[1]}"
        )
    return f"{path}: {'; '.join(parts)}{f', wanted {wanted}' if wanted else ''}{advice}"


def no_column(path: PurePath, wanted: Sequence[str], columns: Sequence[str]) -> str:
    """Return the error's line for a file that has none of the wanted columns."""
    names = {name.lower(): name for name in columns}
    close = [
        names[match]
        for name in wanted
        for match in get_close_matches(name.strip().lower(), names, n=1, cutoff=0.6)
    ]
    guess = f"; did you mean {close[0]!r}?" if close else ""
    found = ", ".join(map(repr, columns)) or "none"
    return f"{path}: no column {' or '.join(map(repr, wanted))}; it has {found}{guess}"


def no_text(value: object) -> str:
    """Return why a cell cannot be used: it has a NUL byte or is no Unicode; else ""."""
    found = NO_TEXT.search(value) if isinstance(value, str) else None
    if not found:
        return ""
    code = ord(found.group())
    if not code:
        return "got a NUL byte"
    # Python's `surrogateescape` has the undecodable bytes there.
    if 0xDC80 <= code <= 0xDCFF:
        return f"byte 0x{code - 0xDC00:02X} is not UTF-8"
    return f"got U+{code:04X}, half of a character"


def decimal_point(cell: object) -> object:
    """Return `0,83`, as spreadsheets in many languages write it, as `0.83`; else the cell.

    Only what can mean nothing else: `1,000` stays as it is.
    """
    if isinstance(cell, str) and (match := DECIMAL_COMMA.fullmatch(cell)):
        return f"{match[1] or match[3] or 0}.{match[2] or match[4]}"
    return cell


def _names(path: PurePath) -> tuple[str, str]:
    return path.name, f"{path.stem}-utf8{path.suffix}"


def _read(path: Path) -> str:
    """Return a file's text; bytes that are not UTF-8 become surrogates, which `no_text` finds."""
    content = _content(path)
    _check_kind(path, content)
    if not content.strip():
        raise TableError(f"{path}: the file is empty")
    return content.decode("utf-8-sig", errors="surrogateescape")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from None


def _check_kind(path: PurePath, content: bytes) -> None:
    """Raise TableError if a file that begins so is no text in UTF-8."""
    for signature, advice in SIGNATURES:
        if content.removeprefix(BOM_UTF8).lower().startswith(signature.lower()):
            raise TableError(f"{path}: this file is {advice.format(*_names(path))}")


class _Replay(io.RawIOBase):
    """A stream whose first bytes have been read and are wanted again."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = head, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        part = part or self._stream.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)


def _lines(path: PurePath, stream: BinaryIO, newline: str) -> tuple[Iterator[str], str]:
    """Return all lines of a file with their ends, and the text that it begins with."""
    start = stream.read(SIGNATURE_BYTES)
    _check_kind(path, start)
    buffer = io.BufferedReader(_Replay(start, stream), HEAD_CHARS)
    text = io.TextIOWrapper(buffer, "utf-8-sig", "surrogateescape", newline)
    lines = _bounded(path, text)
    first, length = list[str](), 0
    for line in lines:
        first.append(line)
        length += len(line)
        if length >= HEAD_CHARS:
            break
    head = "".join(first)
    if length < HEAD_CHARS and not head.strip():
        raise TableError(f"{path}: the file is empty")
    return chain(first, lines), head


def _bounded(path: PurePath, text: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := text.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise TableError(f"{path}: line {number} has more than {MAX_LINE:,} characters")
        yield line


def _csv_table(path: Path, records: Records, header: Sequence[str]) -> Table:
    columns, separator, rows = records
    wrong = list[tuple[str, str]]()
    table = Table(columns, [], [])
    total = 0
    for total, line, content in rows:
        place = _place(total, line, total + (not header))
        if isinstance(content, str):
            wrong.append((place, content))
        else:
            table.rows.append(list(content))
            table.places.append(place)
    wrong += [(table.places[i], problem)
              for i, problem in swallowed(columns, table.rows, separator)]  # fmt: skip
    if wrong:
        raise TableError(describe(path, wrong, total))
    return table


def _csv_rows(
    records: Iterable[tuple[int, list[str] | str, bool]], columns: list[str], separator: str
) -> Iterator[Record]:
    several_lines = 0  # the first row that has them in a cell
    for number, (line, row, is_odd) in enumerate(records, 1):
        if not several_lines and not isinstance(row, str) and re.search(r"[\r\n]", "".join(row)):
            several_lines = number
        problem = row if isinstance(row, str) else _row_problem(row, columns, separator)
        if not problem and is_odd and several_lines:
            # One mark too much or too little always leads to such a row, or to one of the reader's
            # errors; what is between may be many rows in one cell.
            problem = (
                f"an odd number of quotation marks, and row {several_lines} has a cell of several "
                "lines; is a quotation mark missing, or too much?"
            )
        yield Record(number, line, problem or row)


def _records(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str] | str, bool]]:
    """Yield the first line and the cells of each record, or what is wrong with it, and whether its
    quotation marks are odd.
    """
    quotes = 0

    def counted() -> Iterator[str]:
        nonlocal quotes
        for text in lines:
            quotes += text.count('"')
            yield text

    reader = csv.reader(counted(), delimiter=separator, strict=True)
    while True:
        line, quotes = reader.line_num + 1, 0
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield line, _csv_problem(str(error)), False
            continue  # with the next line
        if row is None:
            return
        yield line, row, quotes % 2 == 1


def _csv_problem(message: str) -> str:
    if "unexpected end" in message:
        return "a quotation mark opens a cell, and none closes it"
    if "limit" in message:
        most = csv.field_size_limit()
        return f"a cell has more than {most:,} characters; is a quotation mark not closed?"
    return "a quotation mark in a quoted cell is not doubled, or one that opens a cell is too much"


def _separator(path: PurePath, head: str) -> str:
    """Return the usual separator of such a file, or the one that its header has instead."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    for separator in f"{usual},;\t|":
        lines = io.StringIO(head, newline="")
        header = next((row for _, row, _ in _records(lines, separator) if row), "")
        if not isinstance(header, str) and len(header) > 1:
            return separator
    return usual


def _header(path: PurePath, row: list[str] | str) -> list[str]:
    problem = row if isinstance(row, str) else next(filter(None, map(no_text, row)), "")
    if isinstance(row, str) or problem:
        raise TableError(describe(path, [("header", problem)], 1))
    columns = [name.strip() for name in row]
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise TableError(f"{path}: the header has {twice[0]!r} twice; wanted different names")
    return columns


def _row_problem(row: list[str], columns: list[str], separator: str) -> str:
    if len(row) == len(columns):
        return next(filter(None, map(no_text, row)), "")
    counts = f"got {len(row)} fields, the header has {len(columns)}"
    if len(row) < len(columns):
        return counts
    if not any(row[len(columns) :]):
        return f"{counts} (a separator at the end)"
    return f"{counts} (a text with {separator!r} needs quotation marks)"


def _is_number(cell: str) -> bool:
    return bool(re.fullmatch(r"-?\d+([.,]\d+)?", cell))


def _place(row: int, line: int, expected: int) -> str:
    return f"row {row}" if line == expected else f"row {row}, line {line}"


def _json_table(path: Path, records: Records) -> Table:
    columns: dict[str, None] = {}
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    wrong: list[tuple[str, str]] = []
    total = 0
    for total, line, content in records.rows:
        places.append(_place(total, line, total))
        if isinstance(content, dict):
            rows.append(content)
            columns |= dict.fromkeys(content)
        else:
            wrong.append((places[-1], str(content)))
    if wrong:
        raise TableError(describe(path, wrong, total))
    return Table(list(columns), [[row.get(name) for name in columns] for row in rows], places)


def _json_rows(lines: Iterable[str]) -> Iterator[Record]:
    number = 0
    for line, text in enumerate(lines, 1):
        if text.strip():
            number += 1
            yield Record(number, line, _json_object(text))


def _json_object(text: str) -> dict[str, Any] | str:
    """Return a line's object, or what is wrong with it."""
    if problem := no_text(text):
        return problem
    try:
        record = json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        return f"not usable: {error}"
    if not isinstance(record, dict):
        return "got no JSON object"
    texts = [*record, *record.values(), *_listed(record.values())]
    return next(filter(None, map(no_text, texts)), "") or record


def _listed(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {max(names, key=names.count)!r} twice")
    return record


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
