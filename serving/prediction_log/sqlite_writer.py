"""A thread that commits everything that waits for a SQLite file in one transaction.

    store, execute (event loop)  ->  jobs  ->  one commit (thread)  ->  futures (event loop)

The sync to the disk is the only slow step of a commit, so all jobs that wait share one. Several
processes may open the same file: SQLite runs their commits one after another. This module knows no
table.

    OutboxError            the file cannot do what was asked; the message gives the reason
    └── OutboxFullError    there is no room; nothing was stored
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

BUSY_SECONDS = 5.0  # how long a commit waits for another process's

Row = TypeVar("Row")
T = TypeVar("T")


class OutboxError(Exception):
    """The file cannot do what was asked; the message gives the reason."""


class OutboxFullError(OutboxError):
    """There is no room; nothing was stored."""


@dataclass(slots=True)
class _Job(Generic[Row]):
    """Rows to insert, or a function to call, inside a transaction."""

    done: "asyncio.Future[Any]"
    rows: Sequence[Row] = ()
    work: Callable[[sqlite3.Connection], Any] | None = None


class SQLiteWriter(Generic[Row]):
    """A file and the thread that writes to it.

    Args:
        path: the file; it must exist and have its tables.
        insert: inserts the rows of many jobs in one call; may raise OutboxError or TypeError.
    """

    def __init__(
        self, path: Path, insert: Callable[[sqlite3.Connection, Sequence[Row]], None]
    ) -> None:
        self._path = path
        self._insert = insert
        self._jobs: list[_Job[Row]] = []
        self._wake = threading.Condition()
        self._open = False
        self._wake_scheduled = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Start the thread; results go to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._thread.start()

    async def close(self) -> None:
        """Commit the jobs that wait and end the thread."""
        with self._wake:
            self._open = False
            self._wake.notify()
        if self._thread.ident:
            await asyncio.to_thread(self._thread.join)

    async def store(self, rows: Sequence[Row]) -> None:
        """Insert rows; return when they are on the disk. Raises OutboxError."""
        await self._submit(_Job(self._loop.create_future(), rows=rows))

    async def execute(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` in a transaction; return its result once that is on the disk.

        Raises OutboxError.
        """
        result: T = await self._submit(_Job(self._loop.create_future(), work=work))
        return result

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` with a connection of its own; it neither waits for the writer nor delays it.

        Raises OutboxError.
        """

        def run() -> T:
            try:
                with contextlib.closing(connect(self._path)) as db:
                    return work(db)
            except sqlite3.Error as error:
                raise self._as_outbox_error(error) from None

        return await asyncio.to_thread(run)

    async def _submit(self, job: _Job[Row]) -> Any:
        with self._wake:
            if not self._open:
                raise OutboxError(f"{self._path}: it is closed")
            self._jobs.append(job)
        if not self._wake_scheduled:
            # In the next turn of the loop: all requests of one micro-batch then share a commit.
            self._wake_scheduled = True
            self._loop.call_soon(self._wake_thread)
        # A cancelled caller drops its future, not its rows: they may be on their way to the disk.
        return await job.done

    def _wake_thread(self) -> None:
        self._wake_scheduled = False
        with self._wake:
            self._wake.notify()

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            db: sqlite3.Connection | None = None
            while jobs := self._next_jobs():
                try:
                    db = db or stack.enter_context(contextlib.closing(connect(self._path)))
                    results = self._commit(db, jobs)
                except sqlite3.Error as error:
                    results = [self._as_outbox_error(error)] * len(jobs)
                self._loop.call_soon_threadsafe(_resolve, jobs, results)

    def _next_jobs(self) -> list[_Job[Row]]:
        with self._wake:
            self._wake.wait_for(lambda: self._jobs or not self._open)
            jobs, self._jobs = self._jobs, []
        return jobs

    def _commit(self, db: sqlite3.Connection, jobs: Sequence[_Job[Row]]) -> list[Any]:
        """Run jobs in one transaction; return a result or an OutboxError for each.

        If the transaction fails, each job gets its own, so that a faulty job, or one for which
        there is no room, does not fail the others.
        """
        try:
            return self._run_transaction(db, jobs)
        except (sqlite3.Error, OutboxError, TypeError) as error:
            if len(jobs) == 1:
                return [self._as_outbox_error(error)]
            return [self._commit(db, [job])[0] for job in jobs]

    def _run_transaction(self, db: sqlite3.Connection, jobs: Sequence[_Job[Row]]) -> list[Any]:
        db.execute("BEGIN IMMEDIATE")
        try:
            rows = [row for job in jobs for row in job.rows]
            if rows:
                self._insert(db, rows)
            results = [job.work(db) if job.work else None for job in jobs]
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # after some errors SQLite has rolled back
                db.execute("ROLLBACK")
            raise
        return results

    def _as_outbox_error(self, error: Exception) -> OutboxError:
        if isinstance(error, OutboxError):
            return error
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return OutboxFullError(f"{self._path}: no space is left on its disk")
        return OutboxError(f"{self._path}: {error}")


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection without implicit transactions, whose commits are durable."""
    # Absolute, so that `:memory:` is a file too: each connection would have a database of its own.
    db = sqlite3.connect(
        path.absolute(), timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    # FULL: a commit is synced to the disk, not only to the kernel; it survives a power failure.
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")  # deleted content is overwritten
    return db


def _resolve(jobs: Iterable[_Job[Any]], results: Iterable[Any]) -> None:
    for job, result in zip(jobs, results, strict=True):
        if job.done.done():
            continue
        if isinstance(result, Exception):
            job.done.set_exception(result)
        else:
            job.done.set_result(result)
