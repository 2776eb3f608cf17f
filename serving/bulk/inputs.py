"""The inputs of a bulk run: files, folders, globs, standard input and URLs, read as chunks of rows.

    INPUT… ──> find_sources ──> Source ──> probe ──> Layout
    Source + Layout ──> read_chunks ──> Chunk, Chunk, …     the same chunks each time

CSV and JSON lines follow the rules of `serving.tables`. A row that does not fit, or has no text, is
a `Rejected` of its chunk. Memory holds one chunk: at most `part_rows` rows, or about CHUNK_BYTES.

    BulkError    a sentence for the user; nothing can be scored, or no more
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import blake2b
from itertools import chain, islice, product
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import quote, urlsplit

import pyarrow as pa
from pyarrow import fs
from pyarrow import parquet as pq

from serving.tables import (
    Record,
    TableError,
    no_column,
    no_text,
    stream_csv,
    stream_json_lines,
    swallowed,
)

STDIN = "-"
FORMATS = {
    ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet",
}  # fmt: skip
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
CHUNK_BYTES = 8 << 20
BESIDE = (".rejected.jsonl", ".run.json")  # what a run writes beside its output, after its name
BLOCK_ROWS = 256  # that become columns at a time
PROBE_ROWS = 1000  # of JSON lines, from which the columns and their types are told
NOT_UTF8 = "got bytes that are not UTF-8"
READ_ERRORS = (OSError, EOFError, pa.ArrowException)


class BulkError(Exception):
    """A bulk run cannot start, or cannot go on; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file.

    name: as messages name it. uri: what opens it; a path, a URL, or `-`.
    format: csv, jsonl or parquet. size: in bytes; 0 if unknown. modified: seconds, 0 if unknown.
    """

    name: str
    uri: str
    format: str
    size: int = 0
    modified: float = 0.0

    @property
    def codec(self) -> str | None:
        """The compression that the name's suffix says."""
        return COMPRESSED.get(PurePath(self.name).suffix.lower())


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns the inputs have.

    schema: names and types, the same in all files. text, id: the names of two of them.
    as_json: columns of JSON lines with lists, objects or values of several types: they are carried
        as JSON text.
    """

    schema: pa.Schema
    text: str
    id: str | None
    as_json: frozenset[str] = frozenset()


class Rejected(NamedTuple):
    """A row that is not scored. `line` is None where a format has no lines."""

    file: str
    row: int
    line: int | None
    reason: str
    id: Any = None


@dataclass(slots=True)
class Chunk:
    """Successive rows of one file.

    file, index: the numbers of the file and of the chunk in it; they name the part file.
    table: the rows that fit, in the layout's columns. rejected: the others.
    digest: tells whether a part file was made from these rows.
    read: the share of the file that has been read after it, 0 to 1.
    """

    file: int
    index: int
    table: pa.Table
    rejected: list[Rejected]
    digest: str
    read: float


def find_sources(inputs: Sequence[str], format_: str | None, own: Path) -> list[Source]:
    """Return the files that the inputs name, each once: in the order given, folders sorted.

    Args:
        inputs: paths, globs, URLs, or `-`.
        format_: of all files; None: each file's name tells it.
        own: the output; it and what a run writes beside it are no input.

    Raises:
        BulkError: an input names no file that can be read, or its format is unknown.
    """
    sources: dict[str, Source] = {}
    for name in inputs:
        if name == STDIN:
            if format_ not in {"csv", "jsonl"}:
                raise BulkError("-: --format is missing; wanted csv or jsonl for standard input")
            sources[STDIN] = Source("standard input", STDIN, format_)
            continue
        for source in _expand(name, format_, own):
            sources.setdefault(source.uri, source)
    return list(sources.values())


def _expand(name: str, format_: str | None, own: Path) -> Iterator[Source]:
    system, path = _filesystem(name)
    try:
        infos, is_file = _infos(system, path)
    except READ_ERRORS as error:
        raise BulkError(f"{name}: {_sentence(error)}") from None
    count = 0
    for info in sorted(infos, key=lambda info: info.path):
        known = format_ or _format_of(info.path)
        if is_file and known is None:
            raise BulkError(
                f"{name}: got an unknown ending, wanted {', '.join(FORMATS)} or --format"
            )
        if isinstance(system, fs.LocalFileSystem) and _is_own(info.path, own):
            if is_file:
                raise BulkError(f"{name}: it is the output, wanted another --out")
            continue
        if known is None:
            continue
        count += 1
        uri = _uri(name, info.path)
        # Without a query, because the ending tells how a file is compressed, and without a secret.
        public = re.sub(r"://[^/@]*@", "://", uri.partition("?")[0])
        shown = name if is_file and "://" not in name else public
        stamp = info.mtime.timestamp() if info.mtime else 0.0
        yield Source(shown, uri, known, info.size or 0, stamp)
    if not count:
        raise BulkError(f"{name}: got no file with a known ending, wanted {', '.join(FORMATS)}")


def _uri(name: str, path: str) -> str:
    """Return what opens the file at a path that was found under `name`, a path or a URL."""
    if "://" not in name:
        return path
    scheme, netloc, _, query, _ = urlsplit(name)
    if not path.startswith("/"):  # it begins with the bucket
        netloc = netloc.rpartition("@")[0] + "@" * ("@" in netloc)
    return f"{scheme}://{netloc}{quote(path)}" + (f"?{query}" if query else "")


def _filesystem(name: str) -> tuple[fs.FileSystem, str]:
    if "://" not in name:
        return fs.LocalFileSystem(), str(Path(name).absolute())
    try:
        return cast(tuple[fs.FileSystem, str], fs.FileSystem.from_uri(name))
    except (*READ_ERRORS, ValueError) as error:
        raise BulkError(f"{name}: {_sentence(error)}") from None


def _infos(system: fs.FileSystem, path: str) -> tuple[list[Any], bool]:
    """Return the files at a path, and whether it names a file itself."""
    info = system.get_file_info(path)
    if info.type == fs.FileType.File:
        return [info], True
    if info.type == fs.FileType.Directory:
        found = system.get_file_info(fs.FileSelector(path, recursive=True))
        files = [each for each in found if each.type == fs.FileType.File]
        return [each for each in files if not _is_hidden(each.path[len(path) :])], False
    if not any(character in path for character in "*?["):
        raise FileNotFoundError(2, "No such file or directory")
    first = next(i for i, character in enumerate(path) if character in "*?[")
    base = path[:first].rpartition("/")[0] or "/"
    selector = fs.FileSelector(base, allow_not_found=True, recursive="/" in path[first:])
    # `*` stands for a part of one name; `**` is not needed, a folder is read with all below it.
    found = [each for each in system.get_file_info(selector) if each.type == fs.FileType.File]
    return [each for each in found if _matches(each.path, path)], False


def _matches(path: str, pattern: str) -> bool:
    names, patterns = path.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))


def _is_own(path: str, own: Path) -> bool:
    """Return whether a local file is the output or beside it, also through links and `..`."""
    for file, out in product(_places(Path(path)), _places(own)):
        beside = {out + ending for ending in ("", *BESIDE)}
        if file in beside or file.startswith((f"{out}/", f"{out}.parts/")):
            return True
    return False


def _places(path: Path) -> set[str]:
    """Return where a path is, and where it leads to if it is a link."""
    return {str(path.parent.resolve() / path.name), str(path.resolve())}


def _format_of(path: str) -> str | None:
    pure = PurePath(path.lower())
    if pure.suffix in COMPRESSED:
        pure = pure.with_suffix("")
    return FORMATS.get(pure.suffix)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).split("\n", maxsplit=1)[0].rstrip(".")


@contextmanager
def _errors(source: Source) -> Iterator[None]:
    try:
        yield
    except TableError as error:
        raise BulkError(str(error)) from None
    except READ_ERRORS as error:
        raise BulkError(f"{source.name}: {_sentence(error)}") from None


class _Open(NamedTuple):
    """A source's bytes, and what tells how many of them have been read."""

    stream: BinaryIO
    raw: Any

    def read(self, size: int) -> float:
        return min(1.0, self.raw.tell() / size) if size else 0.0


