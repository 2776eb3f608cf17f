"""MongoDB as the archive; with serving.review.mongo the only module that knows Motor.

    predictions   one document per prediction, by its id; indexes on ts and request_id
    feedback      one document per feedback, by the hash of its content; indexes on ts and
                  prediction_id
    reviews       one document per reviewer and prediction; serving.review.mongo writes them, and an
                  erasure empties them; indexes on ts and prediction_id
    review_leases the items that reviewers have; MongoDB removes them an hour after they ran out

Writes are unordered bulks of upserts, confirmed by a majority; they never change a stored document.
An erasure leaves a tombstone, `{_id, ts, erased: true}`, without text, scores or client. A copy of
the prediction that arrives later (a retry, or from another host) finds the `_id` taken, so it
cannot undo the erasure. Feedback that arrives later is erased at once.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import pymongo
from bson.errors import BSONError
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo import ReadPreference, ReplaceOne, UpdateMany, UpdateOne, WriteConcern
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    DocumentTooLarge,
    InvalidName,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)
from pymongo.uri_parser import parse_uri

from serving.prediction_log.archive import ArchiveError, ArchiveRefusedError
from serving.prediction_log.outbox import OutboxRow
from serving.prediction_log.records import Document, RecordType, timestamp

DATABASE = "tweet_tagger"
WRITE_SECONDS = 10.0  # then a server that accepts connections and hangs counts as unreachable
READ_SECONDS = 2.0  # shorter: a caller waits for it
UNAUTHORIZED, AUTHENTICATION, ATLAS = 13, 18, 8000
NO_SUCH_INDEX = 27
# Errors that no retry mends, and what an operator has to do.
# https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
PERMANENT = {
    20: ("IllegalOperation", "add retryWrites=false to MONGODB_URI, or use a replica set"),
    59: ("CommandNotFound", "use a server that MongoDB's driver supports"),
    67: ("CannotCreateIndex", "look at the indexes that the collections have"),
    72: ("InvalidOptions", "look at the options in MONGODB_URI"),
    73: ("InvalidNamespace", "choose another name of the database in MONGODB_URI"),
    76: ("NoReplicationEnabled", "use a replica set, or a server without --replSet"),
    79: ("UnknownReplWriteConcern", "the replica set must know the write concern majority"),
    85: ("IndexOptionsConflict", "drop the index on ts of predictions and feedback"),
    86: ("IndexKeySpecsConflict", "drop the index of the same name"),
    100: ("UnsatisfiableWriteConcern", "give the replica set a majority of members with data"),
    115: ("CommandNotSupported", "use a server that has this command"),
    121: ("DocumentValidationFailure", "remove the validator of the collection"),
    166: ("CommandNotSupportedOnView", "predictions and feedback must not be views"),
    303: ("FeatureNotSupported", "use a server that has this feature"),
    323: ("APIStrictError", "remove the strict API from MONGODB_URI"),
}
# Errors that end by themselves or when somebody makes room, and what helps.
PASSING = {
    10107: ("NotWritablePrimary", "if it stays, name the whole replica set in MONGODB_URI"),
    13435: ("NotPrimaryNoSecondaryOk", "if it stays, name the whole replica set in MONGODB_URI"),
    14031: ("OutOfDiskSpace", "free the disk of MongoDB"),
    8000: ("AtlasError", "look at the limits of the cluster, such as its disk"),
}
INDEX_CONFLICTS = {85, 86}  # the index exists with other options
INDEXES = {
    "predictions": ("ts", "request_id"),
    "feedback": ("ts", "prediction_id"),
    "reviews": ("ts", "prediction_id"),
    "review_leases": ("until",),
}
FORGOTTEN = {"predictions", "feedback"}  # after the TTL of the settings; reviews are training data
LEASE_TTL_SECONDS = 3600
CANNOT_USE = (PyMongoError, ValueError, OSError)  # of a connection string
URI_FORMAT = "mongodb://[user:password@]host[:port][/database][?options], or mongodb+srv://…"

PERSONAL = ("text", "predicted", "label", "note", "reviewer", "language")  # of a review
PERSONAL_FEEDBACK = ("label", "comment", "client", "attributes")
ERASE_FEEDBACK = {"$set": {"erased": True}, "$unset": dict.fromkeys(PERSONAL_FEEDBACK, "")}
ERASE_REVIEW = {"$set": {"erased": True}, "$unset": dict.fromkeys(PERSONAL, "")}

Operation = UpdateOne | UpdateMany | ReplaceOne[Document]
T = TypeVar("T")


class _DocumentError(Exception):
    """A document in the message is at fault, not the server."""


class MongoArchive:
    """Predictions and feedback in a MongoDB database: the one in the URI, else `tweet_tagger`.

    Args:
        uri: the connection string.
        ttl: how long MongoDB keeps a document; None is forever.

    Raises:
        ArchiveRefusedError: the URI is malformed.
    """

    def __init__(self, uri: str, *, ttl: timedelta | None = None) -> None:
        parsed = _parse(uri)
        # At level debug the driver logs whole documents.
        logging.getLogger("pymongo").setLevel(logging.INFO)
        self._ttl = ttl
        self._is_srv = uri.startswith("mongodb+srv://")
        self._user: str | None = parsed["username"]
        self._password: str | None = parsed["password"]
        self._database: str = parsed["database"] or DATABASE
        self._hosts = ", ".join(f"{host}:{port}" for host, port in parsed["nodelist"])
        try:
            self._client: AsyncIOMotorClient[Document] = AsyncIOMotorClient(
                uri, tz_aware=True, appname="tweet-tagger", serverSelectionTimeoutMS=3000
            )
        except CANNOT_USE as error:  # such as a port in an SRV address
            raise _malformed(uri, error) from None

    async def prepare(self) -> None:
        """Create the indexes; replace those with another TTL. Raises ArchiveError."""
        for collection, keys in INDEXES.items():
            for key in keys:
                await self.call(WRITE_SECONDS, partial(self._create_index, collection, key))

    async def ping(self) -> None:
        """Raise ArchiveError if MongoDB does not answer."""
        await self.call(READ_SECONDS, lambda: self._client.admin.command("ping"))

    async def write(self, rows: Sequence[OutboxRow]) -> dict[int, str]:
        """Upsert rows; return the reason for each refused `seq`. Raises ArchiveError."""
        operations: dict[str, list[tuple[int, Operation]]] = {name: [] for name in INDEXES}
        for row in rows:
            for collection, operation in _operations(row):
                operations[collection].append((row.seq, operation))
        refused: dict[int, str] = {}
        for collection, pairs in operations.items():
            if pairs:
                refused |= await self._bulk_write(collection, pairs)
        about = [row.document["prediction_id"] for row in rows if row.type is RecordType.FEEDBACK]
        if about:
            await self._erase_late_feedback(about)
        return refused

    async def _erase_late_feedback(self, prediction_ids: list[str]) -> None:
        """Erase feedback on predictions that were erased, perhaps by another replica, before it
        came here. An erasure that comes later finds it.
        """
        query = {"_id": {"$in": prediction_ids}, "erased": True}
        predictions = self.collection("predictions")
        erased = await self.call(
            READ_SECONDS, lambda: predictions.find(query, {"_id": 1}).to_list(length=None)
        )
        if erased:
            late = {"prediction_id": {"$in": [each["_id"] for each in erased]}}
            feedback = self.collection("feedback")
            await self.call(WRITE_SECONDS, lambda: feedback.update_many(late, ERASE_FEEDBACK))

    async def find(self, prediction_id: str) -> Document | None:
        """Return a prediction; None if it is unknown or erased. Raises ArchiveError."""
        query = {"_id": prediction_id, "erased": {"$exists": False}}
        predictions = self.collection("predictions")
        return await self.call(READ_SECONDS, lambda: predictions.find_one(query))

    async def has_reviews(self, prediction_id: str) -> bool:
        """Return whether a prediction has reviews that are not erased. Raises ArchiveError."""
        query = {"prediction_id": prediction_id, "erased": {"$exists": False}}
        reviews = self.collection("reviews")
        return (
            await self.call(READ_SECONDS, lambda: reviews.find_one(query, {"_id": 1})) is not None
        )

    async def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def collection(self, name: str) -> AsyncIOMotorCollection[Document]:
        """Return a collection, to be used inside of `call`."""
        return self._client.get_database(self._database).get_collection(
            name,
            write_concern=WriteConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )

    async def _create_index(self, collection: str, key: str) -> None:
        options: dict[str, Any] = {"name": key}
        if key == "ts" and self._ttl and collection in FORGOTTEN:
            options["expireAfterSeconds"] = int(self._ttl.total_seconds())
        if key == "until":
            options["expireAfterSeconds"] = LEASE_TTL_SECONDS
        documents = self.collection(collection)
        try:
            await documents.create_index([(key, 1)], **options)
        except OperationFailure as error:
            if error.code not in INDEX_CONFLICTS:
                raise
            try:
                await documents.drop_index(key)
            except OperationFailure as missing:  # another service has just dropped it
                if missing.code != NO_SUCH_INDEX:
                    raise
            await documents.create_index([(key, 1)], **options)

    async def aggregate(
        self, collection: str, stages: Sequence[Document], seconds: float
    ) -> list[Document]:
        """Return all documents that an aggregation yields. Raises ArchiveError."""
        documents = self.collection(collection)
        return await self.call(
            seconds, lambda: documents.aggregate(list(stages)).to_list(length=None)
        )

    async def _bulk_write(
        self, collection: str, pairs: list[tuple[int, Operation]]
    ) -> dict[int, str]:
        """Write (seq, operation) pairs; return the reason for each refused `seq`."""
        operations = [operation for _, operation in pairs]
        try:
            await self.call(
                WRITE_SECONDS,
                lambda: self.collection(collection).bulk_write(operations, ordered=False),
            )
        except _DocumentError as error:
            # One such document fails the whole message; halving finds it and sends the others.
            if len(pairs) == 1:
                return {pairs[0][0]: str(error)}
            half = len(pairs) // 2
            refused = await self._bulk_write(collection, pairs[:half])
            return refused | await self._bulk_write(collection, pairs[half:])
        except BulkWriteError as error:
            details = error.details or {}
            if concerns := details.get("writeConcernErrors"):
                text, _ = _describe(concerns[0].get("code"), concerns[0].get("codeName"))
                state = "did not confirm the write by a majority"
                raise ArchiveError(self._message(f"{state}: {text}"), state) from None
            # Only the error's code: its text may quote the document.
            return {
                pairs[failure["index"]][0]: "MongoDB's " + ": ".join(_describe(failure.get("code")))
                for failure in details.get("writeErrors", [])
            }
        return {}

    async def call(self, seconds: float, call: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a call to MongoDB; turn the driver's errors into ours.

        Raises:
            ArchiveError: there is no result within `seconds`.
            _DocumentError: a document cannot be written as BSON.
            BulkWriteError: some documents were refused.
        """
        try:
            with pymongo.timeout(seconds):
                return await call()
        except BulkWriteError:
            raise
        except (BSONError, DocumentTooLarge, OverflowError) as error:
            raise _DocumentError(f"it cannot be written as BSON ({type(error).__name__})") from None
        except (OperationFailure, NotPrimaryError) as error:
            raise self._archive_error(error) from None
        except PyMongoError as error:
            raise self._no_answer(error) from None

    def _no_answer(self, error: PyMongoError) -> ArchiveError:
        """Return the error for a server that did not get as far as an answer to a command."""
        # ServerSelectionTimeoutError lists every host and topology after its first clause.
        reason = str(error).split(", Timeout:")[0].split(" (configured timeouts:")[0]
        if self._password:
            reason = reason.replace(self._password, "…")
        reason = reason[:200]
        if isinstance(error, ConfigurationError | InvalidName):
            if self._is_srv:  # a name server that is down looks like a name that does not exist
                state = "has an address that cannot be resolved"
                return ArchiveError(self._message(f"{state}: {reason}"), state)
            state = "cannot be used"
            return ArchiveRefusedError(
                self._message(f"{state}: {reason}; correct MONGODB_URI"), state
            )
        if "replica set" in reason.lower():
            state = "is not the replica set of MONGODB_URI"
            return ArchiveError(self._message(f"{state}: {reason}"), state)
        if "SSL" in reason or "certificate" in reason:
            state = "cannot be reached by TLS"
            message = f"{state}: {reason}; look at its certificate and at tls… in MONGODB_URI"
            return ArchiveError(self._message(message), state)
        return ArchiveError(self._message(f"does not answer: {reason}"))

    def _archive_error(self, error: OperationFailure | NotPrimaryError) -> ArchiveError:
        """Return the error for a server that answered with one."""
        details = error.details if isinstance(error.details, dict) else {}
        code = details.get("code") or getattr(error, "code", None)
        if code == AUTHENTICATION or (code == ATLAS and "auth" in str(error)):
            text = (
                f"does not accept the user {self._user!r} with the password in MONGODB_URI "
                f"(error {code}): correct them, or add authSource=…"
            )
            return ArchiveRefusedError(self._message(text), "does not accept our user")
        if code == UNAUTHORIZED:
            user = f"the user {self._user!r}" if self._user else "a client without a user name"
            text = (
                f"does not allow {user} to write to the database {self._database!r} "
                f"(error {code}, Unauthorized): give it the role readWrite there"
            )
            return ArchiveRefusedError(self._message(text), "does not allow our user to write")
        text, advice = _describe(code, details.get("codeName"))
        state = f"answers with {text}"
        if code in PERMANENT:
            message = f"{state}, which no retry mends: {advice}"
            return ArchiveRefusedError(self._message(message), state)
        return ArchiveError(self._message(f"{state}: {advice}"), state)

    def _message(self, predicate: str) -> str:
        return f"MongoDB at {self._hosts} {predicate}"


