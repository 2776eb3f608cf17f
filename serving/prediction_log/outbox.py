"""The outbox: records on the local disk that survive the process and the power.

    log(seq, kind, id, about, ts, attempts, not_before, body)      SQLite, in WAL

A row is a record as JSON. `seq` is never given twice, so the row that is forgotten is the row that
was read. This module knows neither what a prediction is nor where rows go from here.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import orjson

from serving.prediction_log.sqlite_writer import OutboxError, OutboxFullError, SQLiteWriter, connect

SCHEMA_VERSION = 1
SCHEMA = (
    """CREATE TABLE log (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        kind INTEGER NOT NULL, id TEXT NOT NULL, about TEXT, ts INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0, not_before INTEGER NOT NULL DEFAULT 0,
        body TEXT NOT NULL, UNIQUE (id, kind))""",
    "CREATE INDEX about ON log (about) WHERE about IS NOT NULL",
    "CREATE INDEX postponed ON log (not_before) WHERE attempts > 0",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
# SQLite takes and gives whole lists as one JSON text. Row by row it would let go of the
# interpreter and wait for it again each time, behind a busy event loop.
INSERT = """INSERT OR IGNORE INTO log (kind, id, about, ts, body)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]._id'),
           json_extract(value, '$[1].prediction_id'), json_extract(value, '$[1].ts'),
           json_extract(value, '$[1]')
    FROM json_each(?)"""
BATCH = """SELECT json_group_array(json_array(seq, kind, attempts, json(body))) FROM (
    SELECT seq, kind, attempts, body FROM log WHERE not_before <= ? ORDER BY seq LIMIT ?)"""
FORGET = "DELETE FROM log WHERE seq IN (SELECT value FROM json_each(?))"
DROP_OLDEST = "DELETE FROM log WHERE seq IN (SELECT seq FROM log ORDER BY seq LIMIT ?)"
STEP = 500  # rows that a sweep removes in one transaction

Record = dict[str, Any]  # as JSON holds it, with `_id` str and `ts` int: milliseconds since 1970


class RecordType(IntEnum):
    """What a row holds."""

    PREDICTION = 0
    FEEDBACK = 1
    ERASURE = 2


@dataclass(frozen=True, slots=True)
class Row:
    """A stored record, and how often it was refused where it was sent."""

    seq: int
    kind: RecordType
    record: Record
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class OutboxStats:
    """How full the outbox is: rows, those of them refused and waiting, bytes, oldest `ts`."""

    rows: int = 0
    postponed: int = 0
    bytes: int = 0
    oldest: int | None = None


class Outbox:
    """Records in a file.

    Args:
        path: the file; its folder is made if it is missing.
        max_bytes: of rows and their index; the write-ahead log beside it takes a few MB more.
        ring: when there is no room, let the oldest rows give way instead of refusing new ones.
    """

    def __init__(self, path: Path, *, max_bytes: int, ring: bool) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._ring = ring
        self._writer: SQLiteWriter[tuple[RecordType, Record]] = SQLiteWriter(path, self._insert)

    async def check(self) -> None:
        """Make the file if it is missing, and see that it can be used.

        Raises:
            OutboxError: it cannot be written, is no outbox, or is of a newer version.
        """
        await asyncio.to_thread(_prepare, self.path)

    async def start(self) -> None:
        """Check the file and start its thread. Raises OutboxError."""
        await self.check()
        self._writer.start()

    async def close(self) -> None:
        """Commit what waits, and close the file."""
        await self._writer.close()

    async def append(self, kind: RecordType, records: Sequence[Record]) -> None:
        """Store records; returns when they are on the disk. A known (id, kind) is left as it is.

        Raises:
            OutboxFullError: there is no room.
            OutboxError: the disk failed, or a record is no JSON.
        """
        await self._writer.store([(kind, record) for record in records])

    async def probe(self) -> None:
        """Raise OutboxError if a record could not be stored now."""

        def work(db: sqlite3.Connection) -> None:
            self._insert(db, [(RecordType.PREDICTION, {"_id": "", "ts": 0})])
            db.execute("DELETE FROM log WHERE id = ''")

        await self._writer.do(work)

    async def append_about(self, record: Record, *, known: bool) -> bool:
        """Store feedback; False if its prediction is erased, or neither here nor `known`."""

        def work(db: sqlite3.Connection) -> bool:
            kinds = set(_bodies(db, record["prediction_id"]))
            if RecordType.ERASURE in kinds or not (known or RecordType.PREDICTION in kinds):
                return False
            self._insert(db, [(RecordType.FEEDBACK, record)])
            return True

        return await self._writer.do(work)

    async def erase(self, key: str, ts: int, *, write_tombstone: bool) -> bool:
        """Remove a prediction and its feedback; return whether there was any.

        Args:
            key: the prediction's id.
            ts: now.
            write_tombstone: leave an `ERASURE` row, which carries the erasure to the archive. It
                names the feedback that was still here.
        """

        def work(db: sqlite3.Connection) -> bool:
            here = (key, RecordType.PREDICTION, key)
            sql = "DELETE FROM log WHERE (id = ? AND kind = ?) OR about = ? RETURNING id, kind"
            gone = db.execute(sql, here).fetchall()
            if write_tombstone:  # even if there is no room: it is short, and has to be done
                feedback = [one for one, kind in gone if kind == RecordType.FEEDBACK]
                tombstone = {"_id": key, "ts": ts, "feedback": feedback}
                db.execute(INSERT, (_json([(RecordType.ERASURE, tombstone)]),))
            return bool(gone)

        return await self._writer.do(work)

    async def forget(self, seqs: Iterable[int]) -> None:
        """Remove rows."""
        chosen = _json(list(seqs))
        await self._writer.do(lambda db: db.execute(FORGET, (chosen,)).rowcount)

    async def postpone(self, until: dict[int, int]) -> None:
        """Count a refusal of rows, and leave them out of `batch` until a time in milliseconds."""
        sql = "UPDATE log SET attempts = attempts + 1, not_before = ? WHERE seq = ?"
        rows = [(at, seq) for seq, at in until.items()]
        await self._writer.do(lambda db: db.executemany(sql, rows).rowcount)

    async def prune(self, before: int) -> None:
        """Remove rows older than a time in milliseconds."""
        sql = f"{DROP_OLDEST} AND ts < ?"
        while await self._writer.do(lambda db: db.execute(sql, (STEP, before)).rowcount):
            pass

    async def batch(self, limit: int) -> list[Row]:
        """Return up to `limit` rows that are due, oldest first."""

        def work(db: sqlite3.Connection) -> list[Row]:
            (found,) = db.execute(BATCH, (time.time_ns() // 10**6, limit)).fetchone()
            return [Row(s, RecordType(k), record, n) for s, k, n, record in orjson.loads(found)]

        return await self._writer.read(work)

    async def find(self, key: str) -> dict[RecordType, Record]:
        """Return the records with this id, by kind."""
        return await self._writer.read(lambda db: _bodies(db, key))

    async def level(self) -> OutboxStats:
        """Return how full the outbox is."""

        def work(db: sqlite3.Connection) -> OutboxStats:
            (rows,) = db.execute("SELECT count(*) FROM log").fetchone()
            (late,) = db.execute("SELECT count(*) FROM log WHERE attempts > 0").fetchone()
            oldest = db.execute("SELECT ts FROM log ORDER BY seq LIMIT 1").fetchone()
            return OutboxStats(rows, late, _used(db), oldest[0] if oldest else None)

        return await self._writer.read(work)

    def _insert(self, db: sqlite3.Connection, rows: Sequence[tuple[RecordType, Record]]) -> None:
        if _used(db) >= self._max_bytes:
            if not self._ring:
                raise OutboxFullError(f"{self.path}: {self._max_bytes} bytes of rows wait already")
            db.execute(DROP_OLDEST, (max(STEP, 2 * len(rows)),))
        db.execute(INSERT, (_json(rows),))


def _prepare(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(connect(path)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("BEGIN IMMEDIATE")  # one process makes the tables; the others wait here
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise OutboxError(
                    f"{path}: written by a newer version "
                    f"(schema {version}; {SCHEMA_VERSION} is the newest known)"
                )
            if version == 0:
                for statement in SCHEMA:
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")  # shows that it can be written
            db.execute("COMMIT")
    except (OSError, sqlite3.Error) as error:
        raise OutboxError(f"{path}: cannot be used as the outbox: {error}") from None


def _bodies(db: sqlite3.Connection, key: str) -> dict[RecordType, Record]:
    rows = db.execute("SELECT kind, body FROM log WHERE id = ?", (key,))
    return {RecordType(kind): orjson.loads(body) for kind, body in rows}


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _used(db: sqlite3.Connection) -> int:
    names = ("page_count", "freelist_count", "page_size")
    pages, free, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return int((pages - free) * size)