def _open(source: Source) -> _Open:
    if source.uri == STDIN:
        if sys.stdin is None:
            raise BulkError("standard input is closed")
        return _Open(sys.stdin.buffer, None)
    system, path = _filesystem(source.uri)
    raw = system.open_input_file(path)
    stream = pa.CompressedInputStream(raw, source.codec) if source.codec else raw
    return _Open(cast(BinaryIO, stream), raw)


def probe(sources: Sequence[Source], text: str, id_: str | None, stdin: "Stdin") -> Layout:
    """Read the beginning of every source and return the columns that all of them have.

    Raises:
        BulkError: a file cannot be read, lacks the wanted columns, or has others than the first.
    """
    layout: Layout | None = None
    for source in sources:
        if layout is not None and source.format == "jsonl":
            found = layout  # its rows are checked one by one
            with _errors(source):
                _records(source, stdin).close()
        else:
            with _errors(source):
                found = _layout(source, text, id_, stdin)
        if layout is not None and not _same(found.schema, layout.schema):
            raise BulkError(
                f"{source.name}: got the columns {_columns(found.schema)}, "
                f"wanted those of {sources[0].name}: {_columns(layout.schema)}"
            )
        layout = layout or found
    assert layout is not None
    return layout


def _same(one: pa.Schema, other: pa.Schema) -> bool:
    return {f.name: f.type for f in one} == {f.name: f.type for f in other}


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{f.name} ({f.type})" for f in schema)


