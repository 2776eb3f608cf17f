"""The outbox: documents on the local disk, where they survive a crash and a power failure.

    log(seq, kind, id, about, ts, attempts, not_before, body)      SQLite, in WAL mode
    review(id, body, …), lease(prediction_id, …)                   see serving.review

A row holds one document as JSON. `seq` is never used twice, so the relay never removes a row that
it did not read. This module knows neither the content of a prediction nor where rows are sent.
Reviews are in the same file, so that one transaction erases a prediction with its reviews; what
the outbox removes because of its age or for want of room is only in `log`.
"""

import asyncio
import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import orjson

from serving.prediction_log.records import Document, RecordType
from serving.prediction_log.sqlite_writer import (
    BUSY_SECONDS,
    OutboxError,
    OutboxFullError,
    SQLiteWriter,
    connect,
)

_FIRST_SCHEMA = (
    """CREATE TABLE log (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        kind INTEGER NOT NULL, id TEXT NOT NULL, about TEXT, ts INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0, not_before INTEGER NOT NULL DEFAULT 0,
        body TEXT NOT NULL, UNIQUE (id, kind))""",
    "CREATE INDEX about ON log (about) WHERE about IS NOT NULL",
    "CREATE INDEX postponed ON log (not_before) WHERE attempts > 0",
)
# The columns of a review are those of its document; all but the key are computed from it.
_REVIEW_COLUMNS = {
    "prediction_id": "TEXT", "reviewer": "TEXT", "label": "TEXT", "note": "TEXT", "ts": "INTEGER",
    "reason": "TEXT", "weight": "REAL", "text": "TEXT", "predicted": "TEXT",
    "model_version": "TEXT", "language": "TEXT", "prediction_ts": "INTEGER",
}  # fmt: skip
_REVIEWS = (
    "CREATE TABLE review (id TEXT PRIMARY KEY, body TEXT NOT NULL, "
    + ", ".join(
        f"{name} {type_} AS (json_extract(body, '$.{name}'))"
        for name, type_ in _REVIEW_COLUMNS.items()
    )
    + ")",
    "CREATE INDEX review_of ON review (prediction_id)",
    "CREATE INDEX review_time ON review (ts)",
    """CREATE TABLE lease (
        prediction_id TEXT PRIMARY KEY, reviewer TEXT NOT NULL, until INTEGER NOT NULL,
        reason TEXT NOT NULL, weight REAL)""",
    "CREATE INDEX predicted ON log (ts) WHERE kind = 0",
)
# Each entry brings a file to the next version of the schema.
SCHEMA_STEPS = (_FIRST_SCHEMA, _REVIEWS)
SCHEMA_VERSION = len(SCHEMA_STEPS)
# A list crosses into SQLite, and out of it, as one JSON text. Row by row, Python's sqlite3 would
# release the GIL for each one, and wait behind a busy event loop to get it back.
INSERT = """INSERT OR IGNORE INTO log (kind, id, about, ts, body)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]._id'),
           json_extract(value, '$[1].prediction_id'), json_extract(value, '$[1].ts'),
           json_extract(value, '$[1]')
    FROM json_each(?)"""
NEXT_BATCH = """SELECT json_group_array(json_array(seq, kind, attempts, json(body))) FROM (
    SELECT seq, kind, attempts, body FROM log WHERE not_before <= ? ORDER BY seq LIMIT ?)"""
REMOVE = "DELETE FROM log WHERE seq IN (SELECT value FROM json_each(?))"
REMOVE_OLDEST = "DELETE FROM log WHERE seq IN (SELECT seq FROM log ORDER BY seq LIMIT ?)"
# https://sqlite.org/wal.html: a write-ahead log works within one host only.
NETWORK_FILESYSTEMS = {
    "9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs",
    "lustre", "nfs", "nfs4", "smb3", "smbfs",
}  # fmt: skip
REMOVE_STEP = 500  # rows that one transaction removes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A stored document; `attempts` counts how often the archive refused it."""

    seq: int
    type: RecordType
    document: Document
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class OutboxStats:
    """Number of rows, of refused rows that wait for a retry, bytes, and the oldest row's `ts`."""

    rows: int = 0
    postponed: int = 0
    bytes: int = 0
    oldest: int | None = None


