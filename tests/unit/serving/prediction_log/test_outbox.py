"""The outbox: what is acknowledged is on the disk, once, and nothing else is."""

import asyncio
import multiprocessing
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from serving.prediction_log.outbox import SCHEMA_VERSION, Outbox, RecordType
from serving.prediction_log.sqlite_writer import OutboxError, OutboxFullError, connect

PLENTY = 1 << 30


def record(key: str, **more: Any) -> dict[str, Any]:
    return {"_id": key, "ts": 1_700_000_000_000, "text": f"text of {key}", **more}


@asynccontextmanager
async def outbox(
    path: Path, *, max_bytes: int = PLENTY, ring: bool = False
) -> AsyncIterator[Outbox]:
    box = Outbox(path, max_bytes=max_bytes, ring=ring)
    await box.start()
    try:
        yield box
    finally:
        await box.close()


def with_outbox(path: Path, test: Callable[[Outbox], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with outbox(path, **options) as box:
            await test(box)

    asyncio.run(run())


def stored(path: Path) -> list[str]:
    """The ids in the file, read by somebody else."""
    with sqlite3.connect(path) as db:
        rows = [row[0] for row in db.execute("SELECT id FROM log ORDER BY seq")]
    db.close()
    return rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "outbox.db"


def test_what_append_has_returned_for_is_in_the_file(path: Path) -> None:
    async def test(box: Outbox) -> None:
        await box.append(RecordType.PREDICTION, [record("a"), record("b")])
        assert stored(path) == ["a", "b"]

    with_outbox(path, test)


def test_a_commit_is_synced_to_the_disk_and_what_is_removed_is_overwritten(path: Path) -> None:
    with_outbox(path, lambda box: box.append(RecordType.PREDICTION, [record("a")]))
    db = connect(path)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert db.execute("PRAGMA secure_delete").fetchone() == (1,)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


def test_records_come_back_as_they_went_in(path: Path) -> None:
    odd = record("a", text='NUL \0, "quotes", 🦄, \u2028', none=None, score=0.1 + 0.2, n=[1, {}])

    async def test(box: Outbox) -> None:
        await box.append(RecordType.PREDICTION, [odd])
        (row,) = await box.batch(10)
        assert (row.kind, row.record, row.attempts) == (RecordType.PREDICTION, odd, 0)
        assert await box.find("a") == {RecordType.PREDICTION: odd}
        assert await box.find("b") == {}

    with_outbox(path, test)


def test_callers_of_one_moment_share_commits(path: Path) -> None:
    commits = []

    class Counting(Outbox):
        def _insert(self, db: sqlite3.Connection, rows: Any) -> None:
            commits.append(len(rows))
            super()._insert(db, rows)

    async def run() -> None:
        box = Counting(path, max_bytes=PLENTY, ring=False)
        await box.start()
        await asyncio.gather(
            *(box.append(RecordType.PREDICTION, [record(str(n))]) for n in range(200))
        )
        await box.close()

    asyncio.run(run())
    assert sum(commits) == len(stored(path)) == 200
    assert len(commits) < 20


def test_one_callers_fault_is_not_its_neighbours(path: Path) -> None:
    async def test(box: Outbox) -> None:
        texts = ["fine", "half a \ud800 pair", "fine as well"]
        outcomes = await asyncio.gather(
            *(box.append(RecordType.PREDICTION, [record(t[-4:], text=t)]) for t in texts),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), OutboxError, type(None)]
        assert sorted(stored(path)) == ["fine", "well"]

    with_outbox(path, test)


def test_a_known_id_is_left_as_it_is(path: Path) -> None:
    async def test(box: Outbox) -> None:
        await box.append(RecordType.PREDICTION, [record("a", text="first")])
        await box.append(RecordType.PREDICTION, [record("a", text="second")])
        assert [row.record["text"] for row in await box.batch(10)] == ["first"]

    with_outbox(path, test)


def test_rows_are_forgotten_by_a_number_that_is_never_given_again(path: Path) -> None:
    async def test(box: Outbox) -> None:
        await box.append(RecordType.PREDICTION, [record("a")])
        (sent,) = await box.batch(10)
        await box.erase("a", 0, write_tombstone=False)  # while it is under way
        await box.append(RecordType.PREDICTION, [record("b")])
        await box.forget([sent.seq])
        assert stored(path) == ["b"]

    with_outbox(path, test)


def test_a_refused_row_steps_aside_and_comes_back(path: Path) -> None:
    async def test(box: Outbox) -> None:
        await box.append(RecordType.PREDICTION, [record("poison"), record("good")])
        poison, _ = await box.batch(10)
        now = time.time_ns() // 10**6
        await box.postpone({poison.seq: now + 60_000})
        assert [row.record["_id"] for row in await box.batch(10)] == ["good"]
        assert (await box.level()).postponed == 1
        await box.postpone({poison.seq: now})
        assert [(r.record["_id"], r.attempts) for r in await box.batch(1)] == [("poison", 2)]

    with_outbox(path, test)


def test_full_refuses_and_keeps_what_it_has(path: Path) -> None:
    async def test(box: Outbox) -> None:
        kept: list[str] = []

        async def fill() -> None:
            for n in range(10_000):
                await box.append(RecordType.PREDICTION, [record(str(n), text="x" * 2000)])
                kept.append(str(n))

        with pytest.raises(OutboxFullError, match="wait already"):
            await fill()
        assert stored(path) == kept
        assert 30 < len(kept) < 100
        assert (await box.level()).bytes < 300_000
        # What makes room is never refused.
        assert await box.erase("0", 1, write_tombstone=True)
        await box.forget(row.seq for row in await box.batch(1000))
        await box.append(RecordType.PREDICTION, [record("again")])
        assert stored(path) == ["again"]

    with_outbox(path, test, max_bytes=200_000)


def test_a_ring_lets_the_oldest_go(path: Path) -> None:
    async def test(box: Outbox) -> None:
        for start in range(0, 6000, 100):
            rows = [record(str(n), text="x" * 200) for n in range(start, start + 100)]
            await box.append(RecordType.PREDICTION, rows)
        assert (await box.level()).bytes < 700_000
        left = stored(path)
        assert left == [str(n) for n in range(6000 - len(left), 6000)]
        assert len(left) > 500

    with_outbox(path, test, max_bytes=500_000, ring=True)
    assert path.stat().st_size < 1_000_000


def test_prune_removes_what_is_too_old(path: Path) -> None:
    async def test(box: Outbox) -> None:
        old = [record(f"old{n}", ts=n) for n in range(1200)]
        await box.append(RecordType.PREDICTION, [*old, record("young", ts=5000)])
        await box.prune(5000)
        assert stored(path) == ["young"]

    with_outbox(path, test)


def test_feedback_needs_a_prediction_that_is_not_erased(path: Path) -> None:
    def judgement(about: str) -> dict[str, Any]:
        return {"_id": f"on-{about}", "prediction_id": about, "ts": 2, "label": "hate"}

    async def test(box: Outbox) -> None:
        await box.append(RecordType.PREDICTION, [record("a"), record("b")])
        assert await box.append_about(judgement("a"), known=False)
        assert await box.append_about(judgement("a"), known=False)
        assert not await box.append_about(judgement("unknown"), known=False)
        assert await box.append_about(judgement("elsewhere"), known=True)
        assert stored(path) == ["a", "b", "on-a", "on-elsewhere"]
        assert await box.erase("a", 3, write_tombstone=True)
        assert not await box.append_about(judgement("a"), known=True)
        *_, tombstone = await box.batch(10)
        assert tombstone.kind is RecordType.ERASURE
        assert tombstone.record == {"_id": "a", "ts": 3, "feedback": ["on-a"]}

    with_outbox(path, test)


def test_an_erased_text_is_not_in_the_files_any_more(path: Path) -> None:
    async def test(box: Outbox) -> None:
        await box.append(RecordType.PREDICTION, [record("a", text="to be forgotten"), record("b")])
        assert await box.erase("a", 0, write_tombstone=False)
        assert not await box.erase("a", 0, write_tombstone=False)

    with_outbox(path, test)  # closing folds the write-ahead log into the file
    assert b"to be forgotten" not in b"".join(f.read_bytes() for f in path.parent.iterdir())
    assert b"text of b" in path.read_bytes()


def test_a_caller_who_leaves_does_not_take_his_rows_along(path: Path) -> None:
    async def test(box: Outbox) -> None:
        task = asyncio.create_task(box.append(RecordType.PREDICTION, [record("a")]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await box.append(RecordType.PREDICTION, [record("b")])
        assert stored(path) == ["a", "b"]

    with_outbox(path, test)


def test_close_commits_what_waits_and_then_refuses(path: Path) -> None:
    async def run() -> None:
        box = Outbox(path, max_bytes=PLENTY, ring=False)
        await box.start()
        task = asyncio.create_task(box.append(RecordType.PREDICTION, [record("a")]))
        await asyncio.sleep(0)
        await box.close()
        await task
        with pytest.raises(OutboxError, match="closed"):
            await box.append(RecordType.PREDICTION, [record("b")])

    asyncio.run(run())
    assert stored(path) == ["a"]


def _fill(path: Path, name: str, acknowledged: Any) -> None:
    async def run() -> None:
        async with outbox(path) as box:
            for n in range(100_000):
                await box.append(RecordType.PREDICTION, [record(f"{name}-{n}")])
                acknowledged.send(n)

    asyncio.run(run())


def test_processes_share_a_file_and_may_be_killed(path: Path) -> None:
    """What each told of before it died is there, and the survivors never notice."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for name in ("one", "two", "three"):
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_fill, args=(path, name, theirs))
        worker.start()
        theirs.close()
        workers.append((name, worker, ours))
    for _, worker, pipe in workers:
        for _ in range(30):
            assert pipe.recv() >= 0
        os.kill(worker.pid, signal.SIGKILL)
    told = set()
    for name, worker, pipe in workers:
        worker.join()
        told |= {f"{name}-{n}" for n in range(30)}
        try:
            while pipe.poll():
                told.add(f"{name}-{pipe.recv()}")
        except EOFError:
            pass
        pipe.close()
        worker.close()
    assert told <= set(stored(path))
    with_outbox(path, lambda box: box.append(RecordType.PREDICTION, [record("after")]))
    assert stored(path)[-1] == "after"


def test_an_outbox_of_a_newer_version_is_refused(path: Path) -> None:
    with_outbox(path, lambda box: box.append(RecordType.PREDICTION, [record("a")]))
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(OutboxError, match="newer version"):
        with_outbox(path, lambda box: box.append(RecordType.PREDICTION, [record("b")]))
    assert stored(path) == ["a"]


def test_what_is_no_outbox_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("these are my notes, and no database at all\n" * 50)
    with pytest.raises(OutboxError, match=r"notes\.txt: cannot be used as the outbox"):
        with_outbox(file, lambda box: box.append(RecordType.PREDICTION, [record("a")]))
    assert file.read_text().startswith("these are my notes")


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file" / "outbox.db", tmp_path):
        with pytest.raises(OutboxError, match="cannot be used as the outbox"):
            with_outbox(wrong, lambda box: box.append(RecordType.PREDICTION, [record("a")]))