def _describe(code: int | None, name: str | None = None) -> tuple[str, str]:
    """Return an error's code and name, and what to do; never its text, which may quote a row."""
    known, advice = (PERMANENT | PASSING).get(
        code or 0, ("", "if it stays, look at MongoDB's own log")
    )
    name = name or known
    return f"error {code}{f' ({name})' if name else ''}", advice


def _operations(row: OutboxRow) -> list[tuple[str, Operation]]:
    """Return the (collection, operation) pairs that store a row; they can be repeated safely."""
    document = dict(row.document)
    document["ts"] = timestamp(document["ts"])
    if row.type is RecordType.ERASURE:
        feedback_ids = document.pop("feedback")
        tombstone = document | {"erased": True}
        return [
            ("predictions", ReplaceOne({"_id": tombstone["_id"]}, tombstone, upsert=True)),
            ("feedback", UpdateMany({"prediction_id": tombstone["_id"]}, ERASE_FEEDBACK)),
            ("reviews", UpdateMany({"prediction_id": tombstone["_id"]}, ERASE_REVIEW)),
            *(
                ("feedback", ReplaceOne({"_id": id_}, tombstone | {"_id": id_}, upsert=True))
                for id_ in feedback_ids
            ),
        ]
    collection = "predictions" if row.type is RecordType.PREDICTION else "feedback"
    query = {"_id": document.pop("_id")}
    return [(collection, UpdateOne(query, {"$setOnInsert": document}, upsert=True))]


