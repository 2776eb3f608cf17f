"""The relay over a real outbox and an archive in memory; tests/chaos uses real servers."""

import asyncio
import time
from pathlib import Path

import pytest

from serving.prediction_log.archive import ArchiveError
from serving.prediction_log.log import LogError, PredictionLog
from serving.prediction_log.outbox import Outbox, OutboxRow
from serving.prediction_log.records import RecordType
from serving.prediction_log.relay import RelayStats
from tests.support.prediction_log import (
    PLENTY,
    MemoryArchive,
    as_read,
    prediction,
    stored_ids,
    until,
    with_log,
)


def relay_stats(log: PredictionLog) -> RelayStats:
    stats = log.stats().archive
    assert stats is not None
    return stats


@pytest.fixture
def archive() -> MemoryArchive:
    return MemoryArchive()


def test_predictions_move_to_the_archive_and_leave_the_outbox(
    path: Path, archive: MemoryArchive
) -> None:
    async def test(log: PredictionLog) -> None:
        records = [prediction() for _ in range(1234)]
        await asyncio.gather(*(log.append([record]) for record in records))
        await until(lambda: len(archive.predictions) == 1234)
        assert set(archive.predictions) == {record.id for record in records}
        stats = relay_stats(log)
        await until(lambda: stats.sent == 1234)
        assert stats.failures == 0
        assert stats.lag > 0

    with_log(path, test, archive)
    assert stored_ids(path) == []
    assert archive.closed
    assert max(archive.writes) <= 500


def test_an_unreachable_archive_delays_and_loses_nothing(
    path: Path, archive: MemoryArchive
) -> None:
    archive.error = ArchiveError("unreachable")

    async def test(log: PredictionLog) -> None:
        record = prediction()
        await log.append([record])
        assert await log.get(record.id) == as_read(record)
        assert await log.feedback(record.id, "hate", None, None)
        stats = relay_stats(log)
        await until(lambda: not stats.reachable)
        # The archive may have an unknown prediction, so None or False would be a guess.
        with pytest.raises(LogError, match="unreachable"):
            await log.get("unknown")
        with pytest.raises(LogError, match="unreachable"):
            await log.delete("unknown")
        with pytest.raises(LogError, match="unreachable"):
            await log.feedback("unknown", "hate", None, None)
        archive.error = None
        await until(lambda: len(archive.feedback) == 1)
        assert record.id in archive.predictions
        await until(lambda: stats.reachable)
        assert await log.get("unknown") is None

    with_log(path, test, archive)
    assert stored_ids(path) == []


def test_an_archive_counts_as_reachable_after_its_first_answer_only(
    path: Path, archive: MemoryArchive
) -> None:
    archive.error = ArchiveError("at 10.0.0.1: error 73", "answers with error 73")

    async def test(log: PredictionLog) -> None:
        stats = relay_stats(log)
        assert (stats.reachable, stats.state) == (False, "was not reached yet")
        await until(lambda: stats.failures > 0)
        assert (stats.reachable, stats.state) == (False, "answers with error 73")
        archive.error = None
        await until(lambda: stats.reachable)
        assert stats.state == ""

    with_log(path, test, archive)


