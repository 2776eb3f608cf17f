"""The prediction log: what was answered, kept for audit, appeal, drift and learning.

    answer → append → outbox (on the disk, then the reply leaves) → drain → archive

Without an archive the outbox is the log. This module knows what a record holds and which of it
may be kept; it knows no database.

    LogError             the log cannot do it now; the text says why in one sentence
    └── LogFullError     there is no room: nothing may be answered that would not be kept
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from serving.prediction_log.archive import Archive, ArchiveError, ArchiveRefusedError
from serving.prediction_log.outbox import Outbox, OutboxStats, Record, RecordType
from serving.prediction_log.records import FeedbackRecord, PredictionRecord, TextMode, timestamp
from serving.prediction_log.relay import Relay, RelayStats
from serving.prediction_log.sqlite_writer import OutboxError, OutboxFullError

log = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0  # for carrying over what still waits when the service stops
WATCH_SECONDS = 2.0
PRUNE_SECONDS = 60.0


class LogError(Exception):
    """The log cannot do it now; the text says why in one sentence."""


class LogFullError(LogError):
    """There is no room: nothing may be answered that would not be kept."""


@dataclass(frozen=True, slots=True)
class LogStats:
    """The log at a glance, for metrics and readiness.

    `archive` is None where the outbox is the log; `age` is that of the oldest row, in seconds.
    """

    level: OutboxStats
    age: float
    writable: bool
    archive: RelayStats | None


class PredictionLog:
    """Records that are kept.

    Args:
        outbox: where they are safe at once. A ring if there is no archive.
        archive: where they are kept for good.
        text: what is kept of a text: itself, its SHA-256, or nothing.
        max_age: how long the outbox keeps a record where it is the log.
    """

    def __init__(
        self,
        outbox: Outbox,
        archive: Archive | None = None,
        *,
        text: TextMode = "full",
        max_age: timedelta | None = None,
    ) -> None:
        self._outbox = outbox
        self._archive = archive
        self._text = text
        self._max_age = None if archive else max_age
        self._relay = Relay(outbox, archive) if archive else None
        self._level = OutboxStats()
        self._writable = True
        self._watcher: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Try what it stands on, before a service starts; an archive that is only away is not asked
        for more. This log cannot be started then: it has let go of its connections.

        Raises:
            OutboxError: the outbox cannot be used.
            ArchiveRefusedError: the archive refuses us; waiting would not help.
        """
        await self._outbox.check()
        if self._archive:
            try:
                await self._archive.prepare()
            except ArchiveRefusedError:
                raise
            except ArchiveError as error:
                log.warning("it starts without its archive: %s", error)
            finally:
                await self._archive.close()

    async def start(self) -> None:
        """Open the outbox and start the drain. Raises OutboxError."""
        await self._outbox.start()
        if self._relay:
            self._relay.start()
        self._watcher = asyncio.create_task(self._watch(), name="log-watcher")

    async def close(self) -> None:
        """Carry over what can be, commit the rest, let go of everything."""
        if self._watcher:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        if self._relay:
            await self._relay.close(CLOSE_SECONDS)
        if self._archive:
            await self._archive.close()
        await self._outbox.close()

    async def append(self, records: Sequence[PredictionRecord]) -> None:
        """Keep predictions (`_id` str, `ts` aware datetime, `text` str); return when they are safe.

        Raises:
            LogError: they are not: the caller must not be told that they were answered.
        """
        documents = [record.document(self._text) for record in records]
        try:
            async with self._outbox_errors():
                await self._outbox.append(RecordType.PREDICTION, documents)
        except LogError as error:
            if self._writable:  # once an outage, not once a request
                log.warning("predictions cannot be kept, so none are given: %s", error)
            self._writable = False
            raise
        self._writable = True

    async def feedback(
        self, prediction_id: str, label: str, comment: str | None, client: str | None
    ) -> str | None:
        """Keep a judgement; return its id, or None if the prediction is unknown or erased.

        The same judgement twice is one record.

        Raises:
            LogError: it is not kept, or the archive cannot be asked for the prediction.
        """
        record = FeedbackRecord(prediction_id, label, comment, client)
        document = record.document(time.time_ns() // 10**6)
        async with self._outbox_errors():
            if await self._outbox.append_about(document, known=False):
                return record.id
            if await self._archived(prediction_id) is None:
                return None
            stored = await self._outbox.append_about(document, known=True)
            return record.id if stored else None

    async def get(self, key: str) -> Record | None:
        """Return a prediction, `ts` as an aware datetime; None if it is unknown or erased.

        Raises:
            LogError: the archive cannot be asked.
        """
        async with self._outbox_errors():
            here = await self._outbox.find(key)
            if RecordType.ERASURE in here:
                return None
            if RecordType.PREDICTION not in here:
                return await self._archived(key)
            record = here[RecordType.PREDICTION]
            return record | {"ts": timestamp(record["ts"])}

    async def delete(self, key: str) -> bool:
        """Erase a prediction and its feedback; False if it is unknown.

        It is gone from here at once and for `get`; from the archive as soon as that answers.

        Raises:
            LogError: it is not erased, or the archive cannot be asked.
        """
        async with self._outbox_errors():
            if self._archive is None:
                return await self._outbox.erase(key, time.time_ns() // 10**6, write_tombstone=False)
            if await self.get(key) is None:
                return False
            await self._outbox.erase(key, time.time_ns() // 10**6, write_tombstone=True)
            return True

    def stats(self) -> LogStats:
        """Return how the log does; what costs a query is a few seconds old."""
        oldest = self._level.oldest
        age = max(0.0, time.time() - oldest / 1000) if oldest else 0.0
        flow = self._relay.stats if self._relay else None
        return LogStats(self._level, age, self._writable, flow)

    async def _archived(self, key: str) -> Record | None:
        try:
            return await self._archive.find(key) if self._archive else None
        except ArchiveError as error:
            raise LogError(str(error)) from None

    async def _watch(self) -> None:
        """Keep the figures fresh and, where the outbox is the log, its rows young."""
        pruned = -math.inf
        while True:
            began = time.monotonic()
            with contextlib.suppress(OutboxError):
                if self._max_age and began - pruned > PRUNE_SECONDS:
                    before = time.time() - self._max_age.total_seconds()
                    await self._outbox.prune(int(before * 1000))
                    pruned = began
                self._level = await self._outbox.level()
                if not self._writable:  # nobody may be asking: see whether there is room again
                    await self._outbox.probe()
                    self._writable = True
                    log.warning("predictions can be kept again")
            # Counting a large outbox takes its time; it shall not take a core.
            await asyncio.sleep(max(WATCH_SECONDS, 50 * (time.monotonic() - began)))

    @contextlib.asynccontextmanager
    async def _outbox_errors(self) -> AsyncIterator[Any]:
        try:
            yield
        except OutboxFullError as error:
            raise LogFullError(str(error)) from None
        except OutboxError as error:
            raise LogError(str(error)) from None