def _layout(source: Source, text: str, id_: str | None, stdin: "Stdin") -> Layout:
    as_json = frozenset[str]()
    if source.format == "parquet":
        with pq.ParquetFile(_open(source).raw) as file:
            schema = file.schema_arrow.remove_metadata()
    elif source.format == "csv":
        records = _records(source, stdin)
        schema = pa.schema([(name, pa.string()) for name in records.columns])
        records.close()
    else:
        records = _records(source, stdin)
        first = [row.content for row in records.head(PROBE_ROWS) if isinstance(row.content, dict)]
        records.close()
        schema, as_json = _json_schema(first)
    for name in filter(None, (text, id_)):
        if name not in schema.names:
            raise BulkError(no_column(PurePath(source.name), [name], schema.names))
    kind = schema.field(text).type
    if text in as_json or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        shown = "values of other types" if text in as_json else kind
        raise BulkError(f"{source.name}: {text!r} has {shown}, wanted texts")
    return Layout(schema, text, id_, as_json)


def _json_schema(rows: Sequence[dict[str, Any]]) -> tuple[pa.Schema, frozenset[str]]:
    """Return the type of each key's values: text, whole number, number or boolean, else JSON."""
    fields, as_json = [], set()
    for name in dict.fromkeys(key for row in rows for key in row):
        kinds = {type(row[name]) for row in rows if row.get(name) is not None}
        if kinds <= {str}:
            kind = pa.string()
        elif kinds == {bool}:
            kind = pa.bool_()
        elif kinds == {int}:
            kind = pa.int64()
        elif kinds <= {int, float}:
            kind = pa.float64()
        else:
            kind = pa.string()
            as_json.add(name)
        fields.append((name, kind))
    return pa.schema(fields), frozenset(as_json)


class Stdin:
    """Standard input: what `probe` has read of it is kept for the run."""

    def __init__(self) -> None:
        self.records: _Rows | None = None


class _Rows:
    """The rows of a CSV file or of JSON lines; `head` looks at the first without taking them."""

    def __init__(self, source: Source) -> None:
        self.opened = _open(source)
        self.is_stdin = source.uri == STDIN
        read = stream_csv if source.format == "csv" else stream_json_lines
        name = source.name.removesuffix(PurePath(source.name).suffix if source.codec else "")
        self.columns, self.separator, self.rows = read(PurePath(name), self.opened.stream)

    def head(self, count: int) -> list[Record]:
        first = list(islice(self.rows, count))
        self.rows = chain(first, self.rows)
        return first

    def close(self) -> None:
        if not self.is_stdin:
            self.opened.raw.close()