def test_an_archive_that_is_lost_while_nothing_is_sent_is_noticed(
    path: Path, archive: MemoryArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.prediction_log.relay.CHECK_SECONDS", 0.0)

    async def test(log: PredictionLog) -> None:
        stats = relay_stats(log)
        await until(lambda: stats.reachable)
        archive.error = ArchiveError("lost")
        await until(lambda: not stats.reachable)
        assert stats.state == "does not answer"

    with_log(path, test, archive)


def test_a_process_that_does_not_relay_knows_whether_the_archive_answers(path: Path) -> None:
    first, second = MemoryArchive(), MemoryArchive()

    async def test(log: PredictionLog) -> None:
        await until(lambda: relay_stats(log).reachable)
        outbox = Outbox(path, max_bytes=PLENTY, ring=False)
        other = PredictionLog(outbox, second)
        second.error = ArchiveError("not from here")
        await other.start()
        try:
            await until(lambda: relay_stats(other).failures > 0)
            assert not relay_stats(other).reachable
            second.error = None
            await until(lambda: relay_stats(other).reachable)
            assert second.writes == []
            assert relay_stats(other).turn == 0 < relay_stats(log).turn  # who works, for an alarm
        finally:
            await other.close()

    with_log(path, test, first)


def test_a_lock_file_of_another_user_is_named(path: Path, archive: MemoryArchive) -> None:
    lock = path.with_name(path.name + ".relay")
    lock.mkdir(parents=True)  # nobody can open it for writing, root included

    async def test(log: PredictionLog) -> None:
        await until(lambda: relay_stats(log).failures > 0)
        assert relay_stats(log).state == "gets nothing: the outbox cannot be used"

    with_log(path, test, archive)


def test_an_unexpected_error_does_not_end_the_relay(
    path: Path, archive: MemoryArchive, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(log: PredictionLog) -> None:
        await log.append([])  # by then the archive is prepared, or soon will be
        archive.error = RuntimeError("with a caller's words in it")
        await log.append([prediction()])
        stats = relay_stats(log)
        await until(lambda: stats.failures > 0)
        archive.error = None
        await until(lambda: len(archive.predictions) == 1)

    with_log(path, test, archive)
    assert "unexpected: RuntimeError" in caplog.text
    assert "caller's words" not in caplog.text


def test_a_refused_row_does_not_delay_the_others(path: Path, archive: MemoryArchive) -> None:
    async def test(log: PredictionLog) -> None:
        records = [prediction() for _ in range(20)]
        archive.refused_ids = {records[0].id, records[7].id}
        for record in records:
            await log.append([record])
        await until(lambda: len(archive.predictions) == 18)
        assert len(stored_ids(path)) >= 2
        archive.refused_ids = set()
        await until(lambda: len(archive.predictions) == 20)
        assert relay_stats(log).refusals >= 2

    with_log(path, test, archive)
    assert stored_ids(path) == []


def test_an_erasure_wins_over_a_copy_that_is_being_sent(path: Path, archive: MemoryArchive) -> None:
    async def test(log: PredictionLog) -> None:
        record = prediction()
        archive.resume = asyncio.Event()
        await log.append([record])
        await until(lambda: archive.writes == [1])  # it was read and is being sent
        assert await log.delete(record.id)
        assert await log.get(record.id) is None
        archive.resume.set()
        await until(lambda: archive.predictions.get(record.id) == {"erased": True})
        assert await log.get(record.id) is None
        # A copy that another relay sends late does not undo it.
        late = OutboxRow(1, RecordType.PREDICTION, record.document("full"))
        await archive.write([late])
        assert await log.get(record.id) is None
        assert await log.feedback(record.id, "hate", None, None) is None

    with_log(path, test, archive)
    assert stored_ids(path) == []


def test_another_worker_sends_what_a_dead_one_left(path: Path) -> None:
    dead, alive = MemoryArchive(), MemoryArchive()

    async def run() -> None:
        logs = []
        for archive in (dead, alive):
            log = PredictionLog(Outbox(path, max_bytes=PLENTY, ring=False), archive)
            await log.start()
            logs.append(log)
            await asyncio.sleep(0.7)  # the first one takes the lock
        dead.resume = asyncio.Event()
        await logs[1].append([prediction(), prediction()])
        await until(lambda: dead.writes == [2])
        assert alive.writes == []
        dead.error = ArchiveError("died")
        dead.resume.set()
        await logs[0].close()
        await until(lambda: len(alive.predictions) == 2)
        await logs[1].close()

    asyncio.run(run())
    assert dead.predictions == {}
    assert stored_ids(path) == []


def test_closing_sends_what_waits(path: Path, archive: MemoryArchive) -> None:
    with_log(path, lambda log: log.append([prediction() for _ in range(2000)]), archive)
    assert len(archive.predictions) == 2000
    assert stored_ids(path) == []


def test_closing_does_not_wait_for_an_archive_that_hangs(
    path: Path, archive: MemoryArchive
) -> None:
    async def test(log: PredictionLog) -> None:
        archive.resume = asyncio.Event()
        await log.append([prediction()])
        await until(lambda: archive.writes == [1])

    started = time.monotonic()
    with_log(path, test, archive)
    assert time.monotonic() - started < 10
    assert len(stored_ids(path)) == 1
