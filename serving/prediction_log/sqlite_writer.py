"""One thread that commits to a SQLite file whatever waits for it, at once.

The sync to the disk is the only slow step of a commit, and everyone who waits at the moment shares
it. Several processes may open the same file; SQLite orders their commits. This module knows no
table.

    OutboxError            the file cannot do what was asked; the text says why in one sentence
    └── OutboxFullError    there is no room: nothing was stored
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

BUSY_SECONDS = 5.0

Row = TypeVar("Row")
T = TypeVar("T")


class OutboxError(Exception):
    """The file cannot do what was asked; the text says why in one sentence."""


class OutboxFullError(OutboxError):
    """There is no room: nothing was stored."""


@dataclass(slots=True)
class _Job(Generic[Row]):
    """Rows to store, or work to do, inside one transaction."""

    done: "asyncio.Future[Any]"
    rows: Sequence[Row] = ()
    work: Callable[[sqlite3.Connection], Any] | None = None


class SQLiteWriter(Generic[Row]):
    """A file and its writing thread.

    Args:
        path: the file, which exists and has its tables.
        insert: stores rows, of many callers in one call; may raise OutboxError or TypeError.
    """

    def __init__(
        self, path: Path, insert: Callable[[sqlite3.Connection, Sequence[Row]], None]
    ) -> None:
        self._path = path
        self._insert = insert
        self._jobs: list[_Job[Row]] = []
        self._wake = threading.Condition()
        self._open = False
        self._told = False  # the thread that something waits
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Start the thread; answers go to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._thread.start()

    async def close(self) -> None:
        """Commit what waits and end the thread."""
        with self._wake:
            self._open = False
            self._wake.notify()
        if self._thread.ident:
            await asyncio.to_thread(self._thread.join)

    async def store(self, rows: Sequence[Row]) -> None:
        """Store rows; returns when they are on the disk. Raises OutboxError."""
        await self._submit(_Job(self._loop.create_future(), rows=rows))

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `work` returns, once it is on the disk. Raises OutboxError."""
        answer: T = await self._submit(_Job(self._loop.create_future(), work=work))
        return answer

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `work` returns, beside the writer: neither waits. Raises OutboxError."""

        def run() -> T:
            try:
                with contextlib.closing(connect(self._path)) as db:
                    return work(db)
            except sqlite3.Error as error:
                raise self._sentence(error) from None

        return await asyncio.to_thread(run)

    async def _submit(self, job: _Job[Row]) -> Any:
        with self._wake:
            if not self._open:
                raise OutboxError(f"{self._path}: it is closed")
            self._jobs.append(job)
        if not self._told:  # by then, all who were judged in one batch are here to share a commit
            self._told = True
            self._loop.call_soon(self._tell)
        # Who leaves takes his future along, not his rows: they may be half way to the disk.
        return await job.done

    def _tell(self) -> None:
        self._told = False
        with self._wake:
            self._wake.notify()

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            db: sqlite3.Connection | None = None
            while jobs := self._next():
                try:
                    db = db or stack.enter_context(contextlib.closing(connect(self._path)))
                    outcomes = self._commit(db, jobs)
                except sqlite3.Error as error:
                    outcomes = [self._sentence(error)] * len(jobs)
                self._loop.call_soon_threadsafe(_settle, jobs, outcomes)

    def _next(self) -> list[_Job[Row]]:
        with self._wake:
            self._wake.wait_for(lambda: self._jobs or not self._open)
            jobs, self._jobs = self._jobs, []
        return jobs

    def _commit(self, db: sqlite3.Connection, jobs: Sequence[_Job[Row]]) -> list[Any]:
        """Do jobs in one transaction; if that fails, each in its own, so that one job's fault,
        or its being one too many for the room, is not its neighbours'.
        """
        try:
            return self._transact(db, jobs)
        except (sqlite3.Error, OutboxError, TypeError) as error:
            if len(jobs) == 1:
                return [self._sentence(error)]
            return [self._commit(db, [job])[0] for job in jobs]

    def _transact(self, db: sqlite3.Connection, jobs: Sequence[_Job[Row]]) -> list[Any]:
        db.execute("BEGIN IMMEDIATE")
        try:
            rows = [row for job in jobs for row in job.rows]
            if rows:
                self._insert(db, rows)
            outcomes = [job.work(db) if job.work else None for job in jobs]
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # some failures have rolled back already
                db.execute("ROLLBACK")
            raise
        return outcomes

    def _sentence(self, error: Exception) -> OutboxError:
        if isinstance(error, OutboxError):
            return error
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return OutboxFullError(f"{self._path}: no space is left on its disk")
        return OutboxError(f"{self._path}: {error}")


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection that commits when told to, and then durably."""
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    # FULL: a commit is on the disk, not only with the kernel; it outlives a cut of power.
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")  # what is removed is overwritten
    return db


def _settle(jobs: Iterable[_Job[Any]], outcomes: Iterable[Any]) -> None:
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job.done.done():
            continue
        if isinstance(outcome, Exception):
            job.done.set_exception(outcome)
        else:
            job.done.set_result(outcome)
