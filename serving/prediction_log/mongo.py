"""MongoDB as the archive: the one module that knows Motor.

    predictions   a document a prediction, by its id; indexes on ts and request_id
    feedback      a document a judgement, by the hash of what it says; indexes on ts, prediction_id

Writes are unordered bulks of upserts that never change a document which is there, confirmed by a
majority. An erased document leaves a tombstone, `{_id, ts, erased: true}`, without text, scores or
client: a copy of the prediction that is still under way (a retry, another host) finds the `_id`
taken and cannot bring it back.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import pymongo
from bson.errors import BSONError
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo import ReadPreference, ReplaceOne, UpdateMany, UpdateOne, WriteConcern
from pymongo.errors import BulkWriteError, DocumentTooLarge, OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from serving.prediction_log.archive import ArchiveError, ArchiveRefusedError
from serving.prediction_log.outbox import Record, RecordType, Row

DATABASE = "tweet_tagger"
WRITE_SECONDS = 10.0  # a server that accepts and hangs is given up then
READ_SECONDS = 2.0  # a caller waits for it
UNAUTHORIZED, AUTHENTICATION, ATLAS = 13, 18, 8000
INDEX_CONFLICTS = {85, 86}  # the index is there with other options
INDEXES = {"predictions": ("ts", "request_id"), "feedback": ("ts", "prediction_id")}
FORM = "mongodb://[user:password@]host[:port][/database][?options], or mongodb+srv://…"
EPOCH = datetime.fromtimestamp(0, UTC)

Document = dict[str, Any]
T = TypeVar("T")


class _DocumentError(Exception):
    """One document of a message, not the server, is at fault."""


class MongoArchive:
    """Predictions and feedback in a MongoDB database: the URI's, else `tweet_tagger`.

    Args:
        uri: the connection string.
        ttl: how long MongoDB keeps a document; None is for ever.

    Raises:
        ArchiveRefusedError: the URI is malformed.
    """

    def __init__(self, uri: str, *, ttl: timedelta | None = None) -> None:
        parsed = _parse(uri)
        # At level debug the driver writes whole documents into the service's log.
        logging.getLogger("pymongo").setLevel(logging.INFO)
        self._ttl = ttl
        self._user: str | None = parsed["username"]
        self._password: str | None = parsed["password"]
        self._database: str = parsed["database"] or DATABASE
        self._hosts = ", ".join(f"{host}:{port}" for host, port in parsed["nodelist"])
        self._client: AsyncIOMotorClient[Document] = AsyncIOMotorClient(
            uri, tz_aware=True, appname="tweet-tagger", serverSelectionTimeoutMS=3000
        )

    async def prepare(self) -> None:
        """Make the indexes, in place of those with another TTL. Raises ArchiveError."""
        for name, keys in INDEXES.items():
            for key in keys:
                await self._exchange(WRITE_SECONDS, partial(self._index, name, key))

    async def write(self, rows: Sequence[Row]) -> dict[int, str]:
        """Upsert rows; return why which `seq` was refused. Raises ArchiveError."""
        operations: dict[str, list[tuple[int, Any]]] = {name: [] for name in INDEXES}
        for row in rows:
            for collection, operation in _operations(row):
                operations[collection].append((row.seq, operation))
        refused: dict[int, str] = {}
        for collection, pairs in operations.items():
            if pairs:
                refused |= await self._bulk(collection, pairs)
        return refused

    async def find(self, key: str) -> Record | None:
        """Return a prediction; None if it is unknown or erased. Raises ArchiveError."""
        wanted = {"_id": key, "erased": {"$exists": False}}
        predictions = self._collection("predictions")
        return await self._exchange(READ_SECONDS, lambda: predictions.find_one(wanted))

    async def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _collection(self, name: str) -> AsyncIOMotorCollection[Document]:
        return self._client.get_database(self._database).get_collection(
            name,
            write_concern=WriteConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )

    async def _index(self, collection: str, key: str) -> None:
        options: dict[str, Any] = {"name": key}
        if key == "ts" and self._ttl:
            options["expireAfterSeconds"] = int(self._ttl.total_seconds())
        documents = self._collection(collection)
        try:
            await documents.create_index([(key, 1)], **options)
        except OperationFailure as error:
            if error.code not in INDEX_CONFLICTS:
                raise
            await documents.drop_index(key)
            await documents.create_index([(key, 1)], **options)

    async def _bulk(self, collection: str, pairs: list[tuple[int, Any]]) -> dict[int, str]:
        operations = [operation for _, operation in pairs]
        try:
            await self._exchange(
                WRITE_SECONDS,
                lambda: self._collection(collection).bulk_write(operations, ordered=False),
            )
        except _DocumentError as error:
            # It spoils the whole message; halving finds it, and the others get through.
            if len(pairs) == 1:
                return {pairs[0][0]: str(error)}
            half = len(pairs) // 2
            first = await self._bulk(collection, pairs[:half])
            return first | await self._bulk(collection, pairs[half:])
        except BulkWriteError as error:
            details = error.details or {}
            if details.get("writeConcernErrors"):
                raise ArchiveError(self._say("has no majority that confirms the write")) from None
            # Of the server's answer only the code: its text may quote the document.
            return {
                pairs[wrong["index"]][0]: f"MongoDB's error {wrong.get('code')}"
                for wrong in details.get("writeErrors", [])
            }
        return {}

    async def _exchange(self, seconds: float, call: Callable[[], Awaitable[T]]) -> T:
        """Return an answer that comes in time; else raise one of our own errors."""
        try:
            with pymongo.timeout(seconds):
                return await call()
        except BulkWriteError:
            raise
        except (BSONError, DocumentTooLarge, OverflowError) as error:
            raise _DocumentError(f"it cannot be written as BSON ({type(error).__name__})") from None
        except OperationFailure as error:
            raise self._refusal(error) from None
        except PyMongoError as error:
            # ServerSelectionTimeoutError lists every host and topology after its first clause.
            reason = str(error).split(", Timeout:")[0].split(" (configured timeouts:")[0]
            if self._password:
                reason = reason.replace(self._password, "…")
            raise ArchiveError(self._say(f"does not answer: {reason[:200]}")) from None

    def _refusal(self, error: OperationFailure) -> ArchiveError:
        if error.code == AUTHENTICATION or (error.code == ATLAS and "auth" in str(error)):
            text = f"does not know the user {self._user!r} with the password that MONGODB_URI gives"
            return ArchiveRefusedError(self._say(text))
        if error.code == UNAUTHORIZED:
            who = f"the user {self._user!r}" if self._user else "somebody without a user name"
            text = f"does not let {who} write to the database {self._database!r}"
            return ArchiveRefusedError(self._say(text))
        return ArchiveError(self._say(f"answers with error {error.code}"))

    def _say(self, what: str) -> str:
        return f"MongoDB at {self._hosts} {what}"


def _operations(row: Row) -> list[tuple[str, Any]]:
    """Return (collection, operation) pairs that carry a row over, however often they are done."""
    document = dict(row.record)
    document["ts"] = EPOCH + timedelta(milliseconds=document["ts"])
    if row.kind is RecordType.ERASURE:
        feedback = document.pop("feedback")
        tombstone = document | {"erased": True}
        gone = {"$set": {"erased": True}, "$unset": dict.fromkeys(("label", "comment", "client"))}
        return [
            ("predictions", ReplaceOne({"_id": tombstone["_id"]}, tombstone, upsert=True)),
            ("feedback", UpdateMany({"prediction_id": tombstone["_id"]}, gone)),
            *(
                ("feedback", ReplaceOne({"_id": one}, tombstone | {"_id": one}, upsert=True))
                for one in feedback
            ),
        ]
    collection = "predictions" if row.kind is RecordType.PREDICTION else "feedback"
    key = {"_id": document.pop("_id")}
    return [(collection, UpdateOne(key, {"$setOnInsert": document}, upsert=True))]


def _parse(uri: str) -> dict[str, Any]:
    """Return a connection string's parts, without asking any server.

    Neither the string nor what the driver says of it is shown if it holds a password: unescaped,
    a part of that can be anywhere in it.
    """
    # The SRV form is resolved when it is used: a name server that is away is no bad input.
    plain = uri.replace("mongodb+srv://", "mongodb://", 1)
    try:
        return dict(parse_uri(plain, validate=True, warn=False))
    except (PyMongoError, ValueError) as error:
        why = "" if "@" in uri else f" ({error})"
        raise ArchiveRefusedError(
            f"MONGODB_URI is malformed{why}: wanted {FORM}, user and password percent-encoded"
        ) from None
