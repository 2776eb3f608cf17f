"""The outbox: a document that was acknowledged is on the disk, once, until it is removed."""

import asyncio
import errno
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

from serving.prediction_log.outbox import SCHEMA_STEPS, SCHEMA_VERSION, Outbox, network_filesystem
from serving.prediction_log.records import Document, RecordType
from serving.prediction_log.sqlite_writer import OutboxError, OutboxFullError
from tests.support.prediction_log import PLENTY, stored_ids

PREDICTION, ERASURE = RecordType.PREDICTION, RecordType.ERASURE


def document(id_: str, **more: Any) -> Document:
    return {"_id": id_, "ts": 1_700_000_000_000, "text": f"text of {id_}", **more}


@asynccontextmanager
async def started(
    path: Path, *, max_bytes: int = PLENTY, ring: bool = False
) -> AsyncIterator[Outbox]:
    outbox = Outbox(path, max_bytes=max_bytes, ring=ring)
    await outbox.start()
    try:
        yield outbox
    finally:
        await outbox.close()


def with_outbox(path: Path, test: Callable[[Outbox], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with started(path, **options) as outbox:
            await test(outbox)

    asyncio.run(run())


def store_one(path: Path, id_: str = "a") -> None:
    with_outbox(path, lambda outbox: outbox.append(PREDICTION, [document(id_)]))


def test_documents_are_in_the_file_when_append_returns(path: Path) -> None:
    async def test(outbox: Outbox) -> None:
        await outbox.append(PREDICTION, [document("a"), document("b")])
        assert stored_ids(path) == ["a", "b"]

    with_outbox(path, test)


def test_the_file_uses_a_write_ahead_log(path: Path) -> None:
    store_one(path)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


def test_documents_are_read_back_unchanged(path: Path) -> None:
    odd = document("a", text='NUL \0, "quotes", 🦄, \u2028', none=None, score=0.1 + 0.2, n=[1, {}])

    async def test(outbox: Outbox) -> None:
        await outbox.append(PREDICTION, [odd])
        (row,) = await outbox.next_batch(10)
        assert (row.type, row.document, row.attempts) == (PREDICTION, odd, 0)
        assert await outbox.find("a") == {PREDICTION: odd}
        assert await outbox.find("b") == {}

    with_outbox(path, test)


def test_a_document_that_json_cannot_hold_is_the_only_one_refused(path: Path) -> None:
    async def test(outbox: Outbox) -> None:
        documents = [document("a"), document("b", text="half a \ud800 pair"), document("c")]
        results = await asyncio.gather(
            *(outbox.append(PREDICTION, [one]) for one in documents), return_exceptions=True
        )
        assert [type(result) for result in results] == [type(None), OutboxError, type(None)]
        assert sorted(stored_ids(path)) == ["a", "c"]

    with_outbox(path, test)


def test_a_stored_document_is_not_overwritten(path: Path) -> None:
    async def test(outbox: Outbox) -> None:
        await outbox.append(PREDICTION, [document("a", text="first")])
        await outbox.append(PREDICTION, [document("a", text="second")])
        assert [row.document["text"] for row in await outbox.next_batch(10)] == ["first"]

    with_outbox(path, test)


def test_a_row_number_is_never_used_twice(path: Path) -> None:
    async def test(outbox: Outbox) -> None:
        await outbox.append(PREDICTION, [document("a")])
        (sent,) = await outbox.next_batch(10)
        await outbox.erase("a", 0, write_tombstone=False)  # while the row is being sent
        await outbox.append(PREDICTION, [document("b")])
        await outbox.remove([sent.seq])
        assert stored_ids(path) == ["b"]

    with_outbox(path, test)


def test_a_postponed_row_lets_others_pass_and_comes_back(path: Path) -> None:
    async def test(outbox: Outbox) -> None:
        await outbox.append(PREDICTION, [document("refused"), document("good")])
        refused, _ = await outbox.next_batch(10)
        now = time.time_ns() // 10**6
        await outbox.postpone({refused.seq: now + 60_000})
        assert [row.document["_id"] for row in await outbox.next_batch(10)] == ["good"]
        assert (await outbox.stats()).postponed == 1
        await outbox.postpone({refused.seq: now})
        (again,) = await outbox.next_batch(1)
        assert (again.document["_id"], again.attempts) == ("refused", 2)

    with_outbox(path, test)


def test_a_full_outbox_refuses_new_documents_and_keeps_the_old(path: Path) -> None:
    async def test(outbox: Outbox) -> None:
        acknowledged: list[str] = []

        async def fill() -> None:
            for i in range(10_000):
                await outbox.append(PREDICTION, [document(str(i), text="x" * 2000)])
                acknowledged.append(str(i))

        with pytest.raises(OutboxFullError, match="full"):
            await fill()
        with pytest.raises(OutboxFullError):
            await outbox.probe()
        assert stored_ids(path) == acknowledged
        assert 30 < len(acknowledged) < 100
        assert (await outbox.stats()).bytes < 300_000
        # Whatever makes room is never refused.
        assert await outbox.erase("0", 1, write_tombstone=True)
        await outbox.remove(row.seq for row in await outbox.next_batch(1000))
        await outbox.probe()
        await outbox.append(PREDICTION, [document("again")])
        assert stored_ids(path) == ["again"]

    with_outbox(path, test, max_bytes=200_000)


def test_a_full_ring_removes_the_oldest_rows(path: Path) -> None:
    async def test(outbox: Outbox) -> None:
        for start in range(0, 6000, 100):
            documents = [document(str(i), text="x" * 200) for i in range(start, start + 100)]
            await outbox.append(PREDICTION, documents)
        assert (await outbox.stats()).bytes < 700_000
        ids = stored_ids(path)
        assert ids == [str(i) for i in range(6000 - len(ids), 6000)]
        assert len(ids) > 500

    with_outbox(path, test, max_bytes=500_000, ring=True)
    assert path.stat().st_size < 1_000_000


def test_prune_removes_old_rows(path: Path) -> None:
    async def test(outbox: Outbox) -> None:
        old = [document(f"old{i}", ts=i) for i in range(1200)]
        await outbox.append(PREDICTION, [*old, document("young", ts=5000)])
        await outbox.prune(5000)
        assert stored_ids(path) == ["young"]

    with_outbox(path, test)


def test_feedback_needs_a_prediction_that_is_not_erased(path: Path) -> None:
    def feedback(prediction_id: str) -> Document:
        id_ = f"on-{prediction_id}"
        return {"_id": id_, "prediction_id": prediction_id, "ts": 2, "label": "hate"}

    async def test(outbox: Outbox) -> None:
        await outbox.append(PREDICTION, [document("a"), document("b")])
        assert await outbox.append_feedback(feedback("a"), archived=False)
        assert await outbox.append_feedback(feedback("a"), archived=False)
        assert not await outbox.append_feedback(feedback("unknown"), archived=False)
        assert await outbox.append_feedback(feedback("elsewhere"), archived=True)
        assert stored_ids(path) == ["a", "b", "on-a", "on-elsewhere"]
        assert await outbox.erase("a", 3, write_tombstone=True)
        assert not await outbox.append_feedback(feedback("a"), archived=True)
        *_, tombstone = await outbox.next_batch(10)
        assert tombstone.type is ERASURE
        assert tombstone.document == {"_id": "a", "ts": 3, "feedback": ["on-a"]}

    with_outbox(path, test)


def test_an_erased_text_is_in_none_of_the_files(path: Path) -> None:
    async def test(outbox: Outbox) -> None:
        await outbox.append(PREDICTION, [document("a", text="to be erased"), document("b")])
        assert await outbox.erase("a", 0, write_tombstone=False)
        assert not await outbox.erase("a", 0, write_tombstone=False)

    with_outbox(path, test)  # closing merges the write-ahead log into the file
    assert b"to be erased" not in b"".join(f.read_bytes() for f in path.parent.iterdir())
    assert b"text of b" in path.read_bytes()


def _make(folder: Path, barrier: Any) -> None:
    for i in range(40):
        barrier.wait(60)
        asyncio.run(Outbox(folder / f"{i}.db", max_bytes=PLENTY, ring=False).check())


def test_several_processes_make_one_file_at_the_same_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(5)
    workers = [context.Process(target=_make, args=(tmp_path, barrier)) for _ in range(5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 5


def _append_forever(path: Path, name: str, acknowledged: Any) -> None:
    async def run() -> None:
        async with started(path) as outbox:
            for i in range(100_000):
                await outbox.append(PREDICTION, [document(f"{name}-{i}")])
                acknowledged.send(i)

    asyncio.run(run())


def test_several_processes_share_a_file_and_survive_a_kill(path: Path) -> None:
    """Everything that a process acknowledged before it was killed is stored."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for name in ("one", "two", "three"):
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=_append_forever, args=(path, name, sender))
        worker.start()
        sender.close()
        workers.append((name, worker, receiver))
    for _, worker, receiver in workers:
        for _ in range(30):
            assert receiver.recv() >= 0
        os.kill(worker.pid, signal.SIGKILL)
    acknowledged = set()
    for name, worker, receiver in workers:
        worker.join()
        acknowledged |= {f"{name}-{i}" for i in range(30)}
        try:
            while receiver.poll():
                acknowledged.add(f"{name}-{receiver.recv()}")
        except EOFError:
            pass
        receiver.close()
        worker.close()
    assert acknowledged <= set(stored_ids(path))
    store_one(path, "after")
    assert stored_ids(path)[-1] == "after"


def test_an_outbox_with_a_newer_schema_is_refused(path: Path) -> None:
    store_one(path)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(OutboxError, match="newer version"):
        store_one(path, "b")
    assert stored_ids(path) == ["a"]


def test_a_file_that_is_not_an_outbox_is_refused_and_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    content = "these are notes, not a database\n" * 50
    file.write_text(content)
    with pytest.raises(OutboxError, match=r"notes\.txt: cannot be used as the outbox"):
        store_one(file)
    assert file.read_text() == content


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "outbox.db", tmp_path):
        with pytest.raises(OutboxError, match="cannot be used as the outbox"):
            store_one(path)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EROFS, "Read-only file system"), PermissionError(13, "Permission denied")],
)
def test_a_place_that_cannot_be_written_names_the_setting_and_what_to_mount(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(OutboxError) as caught:
        store_one(path)
    assert str(caught.value).startswith(f"{path}: cannot be used as the outbox: ")
    assert f"mount a volume at {path.parent} that uid {os.geteuid()} can write" in str(caught.value)
    assert "set TAGGER_OUTBOX" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/log/outbox.db", "nfs4"),
        ("/srv/my log/outbox.db", "cifs"),
        ("/srv/logs/outbox.db", None),
        ("/srv/log/local/outbox.db", None),
        ("/elsewhere", None),
    ],
)
def test_a_network_file_system_is_recognised(
    path: str, kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:45 / /srv/log rw,relatime shared:2 - nfs4 server:/export rw,vers=4.2
41 22 0:46 / /srv/my\\040log rw - cifs //server/share rw
42 40 8:2 / /srv/log/local rw - ext4 /dev/sdb1 rw
"""
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: mounts)
    assert network_filesystem(Path(path)) == kind


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_file_of_an_older_schema_is_brought_up_to_date_with_its_rows(
    path: Path, version: int
) -> None:
    path.parent.mkdir(exist_ok=True)
    db = sqlite3.connect(path)
    for statement in (each for step in SCHEMA_STEPS[:version] for each in step):
        db.execute(statement)
    db.execute("INSERT INTO log (kind, id, ts, body) VALUES (0, 'old', 1, '{\"_id\": \"old\"}')")
    db.execute(f"PRAGMA user_version = {version}")
    db.commit()
    schema = "SELECT type, name, sql FROM sqlite_master ORDER BY name"

    async def test(outbox: Outbox) -> None:
        await outbox.append(PREDICTION, [document("new")])
        assert await outbox.find("old") == {PREDICTION: {"_id": "old"}}

    with_outbox(path, test)
    assert stored_ids(path) == ["old", "new"]
    store_one(path.with_name("fresh"))
    fresh = sqlite3.connect(path.with_name("fresh"))
    assert db.execute(schema).fetchall() == fresh.execute(schema).fetchall()
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    for each in (db, fresh):
        each.close()
