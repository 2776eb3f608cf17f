"""The archive against a real server: MONGODB_TEST_URI if it is set, else secantusdb."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import MongoClient, WriteConcern
from pymongo.database import Database
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from serving.app import create_log
from serving.ids import new_id
from serving.prediction_log.archive import ArchiveError, ArchiveRefusedError
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.mongo import INDEXES, MongoArchive
from serving.prediction_log.outbox import Outbox, OutboxRow
from serving.prediction_log.records import RecordType
from serving.settings import Settings
from tests.support.mongodb import MongoServer, free_port
from tests.support.prediction_log import NOW, PLENTY, as_read, as_written_by_0_1, prediction

MS = int(NOW.timestamp() * 1000)
PASSWORD = "correct-horse"
Documents = dict[str, Any]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    """A server of these tests, which fails on demand."""
    with MongoServer(tmp_path_factory.mktemp("mongo"), "--enable-test-commands") as server:
        yield server


@pytest.fixture(scope="module")
def server_uri(request: pytest.FixtureRequest) -> str:
    given = os.environ.get("MONGODB_TEST_URI")
    uri = given or request.getfixturevalue("own").uri
    with MongoClient(uri) as client:
        version = client.server_info()["version"]
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    source = "the given server" if given else "secantusdb"
    terminal.write_line(f"\nMongoDB for these tests: {source}, version {version}")
    return uri


def with_archive(uri: str, test: Callable[[MongoArchive], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        archive = MongoArchive(uri, **options)
        try:
            await test(archive)
        finally:
            await archive.close()

    asyncio.run(run())


def row(
    seq: int, key: str, record_type: RecordType = RecordType.PREDICTION, **more: Any
) -> OutboxRow:
    return OutboxRow(seq, record_type, {"_id": key, "ts": MS, **more})


def test_rows_become_documents_once(uri: str, database: Database[Documents]) -> None:
    async def test(archive: MongoArchive) -> None:
        rows = [row(1, "a", text="wörds", scores={"hate": 0.25}), row(2, "b", text=None)]
        assert await archive.write(rows) == {}
        assert await archive.write([*rows, row(3, "a", text="another")]) == {}
        feedback = row(4, "f", RecordType.FEEDBACK, prediction_id="a", label="hate")
        assert await archive.write([feedback, feedback]) == {}
        assert await archive.find("a") == {
            "_id": "a",
            "ts": NOW,
            "text": "wörds",
            "scores": {"hate": 0.25},
        }
        assert await archive.find("unknown") is None

    with_archive(uri, test)
    assert database["predictions"].count_documents({}) == 2
    assert list(database["feedback"].find()) == [
        {"_id": "f", "ts": NOW, "prediction_id": "a", "label": "hate"}
    ]


def test_indexes_follow_the_settings(uri: str, database: Database[Documents]) -> None:
    def expiry(ttl: timedelta | None) -> list[int | None]:
        with_archive(uri, lambda archive: archive.prepare(), ttl=ttl)
        with_archive(uri, lambda archive: archive.prepare(), ttl=ttl)
        indexes = [database[name].index_information() for name in ("predictions", "feedback")]
        assert [set(each) for each in indexes] == [
            {"_id_", "ts", "request_id"},
            {"_id_", "ts", "prediction_id"},
        ]
        return [each["ts"].get("expireAfterSeconds") for each in indexes]

    assert expiry(None) == [None, None]
    assert expiry(timedelta(days=1)) == [86_400, 86_400]
    assert expiry(timedelta(days=2)) == [172_800, 172_800]
    assert expiry(None) == [None, None]


def test_every_collection_is_written_with_the_concern_majority(uri: str) -> None:
    """Whatever the URI says: a write that one member has can be lost with it."""

    async def test(archive: MongoArchive) -> None:
        for name in INDEXES:
            assert archive.collection(name).write_concern == WriteConcern("majority")

    with_archive(f"{uri}?w=1", test)


def test_an_erasure_leaves_tombstones_that_no_copy_replaces(
    uri: str, database: Database[Documents]
) -> None:
    async def test(archive: MongoArchive) -> None:
        prediction = row(1, "a", text="secret", client="bob")
        sent = row(2, "f", RecordType.FEEDBACK, prediction_id="a", label="hate", comment="secret")
        unsent = row(3, "g", RecordType.FEEDBACK, prediction_id="a", label="hate", comment="secret")
        await archive.write([prediction, sent, row(4, "b", text="stays")])
        erasure = row(5, "a", RecordType.ERASURE, feedback=["g"])
        elsewhere = row(6, "h", RecordType.FEEDBACK, prediction_id="a", client="bob")
        for _ in range(2):
            assert await archive.write([erasure]) == {}
            assert await archive.write([prediction, sent, unsent]) == {}  # late copies
            assert await archive.write([elsewhere]) == {}  # of a replica that did not erase
        assert await archive.find("a") is None
        assert await archive.find("b") is not None

    with_archive(uri, test)
    assert database["predictions"].find_one({"_id": "a"}) == {"_id": "a", "ts": NOW, "erased": True}
    everything = [*database["predictions"].find(), *database["feedback"].find()]
    assert len(everything) == 5
    assert "secret" not in str(everything)
    assert "bob" not in str(everything)


def test_only_the_document_that_bson_cannot_hold_is_refused(
    uri: str, database: Database[Documents]
) -> None:
    async def test(archive: MongoArchive) -> None:
        rows = [row(i, str(i), number=2**70 if i == 3 else i) for i in range(8)]
        assert await archive.write(rows) == {
            3: "it cannot be written as BSON (OverflowError)",
        }

    with_archive(uri, test)
    assert {each["_id"] for each in database["predictions"].find()} == set("0124567")


def test_only_the_document_that_the_server_refuses_fails_and_it_is_not_quoted(
    uri: str, database: Database[Documents]
) -> None:
    database.create_collection("predictions", validator={"text": {"$ne": "forbidden"}})

    async def test(archive: MongoArchive) -> None:
        rows = [row(i, str(i), text="forbidden" if i == 3 else "fine") for i in range(8)]
        assert await archive.write(rows) == {
            3: "MongoDB's error 121 (DocumentValidationFailure): "
            "remove the validator of the collection"
        }

    with_archive(uri, test)
    assert database["predictions"].count_documents({}) == 7


def fail(server: MongoServer, mode: str, **data: Any) -> None:
    data["failCommands"] = ["update"]
    with MongoClient(server.uri) as client:
        client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"writeConcernError": {"code": 64, "errmsg": "waiting"}}, "by a majority"),
        ({"closeConnection": True}, "does not answer"),
        ({"errorCode": 50}, "answers with error 50"),
    ],
)
def test_an_unconfirmed_write_does_not_count_as_stored(
    own: MongoServer, fault: Documents, message: str
) -> None:
    async def test(archive: MongoArchive) -> None:
        await archive.prepare()
        fail(own, "alwaysOn", **fault)
        with pytest.raises(ArchiveError, match=message) as caught:
            await archive.write([row(1, "a")])
        assert not isinstance(caught.value, ArchiveRefusedError)
        fail(own, "off")
        assert await archive.write([row(1, "a")]) == {}

    with_archive(own.uri + "faults", test)


def test_an_unreachable_server_is_reported_without_the_password() -> None:
    port = free_port()

    async def test(archive: MongoArchive) -> None:
        started = time.monotonic()
        with pytest.raises(ArchiveError, match=f"127.0.0.1:{port} does not answer") as caught:
            await archive.find("a")
        assert not isinstance(caught.value, ArchiveRefusedError)
        assert PASSWORD not in str(caught.value)
        assert time.monotonic() - started < 6

    with_archive(f"mongodb://bob:{PASSWORD}@127.0.0.1:{port}/", test)


@pytest.mark.parametrize(
    ("error", "refused", "message"),
    [
        (
            OperationFailure("a text", 73, {"code": 73, "codeName": "InvalidNamespace"}),
            True,
            "answers with error 73 (InvalidNamespace), which no retry mends: choose another name",
        ),
        (
            OperationFailure("a text", 20, {"code": 20}),
            True,
            "answers with error 20 (IllegalOperation), which no retry mends: add retryWrites=false",
        ),
        (
            OperationFailure("a text", 13, {"code": 13, "codeName": "Unauthorized"}),
            True,
            "(error 13, Unauthorized): give it the role readWrite",
        ),
        (
            OperationFailure("a text", 50, {"code": 50, "codeName": "MaxTimeMSExpired"}),
            False,
            "answers with error 50 (MaxTimeMSExpired): if it stays, look at MongoDB's own log",
        ),
        (
            NotPrimaryError("a text", {"code": 10107, "codeName": "NotWritablePrimary"}),
            False,
            "answers with error 10107 (NotWritablePrimary): if it stays, name the whole replica",
        ),
        (ConfigurationError("a wire version"), True, "cannot be used: a wire version; correct"),
        (
            ServerSelectionTimeoutError("SSL handshake failed: h:1: certificate verify failed"),
            False,
            "cannot be reached by TLS: SSL handshake failed",
        ),
        (AutoReconnect("Connection refused"), False, "does not answer: Connection refused"),
    ],
    ids=lambda value: getattr(value, "_message", None) or type(value).__name__,
)
def test_an_error_is_named_with_what_to_do(
    error: PyMongoError, refused: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(AsyncIOMotorCollection, "find_one", fail)

    async def test(archive: MongoArchive) -> None:
        with pytest.raises(ArchiveError) as caught:
            await archive.find("a")
        assert message in str(caught.value)
        assert isinstance(caught.value, ArchiveRefusedError) == refused
        assert "127.0.0.1" not in caught.value.state

    with_archive("mongodb://127.0.0.1:1/", test)


def test_a_server_that_hangs_is_given_up(own: MongoServer) -> None:
    async def test(archive: MongoArchive) -> None:
        await archive.write([row(1, "a")])
        own.freeze()
        try:
            started = time.monotonic()
            with pytest.raises(ArchiveError, match="does not answer"):
                await archive.find("a")
            assert time.monotonic() - started < 8
            with pytest.raises(ArchiveError, match="does not answer"):
                await archive.write([row(2, "b")])
            assert time.monotonic() - started < 30
        finally:
            own.thaw()
        assert await archive.write([row(2, "b")]) == {}

    with_archive(own.uri + "hang", test)


def test_wrong_credentials_are_reported_as_such(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with MongoServer(tmp_path) as server:
        with MongoClient(server.uri) as client:
            roles = [{"role": "readWrite", "db": "tweets"}]
            client["admin"].command("createUser", "bob", pwd=PASSWORD, roles=roles)
        server.stop()
        server.start("--auth")
        host = f"127.0.0.1:{server.port}"

        def refusal(uri: str) -> str:
            with pytest.raises(ArchiveRefusedError) as caught:
                with_archive(uri, lambda archive: archive.prepare())
            return str(caught.value)

        right = f"mongodb://bob:{PASSWORD}@{host}/tweets?authSource=admin"
        with_archive(right, lambda archive: archive.prepare())
        for wrong in (right.replace(PASSWORD, "wrong-horse"), right.replace("bob", "eve")):
            message = refusal(wrong)
            assert "does not accept the user" in message
            assert "horse" not in message
        assert "a client without a user name" in refusal(f"mongodb://{host}/tweets")
    assert "horse" not in caplog.text


@pytest.mark.parametrize(
    "uri",
    [
        "localhost:27017",
        "http://localhost",
        "mongodb://",
        "mongodb://localhost:99999",
        "mongodb://localhost/?tlss=true",
        "mongodb://localhost/?authMechanism=MAGIC",
        "mongodb://bob:correct-horse/staple@localhost/",
        "mongodb://bob:correct-horse@staple@localhost/",
        "mongodb+srv://bob:correct-horse%@cluster.example.org/",
        "mongodb+srv://bob:correct-horse@cluster.example.org:27017/",
        "mongodb+srv://bob:correct-horse@cluster.example.org,staple.example.org/",
    ],
)
def test_a_malformed_uri_is_refused_without_showing_a_password(uri: str, tmp_path: Path) -> None:
    settings = Settings(mongodb_uri=uri, outbox=tmp_path / "outbox.db")
    with pytest.raises(ArchiveRefusedError, match="MONGODB_URI is malformed") as caught:
        create_log(settings)
    assert "horse" not in str(caught.value)
    assert "staple" not in str(caught.value)
    assert "horse" not in repr(settings)


@pytest.mark.parametrize("uri", ["mongodb://h/a.b", "mongodb+srv://bob:horse@h.x.y/a.b?tls=true"])
def test_a_database_with_a_dot_is_refused(uri: str, tmp_path: Path) -> None:
    settings = Settings(mongodb_uri=uri, outbox=tmp_path / "outbox.db")
    with pytest.raises(ArchiveRefusedError, match="a database with a dot; wanted a name") as caught:
        create_log(settings)
    assert "horse" not in str(caught.value)


def test_a_certificate_that_is_missing_is_named(tmp_path: Path) -> None:
    uri = f"mongodb://bob:horse@localhost/?tls=true&tlsCAFile={tmp_path / 'ca.pem'}"
    settings = Settings(mongodb_uri=uri, outbox=tmp_path / "outbox.db")
    with pytest.raises(ArchiveRefusedError, match=r"ca\.pem: No such file") as caught:
        create_log(settings)
    assert "horse" not in str(caught.value)


def test_an_unresolved_srv_address_is_not_malformed() -> None:
    async def test(archive: MongoArchive) -> None:
        with pytest.raises(ArchiveError) as caught:
            await archive.prepare()
        assert not isinstance(caught.value, ArchiveRefusedError)
        assert PASSWORD not in str(caught.value)

    with_archive(f"mongodb+srv://bob:{PASSWORD}@cluster.invalid/tweets", test)


def test_the_log_over_mongodb(tmp_path: Path, uri: str, database: Database[Documents]) -> None:
    async def run() -> None:
        outbox = Outbox(tmp_path / "outbox.db", max_bytes=PLENTY, ring=False)
        log = PredictionLog(outbox, MongoArchive(uri))
        await log.start()
        record = prediction()
        document = as_read(record)
        await log.append([record])
        assert await log.get(record.id) == document
        old = prediction(api="openai")
        await outbox.append(RecordType.PREDICTION, [as_written_by_0_1(old)])
        early = await log.feedback(record.id, "neither", None, None)
        async with asyncio.timeout(20):
            while (await outbox.stats()).rows:
                await asyncio.sleep(0.05)
        assert await log.get(record.id) == document
        assert await log.get(old.id) == as_read(old)
        assert await log.feedback(record.id, "neither", None, None) == early
        assert await log.feedback(record.id, "offensive", None, None)
        assert await log.feedback(new_id(), "offensive", None, None) is None
        assert await log.delete(record.id)
        assert await log.get(record.id) is None
        assert await log.delete(old.id)
        await log.close()

    asyncio.run(run())
    assert [each["erased"] for each in database["predictions"].find()] == [True, True]
    assert "wörds" not in str([*database["predictions"].find(), *database["feedback"].find()])
    assert all("label" not in each for each in database["feedback"].find())
