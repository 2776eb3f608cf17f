"""The log over a real outbox and an archive that does as it is told; tests/chaos has the rest."""

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from serving.ids import new_id
from serving.prediction_log.log import LogError, LogFullError, PredictionLog
from serving.prediction_log.outbox import Outbox, Record, RecordType, Row
from serving.prediction_log.relay import ArchiveError, ArchiveRefusedError

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
Test = Callable[[PredictionLog], Awaitable[None]]


class MemoryArchive:
    """An archive in memory, with an archive's faults."""

    def __init__(self) -> None:
        self.predictions: dict[str, Record] = {}
        self.feedback: dict[str, Record] = {}
        self.writes: list[int] = []
        self.fault: Exception | None = None
        self.poison: set[str] = set()
        self.hold: asyncio.Event | None = None  # set: a write waits for it before it happens
        self.closed = False

    async def prepare(self) -> None:
        if self.fault:
            raise self.fault

    async def write(self, rows: Sequence[Row]) -> dict[int, str]:
        self.writes.append(len(rows))
        if self.hold:
            await self.hold.wait()
        if self.fault:
            raise self.fault
        refused = {}
        for row in rows:
            if row.record["_id"] in self.poison:
                refused[row.seq] = "poison"
            elif row.kind is RecordType.PREDICTION:
                self.predictions.setdefault(row.record["_id"], dict(row.record))
            elif row.kind is RecordType.FEEDBACK:
                self.feedback.setdefault(row.record["_id"], dict(row.record))
            else:
                self.predictions[row.record["_id"]] = {"erased": True}
        return refused

    async def find(self, key: str) -> Record | None:
        if self.fault:
            raise self.fault
        found = self.predictions.get(key)
        return None if found is None or "erased" in found else found | {"ts": NOW}

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def with_log(path: Path, test: Test, archive: MemoryArchive | None = None, **options: Any) -> None:
    async def run() -> None:
        size = options.pop("max_bytes", 1 << 30)
        outbox = Outbox(path, max_bytes=size, ring=archive is None)
        log = PredictionLog(outbox, archive, **options)
        await log.start()
        try:
            await test(log)
        finally:
            await log.close()

    asyncio.run(run())


def prediction(**more: Any) -> Record:
    return {"_id": new_id(), "ts": NOW, "text": "wörds", "label": "neither", **more}