def _records(source: Source, stdin: Stdin) -> _Rows:
    if source.uri != STDIN:
        return _Rows(source)
    stdin.records = stdin.records or _Rows(source)
    return stdin.records


def read_chunks(
    source: Source, file: int, layout: Layout, part_rows: int, stdin: Stdin
) -> Iterator[Chunk]:
    """Read a source as chunks; an empty one if it has no rows.

    The same bytes give the same chunks, so a run that was killed finds its parts again.

    Raises:
        BulkError: the file cannot be read any more.
    """
    with _errors(source):
        blocks = _parquet_blocks if source.format == "parquet" else _record_blocks
        tables, rejected, rows, size, index = [], list[Rejected](), 0, 0, 0
        read = 1.0
        for table, wrong, read in blocks(source, layout, min(BLOCK_ROWS, part_rows), stdin):
            tables.append(table)
            rejected += wrong
            rows += table.num_rows + len(wrong)
            size += table.nbytes
            if rows >= part_rows or size >= CHUNK_BYTES:
                yield _chunk(file, index, pa.concat_tables(tables), rejected, read)
                tables, rejected, rows, size, index = [], [], 0, 0, index + 1
        if rows or not index:
            whole = pa.concat_tables(tables) if tables else layout.schema.empty_table()
            yield _chunk(file, index, whole, rejected, 1.0)


def _chunk(file: int, index: int, table: pa.Table, rejected: list[Rejected], read: float) -> Chunk:
    table = table.combine_chunks()
    digest = blake2b(digest_size=16)
    for batch in table.to_batches():
        digest.update(batch.serialize())
    digest.update(json.dumps(rejected, default=str).encode())
    return Chunk(file, index, table, rejected, digest.hexdigest(), read)


Block = tuple[pa.Table, list[Rejected], float]


def _parquet_blocks(source: Source, layout: Layout, rows: int, stdin: Stdin) -> Iterator[Block]:  # noqa: ARG001
    opened = _open(source)
    number = 0
    with pq.ParquetFile(opened.raw, buffer_size=1 << 20, pre_buffer=False) as file:
        total = max(1, file.metadata.num_rows)
        for batch in file.iter_batches(batch_size=rows, use_threads=False):
            table = pa.Table.from_batches([batch]).select(layout.schema.names)
            table = table.cast(layout.schema)
            every = range(number + 1, number + 1 + table.num_rows)
            number += table.num_rows
            table, numbers, undecodable = _without_undecodable(table, every)
            texts = table.column(layout.text).to_pylist()
            problems = [_text_problem(text) for text in texts]
            ids = table.column(layout.id).to_pylist() if layout.id else [None] * len(texts)
            wrong = [Rejected(source.name, i, None, NOT_UTF8) for i in undecodable] + [
                Rejected(source.name, i, None, problem, id_)
                for i, problem, id_ in zip(numbers, problems, ids, strict=True)
                if problem
            ]
            if wrong:
                table = table.filter(pa.array([not problem for problem in problems], pa.bool_()))
            yield table, sorted(wrong, key=lambda each: each.row), number / total


def _without_undecodable(
    table: pa.Table, numbers: Sequence[int]
) -> tuple[pa.Table, Sequence[int], list[int]]:
    """Return the rows whose texts are UTF-8, their numbers, and the numbers of the others."""
    if _is_valid(table):
        return table, numbers, []
    valid = [_is_valid(table.slice(i, 1)) for i in range(table.num_rows)]
    left = [i for i, is_valid in zip(numbers, valid, strict=True) if is_valid]
    lost = [i for i, is_valid in zip(numbers, valid, strict=True) if not is_valid]
    return table.filter(pa.array(valid)), left, lost


