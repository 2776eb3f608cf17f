"""The prediction log in tests: records, a log over a real outbox, and an archive in memory."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.ids import new_id
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.outbox import Outbox, OutboxRow
from serving.prediction_log.records import Document, PredictionRecord, RecordType, timestamp

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
PLENTY = 1 << 30  # bytes


def prediction(**changes: Any) -> PredictionRecord:
    """A record with an id of its own."""
    fields: dict[str, Any] = {
        "id": new_id(),
        "request_id": "request",
        "ts": NOW,
        "text": "wörds",
        "scores": {"hate": 0.1, "offensive": 0.2, "neither": 0.7},
        "attributes": {"TOXICITY": 0.3, "THREAT": 0.01},
        "label": "neither",
        "toxicity": "none",
        "action": "allow",
        "language": "en",
        "model_version": "model",
        "policy_version": "policy",
        "latency_ms": 1.5,
        "client": "bob",
        "api": "native",
    }
    return PredictionRecord(**fields | changes)


def as_read(record: PredictionRecord) -> Document:
    """The document that `PredictionLog.get` returns for a record."""
    return record.document("full") | {"ts": record.ts}


def as_written_by_0_1(record: PredictionRecord) -> Document:
    """The document that version 0.1 stored: its field `api` was called `door`."""
    document = record.document("full")
    document["door"] = document.pop("api")
    return document


class MemoryArchive:
    """An archive in memory that fails as a test tells it to."""

    def __init__(self) -> None:
        self.predictions: dict[str, Document] = {}
        self.feedback: dict[str, Document] = {}
        self.writes: list[int] = []  # the number of rows of each
        self.error: Exception | None = None
        self.refused_ids: set[str] = set()
        self.resume: asyncio.Event | None = None  # a write waits for it before it stores anything
        self.closed = False

    async def prepare(self) -> None:
        if self.error:
            raise self.error

    async def ping(self) -> None:
        await self.prepare()

    async def write(self, rows: Sequence[OutboxRow]) -> dict[int, str]:
        self.writes.append(len(rows))
        if self.resume:
            await self.resume.wait()
        if self.error:
            raise self.error
        refused = {}
        for row in rows:
            id_ = row.document["_id"]
            if id_ in self.refused_ids:
                refused[row.seq] = "refused"
            elif row.type is RecordType.PREDICTION:
                self.predictions.setdefault(id_, dict(row.document))
            elif row.type is RecordType.FEEDBACK:
                self.feedback.setdefault(id_, dict(row.document))
            else:
                self.predictions[id_] = {"erased": True}
        return refused

    async def find(self, prediction_id: str) -> Document | None:
        if self.error:
            raise self.error
        document = self.predictions.get(prediction_id)
        if document is None or "erased" in document:
            return None
        return document | {"ts": timestamp(document["ts"])}

    async def has_reviews(self, prediction_id: str) -> bool:
        if self.error:
            raise self.error
        return False

    async def close(self) -> None:
        self.closed = True


def with_log(
    path: Path,
    test: Callable[[PredictionLog], Awaitable[None]],
    archive: MemoryArchive | None = None,
    *,
    max_bytes: int = PLENTY,
    **options: Any,
) -> None:
    """Run a test with a log that is started before it and closed after it."""

    async def run() -> None:
        outbox = Outbox(path, max_bytes=max_bytes, ring=archive is None)
        log = PredictionLog(outbox, archive, **options)
        await log.start()
        try:
            await test(log)
        finally:
            await log.close()

    asyncio.run(run())


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def stored_ids(path: Path) -> list[str]:
    """The ids in an outbox, oldest first, read over a connection of its own."""
    db = sqlite3.connect(path)
    ids = [row[0] for row in db.execute("SELECT id FROM log ORDER BY seq")]
    db.close()
    return ids