async def until(true: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


def on_disk(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def left(path: Path) -> int:
    db = sqlite3.connect(path)
    (rows,) = db.execute("SELECT count(*) FROM log").fetchone()
    db.close()
    return int(rows)


def test_what_is_appended_gets_to_the_archive_and_leaves_the_outbox(path: Path) -> None:
    archive = MemoryArchive()

    async def test(log: PredictionLog) -> None:
        rows = [prediction() for _ in range(1234)]
        await asyncio.gather(*(log.append([row]) for row in rows))
        await until(lambda: len(archive.predictions) == 1234)
        assert set(archive.predictions) == {row["_id"] for row in rows}
        flow = log.stats().archive
        assert flow is not None
        await until(lambda: flow.sent == 1234)
        assert flow.failures == 0
        assert flow.lag > 0

    with_log(path, test, archive)
    assert left(path) == 0
    assert archive.closed
    assert max(archive.writes) <= 500


@pytest.mark.parametrize(
    ("mode", "kept"),
    [
        ("full", {"text": "wörds"}),
        ("hash", {"text_hash": hashlib.sha256("wörds".encode()).hexdigest()}),
        ("none", {}),
    ],
)
def test_only_what_may_be_kept_of_a_text_touches_the_disk(
    path: Path, mode: Any, kept: dict[str, str]
) -> None:
    row = prediction()

    async def test(log: PredictionLog) -> None:
        await log.append([row])
        found = await log.get(row["_id"])
        assert found == {"_id": row["_id"], "ts": NOW, "label": "neither", **kept}
        assert ("wörds".encode() in on_disk(path)) == (mode == "full")

    with_log(path, test, text=mode)


def test_without_an_archive_all_of_it_works_from_the_outbox(path: Path) -> None:
    async def test(log: PredictionLog) -> None:
        row = prediction()
        await log.append([row])
        assert await log.get(row["_id"]) == row
        first = await log.feedback(row["_id"], "hate", "it is", "bob")
        assert first == await log.feedback(row["_id"], "hate", "it is", "eve")
        assert first != await log.feedback(row["_id"], "hate", None, "bob")
        assert await log.feedback("unknown", "hate", None, "bob") is None
        assert left(path) == 3
        assert await log.delete(row["_id"])
        assert not await log.delete(row["_id"])
        assert await log.get(row["_id"]) is None
        assert await log.feedback(row["_id"], "hate", None, "bob") is None
        assert left(path) == 0
        stats = log.stats()
        assert stats.archive is None
        assert stats.writable

    with_log(path, test)


def test_an_archive_that_is_away_delays_nothing_and_loses_nothing(path: Path) -> None:
    archive = MemoryArchive()
    archive.fault = ArchiveError("away")

    async def test(log: PredictionLog) -> None:
        row = prediction()
        await log.append([row])
        assert await log.get(row["_id"]) == row
        assert await log.feedback(row["_id"], "hate", None, None)
        flow = log.stats().archive
        assert flow is not None
        await until(lambda: not flow.reachable)
        with pytest.raises(LogError, match="away"):  # it may be there: 404 would be a guess
            await log.get("unknown")
        with pytest.raises(LogError, match="away"):
            await log.delete("unknown")
        with pytest.raises(LogError, match="away"):
            await log.feedback("unknown", "hate", None, None)
        archive.fault = None
        await until(lambda: len(archive.feedback) == 1)
        assert row["_id"] in archive.predictions
        await until(lambda: flow.reachable)
        assert await log.get("unknown") is None

    with_log(path, test, archive)
    assert left(path) == 0


def test_a_bug_in_the_archive_does_not_end_the_drain(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = MemoryArchive()

    async def test(log: PredictionLog) -> None:
        await log.append([])  # the archive is prepared by then, or soon
        archive.fault = RuntimeError("with a caller's words in it")
        await log.append([prediction()])
        flow = log.stats().archive
        assert flow is not None
        await until(lambda: flow.failures > 0)
        archive.fault = None
        await until(lambda: len(archive.predictions) == 1)

    with_log(path, test, archive)
    assert "unexpected: RuntimeError" in caplog.text
    assert "caller's words" not in caplog.text


def test_a_check_tells_a_refusal_from_an_absence(path: Path) -> None:
    def check(fault: Exception | None) -> MemoryArchive:
        archive = MemoryArchive()
        archive.fault = fault
        outbox = Outbox(path, max_bytes=1 << 30, ring=False)
        try:
            asyncio.run(PredictionLog(outbox, archive).check())
        finally:
            assert archive.closed
        return archive

    check(None)
    check(ArchiveError("away"))
    with pytest.raises(ArchiveRefusedError, match="does not know the user"):
        check(ArchiveRefusedError("does not know the user"))


def test_a_poisoned_record_does_not_hold_up_the_rest(path: Path) -> None:
    archive = MemoryArchive()

    async def test(log: PredictionLog) -> None:
        rows = [prediction() for _ in range(20)]
        archive.poison = {rows[0]["_id"], rows[7]["_id"]}
        for row in rows:
            await log.append([row])
        await until(lambda: len(archive.predictions) == 18)
        assert left(path) >= 2
        archive.poison = set()
        await until(lambda: len(archive.predictions) == 20)
        flow = log.stats().archive
        assert flow is not None
        assert flow.refusals >= 2

    with_log(path, test, archive)
    assert left(path) == 0


def test_an_erasure_overtakes_a_copy_that_is_under_way(path: Path) -> None:
    archive = MemoryArchive()

    async def test(log: PredictionLog) -> None:
        row = prediction()
        archive.hold = asyncio.Event()
        await log.append([row])
        await until(lambda: archive.writes == [1])  # read, and on its way
        assert await log.delete(row["_id"])
        assert await log.get(row["_id"]) is None
        archive.hold.set()
        await until(lambda: archive.predictions.get(row["_id"]) == {"erased": True})
        assert await log.get(row["_id"]) is None
        # And the copy of another drain that was thought dead:
        await archive.write([Row(1, RecordType.PREDICTION, {"_id": row["_id"], "ts": 1})])
        assert await log.get(row["_id"]) is None
        assert await log.feedback(row["_id"], "hate", None, None) is None

    with_log(path, test, archive)
    assert left(path) == 0


def test_a_full_outbox_refuses_says_so_and_recovers(path: Path) -> None:
    archive = MemoryArchive()
    archive.fault = ArchiveError("away")

    async def test(log: PredictionLog) -> None:
        kept = 0

        async def fill() -> None:
            nonlocal kept
            while True:
                await log.append([prediction(text="x" * 1000)])
                kept += 1

        with pytest.raises(LogFullError):
            await fill()
        assert not log.stats().writable
        archive.fault = None
        await until(lambda: len(archive.predictions) == kept)
        await until(lambda: left(path) == 0)
        await log.append([prediction()])
        assert log.stats().writable

    with_log(path, test, archive, max_bytes=100_000)


def test_what_a_dead_worker_left_is_carried_over_by_another(path: Path) -> None:
    dead, alive = MemoryArchive(), MemoryArchive()

    async def run() -> None:
        logs = []
        for archive in (dead, alive):
            log = PredictionLog(Outbox(path, max_bytes=1 << 30, ring=False), archive)
            await log.start()
            logs.append(log)
            await asyncio.sleep(0.7)  # the first holds the lock now
        dead.hold = asyncio.Event()
        await logs[1].append([prediction(), prediction()])
        await until(lambda: dead.writes == [2])
        assert alive.writes == []
        dead.fault = ArchiveError("died")
        dead.hold.set()
        await logs[0].close()
        await until(lambda: len(alive.predictions) == 2)
        await logs[1].close()

    asyncio.run(run())
    assert dead.predictions == {}
    assert left(path) == 0


def test_closing_carries_over_what_waits_but_does_not_hang(path: Path) -> None:
    archive = MemoryArchive()

    async def quick(log: PredictionLog) -> None:
        await log.append([prediction() for _ in range(2000)])

    with_log(path, quick, archive)
    assert len(archive.predictions) == 2000
    assert left(path) == 0

    async def stuck(log: PredictionLog) -> None:
        archive.hold = asyncio.Event()
        await log.append([prediction()])
        await until(lambda: archive.writes[-1] == 1)

    began = time.monotonic()
    with_log(path, stuck, archive)
    assert time.monotonic() - began < 10
    assert left(path) == 1


def test_where_the_outbox_is_the_log_old_rows_go(path: Path) -> None:
    async def test(log: PredictionLog) -> None:
        old, young = prediction(ts=NOW), prediction(ts=datetime.now(UTC))
        await log.append([old, young])

    with_log(path, test)
    assert left(path) == 2

    async def again(log: PredictionLog) -> None:
        await until(lambda: log.stats().level.rows == 1)
        assert log.stats().age < 3600

    with_log(path, again, max_age=timedelta(days=1))
