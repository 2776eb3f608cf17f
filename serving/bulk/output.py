"""The output of a bulk run: part files that are complete or absent, and what is made of them.

    part ──> OUT/part-00000-0000000.parquet         Parquet: OUT is a folder of parts
    part ──> OUT.parts/… ──all parts──> OUT          CSV, JSON lines: OUT is one file
    the run's settings ──> OUT.run.json              what `--resume` must find again
    rejected rows of all parts ──> OUT.rejected.jsonl

A part gets its name only when all of its bytes are on the disk, so what a killed run leaves behind
has whole parts and nothing else. Parquet stays a folder: ten million rows need no second copy, and
pandas, DuckDB and Spark read a folder like a file. A CSV file in pieces would be of no use, so it
is put together at the end, part by part, and appears when it is complete.
"""

import csv
import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
from pyarrow import parquet as pq

from serving.bulk.inputs import BESIDE, BulkError, Rejected
from serving.bulk.scoring import META, OUTPUTS

SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class Output:
    """A run's files. `format`: parquet, csv or jsonl; by default what OUT's ending says."""

    def __init__(self, out: Path, format_: str | None) -> None:
        self.path = out
        self.format = format_ or SUFFIXES.get(out.suffix.lower(), "parquet")
        self.parts = out if self.format == "parquet" else self._beside(".parts")
        self.rejected, self._run = map(self._beside, BESIDE)
        self._locked: int | None = None  # a descriptor of `parts`

    def close(self) -> None:
        """Let other runs write this output."""
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)

    def open(self, run: dict[str, Any], *, resume: bool, overwrite: bool) -> tuple[int, int] | None:
        """Make the output ready; if an earlier run has finished it, return the numbers of scored
        and of rejected rows.

        Args:
            run: the settings on which the rows and scores depend.
            resume: go on with the output of an earlier run with the same settings.
            overwrite: delete the output of an earlier run.

        Raises:
            BulkError: there is an output, and neither is asked for; or it is of other settings; or
                another run writes it.
        """
        if not self.path.absolute().parent.is_dir():
            raise BulkError(f"{self.path}: its folder does not exist")
        existing = [path for path in (self.path, self.parts, self._run) if path.exists()]
        if {*existing} == {self.parts} and self._is_empty():
            existing = []  # of a run that had no room to begin, or somebody made it for this one
        if existing and not (resume or overwrite):
            raise BulkError(
                f"{existing[0]}: it exists; wanted --resume to go on, or --overwrite to replace it"
            )
        if self.parts.is_dir():
            self._lock()
        if overwrite:
            self._delete()
        elif existing and (done := self._check_run(run)):
            return done
        self.parts.mkdir(exist_ok=True)
        self._lock()
        self._write_run(run, None)
        for scratch in self.parts.glob(".*"):
            scratch.unlink()
        return None

    def _is_empty(self) -> bool:
        return self.parts.is_dir() and not any(self.parts.iterdir())

    def _lock(self) -> None:
        """Keep other runs away from `parts` until `close`, or the end of this process."""
        folder = os.open(self.parts, os.O_RDONLY | os.O_DIRECTORY)
        self.close()
        self._locked = folder
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_taken = not os.path.samestat(os.fstat(folder), self.parts.stat())
        except (BlockingIOError, FileNotFoundError):
            is_taken = True
        except OSError:  # some network file systems have no locks for folders
            is_taken = False
        if is_taken:
            self.close()
            raise BulkError(
                f"{self.path}: another `tweet-tagger score` writes it now; wanted another --out, "
                "or --resume when that one has ended"
            )

    def _delete(self) -> None:
        """Delete what an earlier run made, and nothing that no run has made."""
        is_ours = self._run.exists() or (self.path == self.parts and self._is_empty())
        if self.path.is_dir() and not is_ours:
            raise BulkError(
                f"{self.path}: got a folder that `score` has not made, wanted another --out"
            )
        for path in (self.path, self.parts, self.rejected, self._run):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _check_run(self, run: dict[str, Any]) -> tuple[int, int] | None:
        try:
            earlier = json.loads(self._run.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise BulkError(
                f"{self._run}: it is missing or unreadable, so {self.path} cannot be resumed; "
                "wanted --overwrite or another --out"
            ) from None
        done = earlier.pop("done", None)
        run = json.loads(json.dumps(run))
        keys = [*run, *earlier]
        if other := next((key for key in keys if run.get(key) != earlier.get(key)), None):
            raise BulkError(
                f"--resume: {self.path} was begun with another {other}: "
                f"got {_short(run.get(other))}, wanted {_short(earlier.get(other))}"
            )
        return (done[0], done[1]) if done and self.path.exists() else None

    def _write_run(self, run: dict[str, Any], done: tuple[int, int] | None) -> None:
        with replaced(self._run) as file:
            file.write(orjson.dumps(run | {"done": done}, option=orjson.OPT_INDENT_2))

    def part(self, file: int, index: int) -> Path:
        """Return the path of a chunk's part."""
        return self.parts / f"part-{file:05}-{index:07}.parquet"

    def digests(self, file: int) -> dict[int, str]:
        """Return the digests of a file's parts, by the index of the chunk."""
        paths = self.parts.glob(f"part-{file:05}-*.parquet")
        return {int(path.stem.rpartition("-")[2]): str(_figures(path)["digest"]) for path in paths}

    def write_part(self, file: int, index: int, content: bytes) -> None:
        """Store a part, whole or not at all."""
        with replaced(self.part(file, index)) as stream:
            stream.write(content)

    def finish(self, run: dict[str, Any]) -> tuple[int, int]:
        """Make the output of all parts; return the numbers of scored and of rejected rows."""
        # By their numbers: a file may have a number of more than five digits.
        parts = sorted(
            self.parts.glob("part-*.parquet"),
            key=lambda path: [int(number) for number in path.stem.split("-")[1:]],
        )
        scored = sum(pq.read_metadata(path).num_rows for path in parts)
        rejected = self._write_rejected(parts)
        if self.format != "parquet":
            write = _write_csv if self.format == "csv" else _write_json_lines
            with replaced(self.path) as stream:
                for i, path in enumerate(parts):
                    _stream(path, write, stream, header=i == 0)
        self._write_run(run, (scored, rejected))
        if self.format != "parquet":
            shutil.rmtree(self.parts)
        return scored, rejected

    def _write_rejected(self, parts: list[Path]) -> int:
        count = 0
        with replaced(self.rejected) as stream:
            for path in parts:
                for row in _figures(path)["rejected"]:
                    # Not by orjson: an id may be any number, and any text that JSON can hold.
                    stream.write(json.dumps(Rejected(*row)._asdict()).encode() + b"\n")
                    count += 1
        if not count:
            self.rejected.unlink()
        return count


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Yield a scratch file that becomes `path` when the block has succeeded, after a sync."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
    finally:
        with suppress(FileNotFoundError):
            scratch.unlink()


def _figures(path: Path) -> dict[str, Any]:
    try:
        figures: dict[str, Any] = json.loads(pq.read_metadata(path).metadata[META])
    except (OSError, KeyError, TypeError, pa.ArrowException):
        raise BulkError(f"{path}: it is no part of this run; delete it, then --resume") from None
    return figures


Write = Callable[[pa.Table, BinaryIO, bool], None]


def _stream(path: Path, write: Write, stream: BinaryIO, *, header: bool) -> None:
    """Write a part's rows in pieces, in another format."""
    with pq.ParquetFile(path) as file:
        if header:
            write(file.schema_arrow.empty_table(), stream, True)
        for batch in file.iter_batches(batch_size=1024):
            write(pa.Table.from_batches([batch]), stream, False)


def _write_csv(table: pa.Table, stream: BinaryIO, header: bool) -> None:
    # Python's module, not Arrow's: that one has no lists, and writes 1e-05 otherwise than JSON.
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    if header:
        writer.writerow(table.column_names)
    columns = [
        _csv_cells(name, column)
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    writer.writerows(zip(*columns, strict=True))
    stream.write(text.getvalue().encode())


def _csv_cells(name: str, column: pa.ChunkedArray) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if pa.types.is_boolean(column.type):
        return [None if value is None else str(value).lower() for value in values]
    if pa.types.is_nested(column.type):
        if name in OUTPUTS.names:  # our warnings; no column of the input has such a name
            return [None if value is None else " ".join(value) for value in values]
        return [None if value is None else _json(value).decode() for value in values]
    return values


def _write_json_lines(table: pa.Table, stream: BinaryIO, _header: bool) -> None:
    for row in table.to_pylist():
        stream.write(_json(row) + b"\n")


def _json(value: object) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
