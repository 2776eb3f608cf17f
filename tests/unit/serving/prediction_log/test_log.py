"""The log over a real outbox and an archive in memory: what is stored, found and erased."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from serving.prediction_log.archive import ArchiveError, ArchiveRefusedError
from serving.prediction_log.log import LogFullError, PredictionLog
from serving.prediction_log.outbox import Outbox
from serving.prediction_log.records import RecordType
from tests.support.prediction_log import (
    NOW,
    PLENTY,
    MemoryArchive,
    as_read,
    as_written_by_0_1,
    prediction,
    stored_ids,
    until,
    with_log,
)


@pytest.mark.parametrize(
    ("mode", "stored"),
    [
        ("full", {"text": "wörds"}),
        ("hash", {"text_hash": hashlib.sha256("wörds".encode()).hexdigest()}),
        ("none", {}),
    ],
)
def test_only_the_allowed_form_of_a_text_is_on_the_disk(
    path: Path, mode: Any, stored: dict[str, str]
) -> None:
    record = prediction()

    async def test(log: PredictionLog) -> None:
        await log.append([record])
        assert await log.get(record.id) == record.document("none") | {"ts": NOW} | stored
        files = b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert ("wörds".encode() in files) == (mode == "full")

    with_log(path, test, text=mode)


def test_without_an_archive_the_outbox_does_everything(path: Path) -> None:
    async def test(log: PredictionLog) -> None:
        record = prediction()
        await log.append([record])
        assert await log.get(record.id) == as_read(record)
        first = await log.feedback(record.id, "hate", "it is", "bob")
        assert first == await log.feedback(record.id, "hate", "it is", "bob")
        assert first != await log.feedback(record.id, "hate", "it is", "eve")
        assert await log.feedback("unknown", "hate", None, "bob") is None
        assert len(stored_ids(path)) == 3
        assert await log.delete(record.id)
        assert not await log.delete(record.id)
        assert await log.get(record.id) is None
        assert await log.feedback(record.id, "hate", None, "bob") is None
        assert stored_ids(path) == []
        stats = log.stats()
        assert stats.archive is None
        assert stats.writable

    with_log(path, test)


def test_predictions_of_version_0_1_are_read_with_the_field_api(path: Path) -> None:
    archive = MemoryArchive()
    archive.error = ArchiveError("unreachable")  # so that the first is read from the outbox
    record, archived = prediction(api="perspective"), prediction(api="openai")

    async def append_old() -> None:
        outbox = Outbox(path, max_bytes=PLENTY, ring=False)
        await outbox.start()
        await outbox.append(RecordType.PREDICTION, [as_written_by_0_1(record)])
        await outbox.close()

    async def test(log: PredictionLog) -> None:
        assert await log.get(record.id) == as_read(record)
        archive.error = None
        archive.predictions[archived.id] = as_written_by_0_1(archived)
        assert await log.get(archived.id) == as_read(archived)
        await until(lambda: record.id in archive.predictions)
        assert await log.get(record.id) == as_read(record)

    asyncio.run(append_old())
    with_log(path, test, archive)


def test_a_check_distinguishes_denied_access_from_no_answer(path: Path) -> None:
    def check(error: Exception | None) -> None:
        archive = MemoryArchive()
        archive.error = error
        outbox = Outbox(path, max_bytes=PLENTY, ring=False)
        try:
            asyncio.run(PredictionLog(outbox, archive).check())
        finally:
            assert archive.closed

    check(None)
    check(ArchiveError("unreachable"))
    with pytest.raises(ArchiveRefusedError, match="access denied"):
        check(ArchiveRefusedError("access denied"))


async def fill(log: PredictionLog, acknowledged: set[str]) -> None:
    while True:
        record = prediction(text="x" * 1000)
        await log.append([record])
        acknowledged.add(record.id)


def test_a_full_outbox_refuses_and_recovers(path: Path) -> None:
    archive = MemoryArchive()
    archive.error = ArchiveError("unreachable")

    async def test(log: PredictionLog) -> None:
        acknowledged: set[str] = set()
        with pytest.raises(LogFullError):
            await fill(log, acknowledged)
        assert not log.stats().writable
        archive.error = None
        await until(lambda: stored_ids(path) == [])
        assert set(archive.predictions) == acknowledged
        await log.append([prediction()])
        assert log.stats().writable

    with_log(path, test, archive, max_bytes=100_000)


def test_a_full_log_becomes_writable_again_without_a_request(path: Path) -> None:
    archive = MemoryArchive()
    archive.error = ArchiveError("unreachable")

    async def test(log: PredictionLog) -> None:
        with pytest.raises(LogFullError):
            await fill(log, set())
        archive.error = None
        await until(lambda: log.stats().writable)

    with_log(path, test, archive, max_bytes=100_000)


def test_without_an_archive_old_rows_are_removed(path: Path) -> None:
    async def append(log: PredictionLog) -> None:
        await log.append([prediction(ts=NOW), prediction(ts=datetime.now(UTC))])

    with_log(path, append)
    assert len(stored_ids(path)) == 2

    async def test(log: PredictionLog) -> None:
        await until(lambda: log.stats().outbox.rows == 1)
        assert log.stats().age < 3600

    with_log(path, test, max_age=timedelta(days=1))
