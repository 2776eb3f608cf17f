"""The relay: moves rows from the outbox to an archive, and removes what the archive confirmed.

    outbox.next_batch  ->  archive.write  ->  outbox.remove (or postpone, if it was refused)

Each row is sent at least once; the archive stores it once, by its `_id`. Of the processes that
share an outbox one relays at a time, the one that holds a file lock; the kernel releases the lock
of a dead process. This module knows no database.
"""

import asyncio
import contextlib
import fcntl
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from serving.prediction_log.archive import Archive, ArchiveError
from serving.prediction_log.outbox import Outbox, OutboxRow
from serving.prediction_log.sqlite_writer import OutboxError

log = logging.getLogger(__name__)

BATCH_ROWS = 500
PAUSE_SECONDS = 0.5  # after a batch that was not full
RETRY_SECONDS = (0.5, 30.0)  # first and longest wait after a failure
CHECK_SECONDS = 10.0  # how long the archive may be silent, while nothing is sent, until it is asked
POSTPONE_SECONDS = (1.0, 600.0)  # first and longest wait of a refused row


@dataclass(slots=True)
class RelayStats:
    """What the relay of this process has done.

    reachable: whether the archive answered when it was asked last; not before the first answer.
    state: why not, in a few words.
    lag: seconds from the oldest row of the last batch to the confirmation of that batch.
    turn: when this process last held the lock and began a turn, in seconds since 1970.
    """

    reachable: bool = False
    state: str = "was not reached yet"
    flushes: int = 0
    sent: int = 0
    failures: int = 0
    refusals: int = 0
    lag: float = 0.0
    turn: float = 0.0


class Relay:
    """A task that moves rows from an outbox to an archive."""

    def __init__(self, outbox: Outbox, archive: Archive) -> None:
        self.stats = RelayStats()
        self._outbox = outbox
        self._archive = archive
        self._lock = _Lock(outbox.path.with_name(outbox.path.name + ".relay"))
        self._prepared = False
        self._asked = 0.0
        self._consecutive_failures, self._reason = 0, ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._run(), name="relay")

    async def close(self, grace: float) -> None:
        """Stop the task, then send what waits, for up to `grace` seconds."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if not self._consecutive_failures:
            with contextlib.suppress(TimeoutError, ArchiveError, OutboxError):
                async with asyncio.timeout(grace):
                    while self._lock.acquire() and await self.flush():
                        pass
        self._lock.release()

    async def flush(self) -> int:
        """Send one batch; return how many rows were confirmed.

        Raises:
            ArchiveError: the archive confirmed nothing.
            OutboxError: the outbox cannot be read or written.
        """
        await self._prepare()
        rows = await self._outbox.next_batch(BATCH_ROWS)
        if not rows:
            await self._check()
            return 0
        refused = await self._archive.write(rows)
        self._recover()
        now = time.time()
        if refused:
            await self._postpone([row for row in rows if row.seq in refused], refused, now)
        await self._outbox.remove(row.seq for row in rows if row.seq not in refused)
        self.stats.flushes += 1
        self.stats.sent += len(rows) - len(refused)
        self.stats.lag = max(0.0, now - min(row.document["ts"] for row in rows) / 1000)
        return len(rows) - len(refused)

    async def _run(self) -> None:
        while True:
            wait = PAUSE_SECONDS
            try:
                if self._lock.acquire():
                    self.stats.turn = time.time()
                    wait = 0 if await self.flush() >= BATCH_ROWS else PAUSE_SECONDS
                else:  # another process sends; this one must know the archive's state all the same
                    await self._check()
            except ArchiveError as error:
                self._fail(str(error), error.state)
                wait = _backoff(self._consecutive_failures, RETRY_SECONDS)
            except OutboxError as error:
                self._fail(str(error), "gets nothing: the outbox cannot be used")
                wait = _backoff(self._consecutive_failures, RETRY_SECONDS)
            except Exception as error:  # if the task ended, rows would pile up until a restart
                # Only the type: the message may contain a caller's text.
                self._fail(f"unexpected: {type(error).__name__}", "cannot be used")
                wait = _backoff(self._consecutive_failures, RETRY_SECONDS)
            await asyncio.sleep(wait)

    async def _prepare(self) -> None:
        if not self._prepared:
            await self._archive.prepare()
            self._prepared = True
            self._recover()

    async def _check(self) -> None:
        """Ask the archive whether it answers, unless it has just answered. Raises ArchiveError."""
        if not self.stats.reachable or time.monotonic() - self._asked > CHECK_SECONDS:
            await self._archive.ping()
            self._recover()

    async def _postpone(
        self, rows: Sequence[OutboxRow], reasons: dict[int, str], now: float
    ) -> None:
        until = {
            row.seq: int((now + _backoff(row.attempts + 1, POSTPONE_SECONDS)) * 1000)
            for row in rows
        }
        await self._outbox.postpone(until)
        self.stats.refusals += len(rows)
        first = rows[0]
        log.warning(
            "the archive refused %d rows; the first is %s: %s",
            len(rows),
            first.document["_id"],
            reasons[first.seq],
        )

    def _fail(self, reason: str, state: str) -> None:
        self._consecutive_failures += 1
        self.stats.failures += 1
        self.stats.reachable, self.stats.state = False, state
        if reason != self._reason:  # once per outage and reason, not once per retry
            log.warning("predictions wait in the outbox: %s", reason)
        self._reason = reason

    def _recover(self) -> None:
        if self._consecutive_failures:
            log.warning("the archive answers again after %d failures", self._consecutive_failures)
        self._consecutive_failures, self._reason = 0, ""
        self.stats.reachable, self.stats.state = True, ""
        self._asked = time.monotonic()


def _backoff(failures: int, bounds: tuple[float, float]) -> float:
    """Return seconds to wait: doubled at each failure up to a limit, less a random part."""
    first, longest = bounds
    wait = min(longest, first * 2.0 ** min(failures - 1, 30))
    return wait * random.uniform(0.5, 1)  # noqa: S311


class _Lock:
    """A lock between processes; it ends with the process that holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; return whether this process holds it. Raises OutboxError."""
        if self._file:
            return True
        try:
            file = self._path.open("ab")
        except OSError as error:  # for example another user's file
            raise OutboxError(f"{self._path}: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def release(self) -> None:
        if self._file:
            self._file.close()
            self._file = None
