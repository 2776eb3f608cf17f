"""The SQLite writer: a job that has returned is on the disk; jobs share commits, not errors."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from serving.prediction_log.sqlite_writer import (
    OutboxError,
    OutboxFullError,
    SQLiteWriter,
    connect,
)

Writer = SQLiteWriter[str]


class Table:
    """A table of names, and the number of names in each insert."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inserts: list[int] = []
        db = connect(path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE names (name TEXT UNIQUE CHECK (name <> 'wrong'))")
        db.close()

    def insert(self, db: sqlite3.Connection, names: Sequence[str]) -> None:
        self.inserts.append(len(names))
        if "full" in names:
            raise OutboxFullError("full")
        db.executemany("INSERT INTO names VALUES (?)", [(name,) for name in names])

    def names(self) -> list[str]:
        db = sqlite3.connect(self.path)
        names = [row[0] for row in db.execute("SELECT name FROM names ORDER BY rowid")]
        db.close()
        return names

    def with_writer(self, test: Callable[[Writer], Awaitable[None]]) -> None:
        async def run() -> None:
            writer = Writer(self.path, self.insert)
            writer.start()
            try:
                await test(writer)
            finally:
                await writer.close()

        asyncio.run(run())


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "names.db")


def test_rows_are_in_the_file_when_store_returns(table: Table) -> None:
    async def test(writer: Writer) -> None:
        await writer.store(["a", "b"])
        assert table.names() == ["a", "b"]

    table.with_writer(test)


def test_a_commit_is_synced_to_the_disk_and_deleted_content_is_overwritten(table: Table) -> None:
    db = connect(table.path)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert db.execute("PRAGMA secure_delete").fetchone() == (1,)
    db.close()


def test_execute_and_read_return_a_result(table: Table) -> None:
    async def test(writer: Writer) -> None:
        sql = "INSERT INTO names VALUES ('a') RETURNING name"
        assert await writer.execute(lambda db: db.execute(sql).fetchall()) == [("a",)]
        assert await writer.read(
            lambda db: db.execute("SELECT count(*) FROM names").fetchone()
        ) == (1,)

    table.with_writer(test)


def test_concurrent_callers_share_commits(table: Table) -> None:
    async def test(writer: Writer) -> None:
        await asyncio.gather(*(writer.store([str(i)]) for i in range(200)))

    table.with_writer(test)
    assert sum(table.inserts) == len(table.names()) == 200
    assert len(table.inserts) < 20


def test_a_failed_job_does_not_fail_the_others(table: Table) -> None:
    async def test(writer: Writer) -> None:
        results = await asyncio.gather(
            *(writer.store([name]) for name in ("a", "wrong", "b", "full")), return_exceptions=True
        )
        ok = type(None)
        assert [type(result) for result in results] == [ok, OutboxError, ok, OutboxFullError]
        assert table.names() == ["a", "b"]

    table.with_writer(test)


def test_the_rows_of_a_cancelled_caller_are_stored(table: Table) -> None:
    async def test(writer: Writer) -> None:
        task = asyncio.create_task(writer.store(["a"]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await writer.store(["b"])
        assert table.names() == ["a", "b"]

    table.with_writer(test)


def test_close_commits_what_waits_and_refuses_what_comes_later(table: Table) -> None:
    async def test(writer: Writer) -> None:
        task = asyncio.create_task(writer.store(["a"]))
        await asyncio.sleep(0)
        await writer.close()
        await task
        with pytest.raises(OutboxError, match="closed"):
            await writer.store(["b"])

    table.with_writer(test)
    assert table.names() == ["a"]


def test_a_name_that_sqlite_keeps_in_memory_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    connect(Path(":memory:")).close()
    assert Path(":memory:").exists()
