"""The prediction log as a source: read it, apply the rule, write a table.

    MongoDB, or an outbox file -> LogDocuments -> training_rows -> NAME.parquet, NAME.log.json

Reading changes nothing: MongoDB gets queries only, and the outbox is opened read-only, also while
the service writes to it. Neither file says who labelled a text.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from training.config import ENVIRONMENT, MONGODB, Source
from training.data.dedup import text_id
from training.data.log_rule import (
    JOINT,
    REASONS,
    Agreement,
    LogDocuments,
    LogRow,
    training_rows,
)
from training.data.normalize import build_normalizer, words
from training.errors import DataError
from training.files import atomic_write, read_json, write_json
from training.partial_labels import LABELS, LEARNED_ATTRIBUTES
from training.paths import RAW

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.collection import Collection
    from pymongo.errors import PyMongoError

Document = dict[str, Any]

# The newest of reviews and of feedback that are read: 500,000 take about 1 GB of memory.
MAX_DOCUMENTS = 500_000
IDS_AT_ONCE = 1000  # of a query for predictions
DATABASE = "tweet_tagger"  # where the address names none, as in the service
SERVER_S = 5.0  # without a server that answers
REPLY_S = 60.0  # for a reply of a server that has answered before
UNAUTHORIZED, AUTHENTICATION, ATLAS = 13, 18, 8000
# Of an outbox: the newest schema that is known. `kind` is 0 of predictions, 1 of feedback, 2 of
# erasures; an older file has no table of reviews.
OUTBOX_SCHEMA = 2
NEWEST_REVIEWS = """SELECT id, prediction_id, body FROM review
    ORDER BY json_extract(body, '$.ts') DESC LIMIT ?"""
NEWEST_FEEDBACK = "SELECT body FROM log WHERE kind = 1 ORDER BY seq DESC LIMIT ?"
ERASED = "SELECT id FROM log WHERE kind = 2"
FIELDS = {
    "reviews": ("prediction_id", "reviewer", "label", "text", "ts", "erased"),
    "feedback": ("prediction_id", "client", "label", "attributes", "ts", "erased"),
}


def log_files(name: str) -> tuple[Path, Path]:
    """Return the files of a log in data/raw/: its rows, and what entered and was refused."""
    return RAW / f"{name}.parquet", RAW / f"{name}.log.json"


def write_log(name: str, source: Source) -> None:
    """Write the files of a log to data/raw/; an empty log has no rows.

    Raises:
        DataError: the log cannot be read; the text names the source, what was got and wanted.
    """
    with _naming(name):
        documents = read_log(_address(source.uri))
    normalizer = build_normalizer()
    rows, counts = training_rows(
        documents,
        Agreement(source.agreeing_clients, source.max_client_share),
        lambda text: text_id(found) if (found := words(normalizer.normalize_str(text))) else "",
    )
    table, report = log_files(name)
    with atomic_write(table) as scratch:
        _frame(rows).to_parquet(scratch, index=False)
    write_json(report, counts)


def read_log(address: str) -> LogDocuments:
    """Return the documents of a log: a MongoDB address, or the path of an outbox.

    Raises:
        DataError: it cannot be read. The text never has a password.
    """
    return _read_mongodb(address) if MONGODB.match(address) else _read_outbox(Path(address))


def log_text(name: str, counts: Mapping[str, Any]) -> str:
    """Return what entered from a log and what was refused, for the terminal."""
    texts, reviews, feedback = counts["texts"], counts["reviews"], counts["feedback"]
    lines = [
        f"log {name}: {texts['by_reviewers']} texts by reviewers, {texts['by_clients']} by clients"
    ]
    if not any(texts.values()):
        lines[0] += "; it contributes nothing"
    entered = (
        ("reviews", reviews, f"{reviews['entered']} entered"),
        (
            "feedback",
            feedback,
            f"{feedback['agreed']} agreed, {feedback['confirmed']} confirmed by reviewers",
        ),
    )
    for kind, part, text in entered:
        lines.append(f"  {kind:<8} {part['read']} read, {text}")
        lines += [f"{number:>10} {REASONS[why]}" for why, number in part["refused"].items()]
    lines.append("  texts    " + ", ".join(f"{n} {what}" for what, n in counts["rows"].items()))
    return "\n".join(lines)


def _address(uri: str) -> str:
    """Return the address that a `uri` of sources.yaml means; DataError if it is not set."""
    variable = ENVIRONMENT.fullmatch(uri)
    if variable is None:
        return uri
    if address := os.environ.get(variable[1]):
        return address
    raise DataError(
        f"got no environment variable {variable[1]}, wanted mongodb://… or a path in it"
    )


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"configs/sources.yaml: {name}: uri: {error}") from None


def log_report(name: str) -> dict[str, Any]:
    """Return what `write_log` counted. Raises ArtifactError."""
    report: dict[str, Any] = read_json(log_files(name)[1])
    return report


def _frame(rows: Iterable[LogRow]) -> pd.DataFrame:
    """Return the table that `read_source` reads with the columns of LOG_COLUMNS."""
    records = [
        {
            "text": row.text,
            "label": JOINT.join(label for label in LABELS if label in row.labels),
            **{f"{label}_votes": votes for label, votes in zip(LABELS, row.votes, strict=True)},
            **{name: row.attributes.get(name) for name in LEARNED_ATTRIBUTES},
        }
        for row in rows
    ]
    votes = dict.fromkeys([f"{label}_votes" for label in LABELS], "int64")
    shares = dict.fromkeys(LEARNED_ATTRIBUTES, "float64")
    columns = ["text", "label", *votes, *shares]
    return pd.DataFrame(records, columns=columns).astype(votes | shares)


def _read_outbox(path: Path) -> LogDocuments:
    wanted = "the file of a service's outbox (TAGGER_OUTBOX)"
    if not path.is_file():
        raise DataError(f"{path}: got no such file, wanted {wanted}")
    try:
        with closing(_open(path)) as db:
            db.execute("BEGIN")  # all queries see the same state, while the service writes
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if "log" not in tables:
                raise DataError(f"{path}: got a database without the table log, wanted {wanted}")
            if version > OUTBOX_SCHEMA:
                raise DataError(
                    f"{path}: got schema {version}, of a newer version, wanted {OUTBOX_SCHEMA} or "
                    "older; train with the version that wrote it"
                )
            return _documents_of_outbox(db, has_reviews="review" in tables)
    except (sqlite3.Error, ValueError) as error:
        raise DataError(f"{path}: got {error}, wanted {wanted}") from None


def _open(path: Path) -> sqlite3.Connection:
    """Open a database read-only; without leave to write beside it too, if nobody has it open."""
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    db = sqlite3.connect(address, uri=True, timeout=SERVER_S, isolation_level=None)
    try:
        db.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError:
        db.close()
        # A write-ahead log needs a file beside it. Without one nothing is missing from the file.
        if path.with_name(f"{path.name}-wal").exists():
            raise
        db = sqlite3.connect(f"{address}&immutable=1", uri=True, isolation_level=None)
    return db


def _documents_of_outbox(db: sqlite3.Connection, *, has_reviews: bool) -> LogDocuments:
    about = "SELECT about FROM log WHERE kind = 1"  # ids of predictions
    reviews: list[Document] = []
    not_read = {}
    if has_reviews:
        about += " UNION SELECT prediction_id FROM review"
        reviews = [
            {**json.loads(body), "_id": id_, "prediction_id": prediction}
            for id_, prediction, body in db.execute(NEWEST_REVIEWS, (MAX_DOCUMENTS,))
        ]
        not_read["reviews"] = _count(db, "review") - len(reviews)
    feedback = [json.loads(body) for (body,) in db.execute(NEWEST_FEEDBACK, (MAX_DOCUMENTS,))]
    not_read["feedback"] = _count(db, "log WHERE kind = 1") - len(feedback)
    texts = f"SELECT id, json_extract(body, '$.text') FROM log WHERE kind = 0 AND id IN ({about})"  # noqa: S608
    predictions = [{"_id": id_, "text": text} for id_, text in db.execute(texts)]
    predictions += [{"_id": id_, "erased": True} for (id_,) in db.execute(ERASED)]
    return LogDocuments(predictions, reviews, feedback, not_read)


def _count(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


def _read_mongodb(uri: str) -> LogDocuments:
    import pymongo
    from pymongo.errors import ConfigurationError, PyMongoError

    host = uri.partition("://")[2].rpartition("@")[2].partition("/")[0]
    try:
        client: MongoClient[Document] = pymongo.MongoClient(
            uri,
            tz_aware=True,
            appname="tweet-tagger-training",
            serverSelectionTimeoutMS=int(SERVER_S * 1000),
            connectTimeoutMS=int(SERVER_S * 1000),
            socketTimeoutMS=int(REPLY_S * 1000),
        )
    except (PyMongoError, ValueError, OSError) as error:
        if isinstance(error, ConfigurationError) and uri.startswith("mongodb+srv://"):
            raise DataError(f"MongoDB at {host}: got {error}, wanted a name with servers") from None
        # The driver's words may quote parts of a password that is not percent-encoded.
        reason = "" if "@" in uri else f" ({error})"
        raise DataError(
            f"got a MongoDB address that is malformed{reason}, wanted mongodb://[user:password@]"
            "host[:port]/database, user and password percent-encoded"
        ) from None
    with client:
        try:
            return _documents_of_mongodb(client)
        except PyMongoError as error:
            raise DataError(f"MongoDB at {host} {_mongodb_problem(error)}") from None


def _documents_of_mongodb(client: "MongoClient[Document]") -> LogDocuments:
    database = client.get_default_database(DATABASE)
    newest, not_read = {}, {}
    for kind, fields in FIELDS.items():
        newest[kind] = _newest(database[kind], fields)
        if len(newest[kind]) == MAX_DOCUMENTS:
            not_read[kind] = database[kind].count_documents({}) - MAX_DOCUMENTS
    ids = iter({document.get("prediction_id") for part in newest.values() for document in part})
    predictions: list[Document] = []
    # After the labels: what is erased in between is erased here too.
    while some := list(islice(ids, IDS_AT_ONCE)):
        query = {"_id": {"$in": some}}
        predictions += database["predictions"].find(query, {"text": 1, "erased": 1})
    return LogDocuments(predictions, newest["reviews"], newest["feedback"], not_read)


def _newest(collection: "Collection[Document]", fields: Iterable[str]) -> list[Document]:
    found = collection.find({}, dict.fromkeys(fields, 1)).sort("ts", -1).limit(MAX_DOCUMENTS)
    return [document | {"ts": _milliseconds(document.get("ts"))} for document in found]


def _milliseconds(ts: object) -> int:
    return int(ts.timestamp() * 1000) if isinstance(ts, datetime) else 0


def _mongodb_problem(error: "PyMongoError") -> str:
    """Return what a server, or its absence, says, and what was wanted."""
    from pymongo.errors import OperationFailure

    if not isinstance(error, OperationFailure):
        # The driver lists every host and topology after the first clause.
        reason = str(error).split(", Timeout:")[0].split(" (configured timeouts:")[0]
        return f"does not answer: got {reason[:200]}, wanted a server"
    if error.code == AUTHENTICATION or (error.code == ATLAS and "auth" in str(error)):
        return (
            f"does not accept the user: got error {error.code}, wanted the user's password in the "
            "address, and authSource=… if the user is of another database"
        )
    if error.code == UNAUTHORIZED:
        return f"does not allow reading: got error {error.code}, wanted a user with the role read"
    name = (error.details or {}).get("codeName")
    return (
        f"refuses a query: got error {error.code}{f' ({name})' if name else ''}, wanted documents"
    )