def _parse(uri: str) -> dict[str, Any]:
    """Return the parts of a connection string without a connection to any server.

    If the string holds a password, neither the string nor the driver's message is shown: if the
    password is not percent-encoded, parts of it can be anywhere in them.
    """
    # The SRV form is resolved at the first use: a name server may be unreachable at the start.
    plain = uri.replace("mongodb+srv://", "mongodb://", 1)
    try:
        parsed = dict(parse_uri(plain, validate=True, warn=False))
    except CANNOT_USE as error:
        raise _malformed(uri, error) from None
    if parsed["collection"]:
        raise ArchiveRefusedError(
            "MONGODB_URI names a database with a dot; wanted a name without one, as the driver "
            "takes what follows the dot for a collection"
        )
    return parsed


def _malformed(uri: str, error: Exception) -> ArchiveRefusedError:
    """Return the error of a connection string that cannot be used; see `_parse`."""
    if isinstance(error, OSError) and error.filename:  # of tlsCAFile and the like
        return ArchiveRefusedError(
            f"MONGODB_URI names a file that cannot be read: {error.filename}: {error.strerror}"
        )
    reason = "" if "@" in uri else f" ({error})"
    return ArchiveRefusedError(
        f"MONGODB_URI is malformed{reason}: wanted {URI_FORMAT}, user and password percent-encoded"
    )
