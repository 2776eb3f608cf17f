"""The prediction log: stores predictions and feedback for audit, appeal, drift and retraining.

    classify  ->  append  ->  outbox (on the disk before the reply is sent)  ->  relay  ->  archive

Without an archive the outbox is the only store, with limits on age and size. This module decides
what may be stored and what is found; it knows no database.

    LogError             the log cannot do what was asked; the message gives the reason
    └── LogFullError     the outbox is full: nothing is answered that could not be stored
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from serving.prediction_log.archive import Archive, ArchiveError, ArchiveRefusedError
from serving.prediction_log.outbox import Outbox, OutboxStats, network_filesystem
from serving.prediction_log.records import (
    Document,
    FeedbackRecord,
    PredictionRecord,
    RecordType,
    TextMode,
    timestamp,
    with_current_fields,
)
from serving.prediction_log.relay import Relay, RelayStats
from serving.prediction_log.sqlite_writer import OutboxError, OutboxFullError

log = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0  # how long a stop may take to send what waits in the outbox
WATCH_SECONDS = 2.0
PRUNE_SECONDS = 60.0


class LogError(Exception):
    """The log cannot do what was asked; the message gives the reason."""


class LogFullError(LogError):
    """The outbox is full: nothing is answered that could not be stored."""


@dataclass(frozen=True, slots=True)
class LogStats:
    """The state of the log, for metrics and readiness.

    outbox: how full the outbox is; a few seconds old.
    age: of the oldest row in the outbox, in seconds.
    writable: whether predictions can be stored.
    archive: what the relay has done; None without an archive.
    limit: of the outbox, in bytes.
    """

    outbox: OutboxStats
    age: float
    writable: bool
    archive: RelayStats | None
    limit: int = 0


class PredictionLog:
    """Stores predictions and feedback.

    Args:
        outbox: stores them at once. A ring if there is no archive.
        archive: stores them permanently.
        text: what is stored of a text: the text, its SHA-256, or nothing.
        max_age: how long the outbox keeps a document if there is no archive.
    """

    def __init__(
        self,
        outbox: Outbox,
        archive: Archive | None = None,
        *,
        text: TextMode = "full",
        max_age: timedelta | None = None,
    ) -> None:
        self.outbox = outbox
        self.archive = archive
        self._text = text
        self._max_age = None if archive else max_age
        self._relay = Relay(outbox, archive) if archive else None
        self._outbox_stats = OutboxStats()
        self._writable = True
        self._watcher: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Try the outbox and the archive before the service starts; do not `start` this log after.

        An archive that does not answer is no reason not to start: it is only logged.

        Raises:
            OutboxError: the outbox cannot be used.
            ArchiveRefusedError: the archive denies access; waiting would not help.
        """
        await self.outbox.check()
        if kind := network_filesystem(self.outbox.path):
            log.warning(
                "TAGGER_OUTBOX is on a network file system (%s): SQLite's locks and its "
                "write-ahead log may fail there; choose a local disk",
                kind,
            )
        if self.archive:
            try:
                await self.archive.prepare()
            except ArchiveRefusedError:
                raise
            except ArchiveError as error:
                log.warning("starting without the archive: %s", error)
            finally:
                await self.archive.close()

    async def start(self) -> None:
        """Open the outbox and start the relay. Raises OutboxError."""
        await self.outbox.start()
        if self._relay:
            self._relay.start()
        self._watcher = asyncio.create_task(self._watch(), name="log-watcher")

    async def close(self) -> None:
        """Send what waits, as far as time allows, and close the archive and the outbox."""
        if self._watcher:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        if self._relay:
            await self._relay.close(CLOSE_SECONDS)
        if self.archive:
            await self.archive.close()
        await self.outbox.close()

    async def append(self, records: Sequence[PredictionRecord]) -> None:
        """Store predictions; return when they are on the disk.

        Raises:
            LogError: they are not stored, so the caller must not get them.
        """
        documents = [record.document(self._text) for record in records]
        try:
            async with self._outbox_errors():
                await self.outbox.append(RecordType.PREDICTION, documents)
        except LogError as error:
            if self._writable:  # once per outage, not once per request
                log.warning("predictions cannot be stored, so requests get 503: %s", error)
            self._writable = False
            raise
        self._writable = True

    async def feedback(
        self,
        prediction_id: str,
        label: str,
        comment: str | None,
        client: str | None,
        attributes: dict[str, float] | None = None,
    ) -> str | None:
        """Store feedback; return its id, or None if the prediction is unknown or erased.

        The same feedback twice is stored once. `attributes` are the scores that some of the text's
        attributes should have.

        Raises:
            LogError: it is not stored, or the archive cannot be asked for the prediction.
        """
        record = FeedbackRecord(prediction_id, label, comment, client, attributes)
        document = record.document(time.time_ns() // 10**6)
        async with self._outbox_errors():
            if await self.outbox.append_feedback(document, archived=False):
                return record.id
            if await self._find_in_archive(prediction_id) is None:
                return None
            stored = await self.outbox.append_feedback(document, archived=True)
            return record.id if stored else None

    async def get(self, prediction_id: str) -> Document | None:
        """Return a prediction, `ts` as an aware datetime; None if it is unknown or erased.

        Raises:
            LogError: the archive cannot be asked.
        """
        async with self._outbox_errors():
            documents = await self.outbox.find(prediction_id)
            if RecordType.ERASURE in documents:
                return None
            if RecordType.PREDICTION in documents:
                document = documents[RecordType.PREDICTION]
                return with_current_fields(document | {"ts": timestamp(document["ts"])})
            archived = await self._find_in_archive(prediction_id)
            return None if archived is None else with_current_fields(archived)

    async def delete(self, prediction_id: str) -> bool:
        """Erase a prediction, its feedback and its reviews; return False if it is unknown.

        The outbox and `get` forget it at once, the archive as soon as it answers.

        Raises:
            LogError: it is not erased, or the archive cannot be asked.
        """
        now = time.time_ns() // 10**6
        async with self._outbox_errors():
            if self.archive is None:
                return await self.outbox.erase(prediction_id, now, write_tombstone=False)
            if await self.get(prediction_id) is None and not await self._has_reviews(prediction_id):
                return False
            await self.outbox.erase(prediction_id, now, write_tombstone=True)
            return True

    def stats(self) -> LogStats:
        """Return the state of the log; it costs no query."""
        oldest = self._outbox_stats.oldest
        age = max(0.0, time.time() - oldest / 1000) if oldest else 0.0
        relay = self._relay.stats if self._relay else None
        return LogStats(self._outbox_stats, age, self._writable, relay, self.outbox.max_bytes)

    async def _find_in_archive(self, prediction_id: str) -> Document | None:
        try:
            return await self.archive.find(prediction_id) if self.archive else None
        except ArchiveError as error:
            raise LogError(str(error)) from None

    async def _has_reviews(self, prediction_id: str) -> bool:
        """Return whether the archive has reviews of a prediction that it may have forgotten."""
        try:
            return await self.archive.has_reviews(prediction_id) if self.archive else False
        except ArchiveError as error:
            raise LogError(str(error)) from None

    async def _watch(self) -> None:
        """Update the stats, remove what is too old, and notice when there is room again."""
        pruned = -math.inf
        while True:
            started = time.monotonic()
            with contextlib.suppress(OutboxError):
                if self._max_age and started - pruned > PRUNE_SECONDS:
                    before = time.time() - self._max_age.total_seconds()
                    await self.outbox.prune(int(before * 1000))
                    pruned = started
                self._outbox_stats = await self.outbox.stats()
                if not self._writable:  # /readyz fails, so no request may come that would find out
                    await self.outbox.probe()
                    self._writable = True
                    log.warning("predictions can be stored again")
            # Counting a large outbox takes a while; this keeps it below 2 % of a core.
            await asyncio.sleep(max(WATCH_SECONDS, 50 * (time.monotonic() - started)))

    @contextlib.asynccontextmanager
    async def _outbox_errors(self) -> AsyncIterator[None]:
        """Turn the outbox's errors into the log's."""
        try:
            yield
        except OutboxFullError as error:
            raise LogFullError(str(error)) from None
        except OutboxError as error:
            raise LogError(str(error)) from None
