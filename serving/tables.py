"""Reading tables strictly: a row that does not fit is an error, and none is lost without a word.

    .csv .tsv        decode -> csv.reader -> check each row -> Table
    .jsonl .ndjson   decode -> json.loads -> check each line -> Table
    .txt             decode -> check each line -> list of texts

A message names the file and the rows: the first five, and how many there are.
"""

import csv
import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

JSON_LINES = (".jsonl", ".ndjson")
SHOWN = 5  # rows in a message
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
    content = _read(path)
    if path.suffix.lower() in JSON_LINES:
        return _parse_json_lines(path, content)
    return _parse_csv(path, content, separator, header)


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


def describe(path: Path, wrong: Sequence[tuple[str, str]], total: int, wanted: str = "") -> str:
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


def no_column(path: Path, wanted: Sequence[str], columns: Sequence[str]) -> str:
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


def _names(path: Path) -> tuple[str, str]:
    return path.name, f"{path.stem}-utf8{path.suffix}"


def _read(path: Path) -> str:
    """Return a file's text; bytes that are not UTF-8 become surrogates, which `no_text` finds."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path}: {error.strerror}") from None
    for signature, advice in SIGNATURES:
        if content.removeprefix(BOM_UTF8).lower().startswith(signature.lower()):
            raise TableError(f"{path}: this file is {advice.format(*_names(path))}")
    if not content.strip():
        raise TableError(f"{path}: the file is empty")
    return content.decode("utf-8-sig", errors="surrogateescape")


def _parse_csv(path: Path, content: str, separator: str | None, header: Sequence[str]) -> Table:
    if re.match(r'\s*(\{\s*"|\[\s*\{)', content):
        raise TableError(f"{path}: this file is JSON; wanted an object on each line of a .jsonl")
    skipped = 0  # lines before the header
    if match := SEPARATOR_LINE.match(content):
        separator, content, skipped = match[1], content[match.end() :], 1
    separator = separator or _separator(path, content)
    columns, wrong = list(header), list[tuple[str, str]]()
    table = Table(columns, [], [])
    total = 0
    several_lines = ""  # the first row that has them
    for line, row, odd_quotes in _records(content, separator):
        if not isinstance(row, str) and not any(cell.strip() for cell in row):
            continue  # a blank line, or an empty row of a spreadsheet
        if not columns:
            columns += _header(path, row)
            continue
        total += 1
        place = _place(total, line + skipped, total + (not header))
        if not several_lines and not isinstance(row, str) and re.search(r"[\r\n]", "".join(row)):
            several_lines = place
        problem = row if isinstance(row, str) else _row_problem(row, columns, separator)
        if not problem and odd_quotes and several_lines:
            # One mark too much or too little always leads to such a row, or to one of the reader's
            # errors; what is between may be many rows in one cell.
            problem = (
                f"an odd number of quotation marks, and {several_lines} has a cell of several "
                "lines; is a quotation mark missing, or too much?"
            )
        if problem:
            wrong.append((place, problem))
        else:
            table.rows.append(list(row))
            table.places.append(place)
    wrong += _swallowed(table, separator)
    if wrong:
        raise TableError(describe(path, wrong, total))
    return table


def _records(content: str, separator: str) -> Iterator[tuple[int, list[str] | str, bool]]:
    """Yield the first line and the cells of each record, or what is wrong with it, and whether its
    quotation marks are odd.
    """
    quotes = 0

    def lines() -> Iterator[str]:
        nonlocal quotes
        for line in io.StringIO(content, newline=""):
            quotes += line.count('"')
            yield line

    reader = csv.reader(lines(), delimiter=separator, strict=True)
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


def _separator(path: Path, content: str) -> str:
    """Return the usual separator of such a file, or the one that its header has instead."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    for separator in f"{usual},;\t|":
        header = next((row for _, row, _ in _records(content, separator) if row), "")
        if not isinstance(header, str) and len(header) > 1:
            return separator
    return usual


def _header(path: Path, row: list[str] | str) -> list[str]:
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


def _swallowed(table: Table, separator: str) -> list[tuple[str, str]]:
    """Find cells that contain the rows between two stray quotation marks.

    Such a cell ends its first line, or begins its last one, with what the other columns have, or a
    line between them is a whole row: with a value that another row has there, or a number where
    this row has one.
    """
    width = len(table.columns)
    values = [{row[i] for row in table.rows} - {""} for i in range(width)]
    wrong = []
    for row, place in zip(table.rows, table.places, strict=True):
        for i, cell in enumerate(row):
            lines = re.split(r"\r\n|\r|\n", cell)
            if len(lines) == 1 or width == 1:
                continue
            right, left = lines[0].split(separator)[1:], lines[-1].split(separator)[:-1]
            candidates = [[*left, "", *right]] if len(left) == i else []
            candidates += [line.split(separator) for line in lines[1:-1]]
            if any(_is_row(fields, row, i, values) for fields in candidates):
                wrong.append(
                    (place, f"{table.columns[i]} has rows of the table in it; is a quotation mark "
                     "not closed? (JSON lines can have such a text)")
                )  # fmt: skip
    return wrong


def _is_row(fields: list[str], row: list[str], i: int, values: list[set[str]]) -> bool:
    """Say whether fields beside the i-th look like those of the table's rows; see `_swallowed`."""
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


def _is_number(cell: str) -> bool:
    return bool(re.fullmatch(r"-?\d+([.,]\d+)?", cell))


def _place(row: int, line: int, expected: int) -> str:
    return f"row {row}" if line == expected else f"row {row}, line {line}"


def _parse_json_lines(path: Path, content: str) -> Table:
    if content.lstrip().startswith("["):
        raise TableError(f"{path}: this file is a JSON array; wanted an object on each line")
    columns: dict[str, None] = {}
    records: list[dict[str, Any]] = []
    places: list[str] = []
    wrong: list[tuple[str, str]] = []
    total = 0
    for line, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        total += 1
        places.append(_place(total, line, total))
        record = _json_object(text)
        if isinstance(record, str):
            wrong.append((places[-1], record))
        else:
            records.append(record)
            columns |= dict.fromkeys(record)
    if wrong:
        raise TableError(describe(path, wrong, total))
    return Table(list(columns), [[row.get(name) for name in columns] for row in records], places)


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