def _is_valid(table: pa.Table) -> bool:
    try:
        table.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _text_problem(text: object) -> str:
    if not isinstance(text, str):
        return "got no text" if text is None else f"got {type(text).__name__}, wanted a text"
    return no_text(text) if text.strip() else "got no text"


def _record_blocks(source: Source, layout: Layout, rows: int, stdin: Stdin) -> Iterator[Block]:
    records = _records(source, stdin)
    order = [records.columns.index(name) for name in layout.schema.names] if records.columns else []
    while block := list(islice(records.rows, rows)):
        good: list[tuple[Record, list[Any]]] = []
        wrong: list[Rejected] = []
        for record in block:
            values = _values(record.content, order, layout)
            if isinstance(values, str):
                wrong.append(_rejected(source, record, values, layout, order))
            else:
                good.append((record, values))
        if records.columns:
            good = _without_swallowed(source, records, good, wrong)
        columns = list(zip(*(values for _, values in good), strict=True))
        arrays = [pa.array(list(column), kind) for column, kind in
                  zip(columns, layout.schema.types, strict=True)] if columns else None  # fmt: skip
        table = pa.table(arrays, schema=layout.schema) if arrays else layout.schema.empty_table()
        wrong.sort(key=lambda each: each.row)
        yield table, wrong, 0.0 if records.is_stdin else records.opened.read(source.size)
    records.close()


def _rejected(
    source: Source, record: Record, reason: str, layout: Layout, order: list[int]
) -> Rejected:
    id_ = None
    if layout.id and isinstance(record.content, dict):
        id_ = record.content.get(layout.id)
    elif layout.id and isinstance(record.content, list):
        id_ = record.content[order[layout.schema.names.index(layout.id)]]
    return Rejected(source.name, record.row, record.line, reason, id_)


def _without_swallowed(
    source: Source,
    records: _Rows,
    good: list[tuple[Record, list[Any]]],
    wrong: list[Rejected],
) -> list[tuple[Record, list[Any]]]:
    """Move rows with other rows in a cell to the rejected ones.

    They are compared with the rows around them: the whole file is never in the memory.
    """
    cells = [cast(list[str], record.content) for record, _ in good]
    found = dict(swallowed(records.columns, cells, records.separator))
    for i, reason in found.items():
        record = good[i][0]
        wrong.append(Rejected(source.name, record.row, record.line, reason))
    return [row for i, row in enumerate(good) if i not in found]


def _values(content: list[Any] | dict[str, Any] | str, order: list[int], layout: Layout) -> Any:
    """Return a row's values in the layout's order, or what is wrong with it."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        values = [content[i] for i in order]
    else:
        if unknown := next((name for name in content if name not in layout.schema.names), None):
            return (f"got the key {unknown!r}, wanted those of the first {PROBE_ROWS:,} rows of "
                    "the first file")  # fmt: skip
        values = []
        for name, kind in zip(layout.schema.names, layout.schema.types, strict=True):
            value = content.get(name)
            if name in layout.as_json and value is not None:
                value = json.dumps(value, ensure_ascii=False)
                if problem := no_text(value):
                    return f"{name}: {problem}"
            elif problem := _type_problem(name, value, kind):
                return problem
            values.append(value)
    return _text_problem(values[layout.schema.names.index(layout.text)]) or values


def _type_problem(name: str, value: object, kind: pa.DataType) -> str:
    if value is None:
        return ""
    if pa.types.is_string(kind):
        fits, wanted = isinstance(value, str), "a text"
    elif pa.types.is_boolean(kind):
        fits, wanted = isinstance(value, bool), "true or false"
    elif pa.types.is_integer(kind):
        fits = type(value) is int and -(2**63) <= value < 2**63
        wanted = "a whole number of 64 bits"
    else:
        fits = type(value) is float or (type(value) is int and abs(value) <= 2**53)
        wanted = "a number"
    return "" if fits else f"{name}: got {type(value).__name__}, wanted {wanted}"
