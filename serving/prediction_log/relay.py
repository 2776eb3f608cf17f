"""The drain: carries rows from the outbox to an archive, and forgets what the archive confirmed.

At least once, and by `_id`, hence never twice. Of the processes that share an outbox one drains at
a time: the one that holds a lock on a file, which the system takes back from the dead. This module
knows no database.

    ArchiveError            the archive did not confirm; trying again may help
    └── ArchiveRefusedError its address or our rights there are wrong; trying again will not help
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
from serving.prediction_log.outbox import Outbox, Row
from serving.prediction_log.sqlite_writer import OutboxError

log = logging.getLogger(__name__)

BATCH = 500
PAUSE = 0.5  # seconds between two looks into an outbox that is nearly empty
BACKOFF = (0.5, 30.0)  # seconds: first and longest wait after a failure
POSTPONED = (1.0, 600.0)  # seconds: first and longest wait for a row that was refused


@dataclass(slots=True)
class RelayStats:
    """What the drain of this process has done."""

    reachable: bool = True
    flushes: int = 0
    sent: int = 0
    failures: int = 0
    refusals: int = 0
    lag: float = 0.0  # seconds from the oldest row of the last batch to its confirmation


class Relay:
    """A task that empties an outbox into an archive."""

    def __init__(self, outbox: Outbox, archive: Archive, *, pause: float = PAUSE) -> None:
        self.stats = RelayStats()
        self._outbox = outbox
        self._archive = archive
        self._pause = pause
        self._lock = _Lock(outbox.path.with_name(outbox.path.name + ".drain"))
        self._prepared = False
        self._failed, self._why = 0, ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._run(), name="drain")

    async def close(self, grace: float) -> None:
        """Stop; before that, spend up to `grace` seconds on what still waits."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if not self._failed:
            with contextlib.suppress(TimeoutError, ArchiveError, OutboxError):
                async with asyncio.timeout(grace):
                    while self._lock.held() and await self.flush():
                        pass
        self._lock.release()

    async def flush(self) -> int:
        """Carry one batch over; return how many rows it held that were not refused."""
        await self._prepare()
        rows = await self._outbox.batch(BATCH)
        if not rows:
            return 0
        refused = await self._archive.write(rows)
        self._recover()
        now = time.time()
        if refused:
            await self._postpone([row for row in rows if row.seq in refused], refused, now)
        await self._outbox.forget(row.seq for row in rows if row.seq not in refused)
        self.stats.flushes += 1
        self.stats.sent += len(rows) - len(refused)
        self.stats.lag = max(0.0, now - min(row.record["ts"] for row in rows) / 1000)
        return len(rows) - len(refused)

    async def _run(self) -> None:
        while True:
            wait = self._pause
            try:
                if self._lock.held():
                    wait = 0 if await self.flush() >= BATCH else self._pause
            except (ArchiveError, OutboxError) as error:
                self._fail(str(error))
                wait = _backoff(self._failed, BACKOFF)
            except Exception as error:  # whatever it is, rows must not pile up behind a dead task
                # Its own words may hold a caller's text.
                self._fail(f"unexpected: {type(error).__name__}")
                wait = _backoff(self._failed, BACKOFF)
            await asyncio.sleep(wait)

    async def _prepare(self) -> None:
        if not self._prepared:
            await self._archive.prepare()
            self._prepared = True
            self._recover()

    async def _postpone(self, rows: Sequence[Row], why: dict[int, str], now: float) -> None:
        until = {r.seq: int((now + _backoff(r.attempts + 1, POSTPONED)) * 1000) for r in rows}
        await self._outbox.postpone(until)
        self.stats.refusals += len(rows)
        first = rows[0]
        log.warning(
            "the archive refused %d rows; the first, %s: %s",
            len(rows),
            first.record["_id"],
            why[first.seq],
        )

    def _fail(self, why: str) -> None:
        self._failed += 1
        self.stats.failures += 1
        self.stats.reachable = False
        if why != self._why:  # once an outage and reason, not once a retry
            log.warning("the prediction log waits in the outbox: %s", why)
        self._why = why

    def _recover(self) -> None:
        if self._failed:
            log.warning("the archive answers again after %d failures", self._failed)
        self._failed, self._why = 0, ""
        self.stats.reachable = True


def _backoff(failures: int, bounds: tuple[float, float]) -> float:
    """Return seconds to wait: doubling, bounded, and half of it by chance."""
    first, longest = bounds
    wait = min(longest, first * 2.0 ** min(failures - 1, 30))
    return wait * random.uniform(0.5, 1)  # noqa: S311


class _Lock:
    """A lock between processes that ends with its holder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def held(self) -> bool:
        """Return whether the lock is ours, taking it if it is free."""
        if self._file:
            return True
        file = self._path.open("ab")
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