class Outbox:
    """Documents in a SQLite file.

    Args:
        path: the file; its folder is created if it is missing.
        max_bytes: of the rows and their indexes; the write-ahead log needs a few MB more.
        ring: when the outbox is full, remove the oldest rows instead of refusing new ones.
    """

    def __init__(self, path: Path, *, max_bytes: int, ring: bool) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._ring = ring
        self._writer: SQLiteWriter[tuple[RecordType, Document]] = SQLiteWriter(path, self._insert)

    async def check(self) -> None:
        """Create the file if it is missing, and check that it can be used.

        Raises:
            OutboxError: it cannot be written, is not an outbox, or has a newer schema.
        """
        await asyncio.to_thread(_prepare, self.path)

    async def start(self) -> None:
        """Check the file and start the writer. Raises OutboxError."""
        await self.check()
        self._writer.start()

    async def close(self) -> None:
        """Commit what waits and close the file."""
        await self._writer.close()

    async def append(self, record_type: RecordType, documents: Sequence[Document]) -> None:
        """Store documents; return when they are on the disk. A stored (id, type) stays unchanged.

        Raises:
            OutboxFullError: there is no room.
            OutboxError: the disk failed, or a document cannot be written as JSON.
        """
        await self._writer.store([(record_type, document) for document in documents])

    async def probe(self) -> None:
        """Raise OutboxError if a document could not be stored now."""

        def work(db: sqlite3.Connection) -> None:
            self._insert(db, [(RecordType.PREDICTION, {"_id": "", "ts": 0})])
            db.execute("DELETE FROM log WHERE id = ''")

        await self._writer.execute(work)

    async def append_feedback(self, document: Document, *, archived: bool) -> bool:
        """Store feedback, unless its prediction is erased or unknown; return whether it is stored.

        Args:
            document: the feedback.
            archived: whether the archive has the prediction, so that it need not be here.

        Raises:
            OutboxError: as `append`.
        """

        def work(db: sqlite3.Connection) -> bool:
            types = set(_documents(db, document["prediction_id"]))
            if RecordType.ERASURE in types or not (archived or RecordType.PREDICTION in types):
                return False
            self._insert(db, [(RecordType.FEEDBACK, document)])
            return True

        return await self._writer.execute(work)

    async def erase(self, prediction_id: str, ts: int, *, write_tombstone: bool) -> bool:
        """Remove a prediction, its feedback and its reviews; return whether there was any.

        Args:
            prediction_id: whose rows are removed.
            ts: the current time in milliseconds.
            write_tombstone: add an `ERASURE` row, so that the relay erases it in the archive too.
                It names the feedback that was removed here.

        Raises:
            OutboxError: the disk failed.
        """

        def work(db: sqlite3.Connection) -> bool:
            sql = "DELETE FROM log WHERE (id = ? AND kind = ?) OR about = ? RETURNING id, kind"
            keys = (prediction_id, RecordType.PREDICTION, prediction_id)
            removed = db.execute(sql, keys).fetchall()
            db.execute("DELETE FROM lease WHERE prediction_id = ?", (prediction_id,))
            sql = "DELETE FROM review WHERE prediction_id = ?"
            reviews = db.execute(sql, (prediction_id,)).rowcount
            if write_tombstone:  # without `_insert`: a full outbox must not refuse an erasure
                feedback = [id_ for id_, kind in removed if kind == RecordType.FEEDBACK]
                tombstone = {"_id": prediction_id, "ts": ts, "feedback": feedback}
                db.execute(INSERT, (_json([(RecordType.ERASURE, tombstone)]),))
            return bool(removed) or reviews > 0

        return await self._writer.execute(work)

    async def execute(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` in a transaction that all processes wait for; raises OutboxError."""
        return await self._writer.execute(work)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` with a connection that delays no writer; raises OutboxError."""
        return await self._writer.read(work)

    async def remove(self, seqs: Iterable[int]) -> None:
        """Remove rows. Raises OutboxError."""
        seqs_json = _json(list(seqs))
        await self._writer.execute(lambda db: db.execute(REMOVE, (seqs_json,)).rowcount)

    async def postpone(self, until: dict[int, int]) -> None:
        """Count a refusal of each `seq`, and keep it out of `next_batch` until a time in ms.

        Raises OutboxError.
        """
        sql = "UPDATE log SET attempts = attempts + 1, not_before = ? WHERE seq = ?"
        rows = [(not_before, seq) for seq, not_before in until.items()]
        await self._writer.execute(lambda db: db.executemany(sql, rows).rowcount)

    async def prune(self, before: int) -> None:
        """Remove rows older than a time in milliseconds. Raises OutboxError."""
        sql = f"{REMOVE_OLDEST} AND ts < ?"
        while await self._writer.execute(
            lambda db: db.execute(sql, (REMOVE_STEP, before)).rowcount
        ):
            pass

    async def next_batch(self, limit: int) -> list[OutboxRow]:
        """Return up to `limit` rows that are not postponed, oldest first. Raises OutboxError."""

        def work(db: sqlite3.Connection) -> list[OutboxRow]:
            (rows,) = db.execute(NEXT_BATCH, (time.time_ns() // 10**6, limit)).fetchone()
            return [
                OutboxRow(seq, RecordType(kind), document, attempts)
                for seq, kind, attempts, document in orjson.loads(rows)
            ]

        return await self._writer.read(work)

    async def find(self, id_: str) -> dict[RecordType, Document]:
        """Return the documents with this id, by type. Raises OutboxError."""
        return await self._writer.read(lambda db: _documents(db, id_))

    async def stats(self) -> OutboxStats:
        """Return how full the outbox is. Raises OutboxError."""

        def work(db: sqlite3.Connection) -> OutboxStats:
            (rows,) = db.execute("SELECT count(*) FROM log").fetchone()
            (postponed,) = db.execute("SELECT count(*) FROM log WHERE attempts > 0").fetchone()
            oldest = db.execute("SELECT ts FROM log ORDER BY seq LIMIT 1").fetchone()
            return OutboxStats(rows, postponed, _used_bytes(db), oldest[0] if oldest else None)

        return await self._writer.read(work)

    def _insert(self, db: sqlite3.Connection, rows: Sequence[tuple[RecordType, Document]]) -> None:
        if _used_bytes(db) >= self.max_bytes:
            if not self._ring:
                raise OutboxFullError(f"{self.path}: full, it holds {self.max_bytes} bytes")
            db.execute(REMOVE_OLDEST, (max(REMOVE_STEP, 2 * len(rows)),))
        db.execute(INSERT, (_json(rows),))


def _prepare(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(connect(path)) as db:
            _use_write_ahead_log(db)
            db.execute("BEGIN IMMEDIATE")  # one process creates the tables; others wait here
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise OutboxError(
                    f"{path}: written by a newer version "
                    f"(schema {version}; {SCHEMA_VERSION} is the newest known)"
                )
            for statement in (each for step in SCHEMA_STEPS[version:] for each in step):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")  # fails if it is read-only
            db.execute("COMMIT")
    except (OSError, sqlite3.Error) as error:
        folder, user = path.parent.absolute(), os.geteuid()
        raise OutboxError(
            f"{path}: cannot be used as the outbox: {error}; mount a volume at {folder} that uid "
            f"{user} can write, or set TAGGER_OUTBOX to a file in such a folder"
        ) from None


def _use_write_ahead_log(db: sqlite3.Connection) -> None:
    """Change the journal mode. SQLite does not wait for a lock here, as it does in a transaction,
    and several processes may make the file at the same time.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def network_filesystem(path: Path) -> str | None:
    """Return the type of the network file system that a path is on, or None if it is on none."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return None
    place, longest, kind = path.resolve(), -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        # Blanks in a path are written as octal numbers.
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), before.split()[4])
        if place.is_relative_to(point) and len(point) >= longest:
            longest, kind = len(point), after.split()[0]
    return kind if kind in NETWORK_FILESYSTEMS else None


def _documents(db: sqlite3.Connection, id_: str) -> dict[RecordType, Document]:
    rows = db.execute("SELECT kind, body FROM log WHERE id = ?", (id_,))
    return {RecordType(kind): orjson.loads(body) for kind, body in rows}


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _used_bytes(db: sqlite3.Connection) -> int:
    names = ("page_count", "freelist_count", "page_size")
    pages, free, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return int((pages - free) * size)
