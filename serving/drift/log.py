"""Rows of the prediction log, and its reviews, read from outside of the service.

MongoDB if it is set, else the outbox's file  ->  Window

Of a long log a sample is read, chosen by the last digits of the predictions' ids. They are random,
but the predictions of one request have ascending ids, so the digits are taken in the order of their
hash and not of their value.
"""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serving.drift.columns import DriftError, digest
from serving.prediction_log.archive import ArchiveError
from serving.prediction_log.records import Document, RecordType, milliseconds
from serving.settings import Settings

MAX_ROWS = 20_000
MAX_REVIEWS = 50_000  # the newest
ID_DIGITS = 32
DIGITS = 3  # of an id that decide whether its row is in the sample; so in OUTBOX_ROWS
READ_SECONDS = 60.0
CONNECT_SECONDS = 10.0  # for MongoDB's first answer
FIELDS = ("_id", "label", "scores", "language", "text")
REVIEW_FIELDS = ("prediction_id", "label", "reason", "weight", "predicted", "model_version")

OUTBOX_VERSIONS = """SELECT coalesce(json_extract(body, '$.model_version'), ''), count(*) FROM log
    WHERE kind = ? AND ts >= ? GROUP BY 1"""
OUTBOX_ROWS = """SELECT json_object('_id', id, 'label', json_extract(body, '$.label'),
        'scores', json_extract(body, '$.scores'), 'language', json_extract(body, '$.language'),
        'text', json_extract(body, '$.text'))
    FROM log WHERE kind = ? AND ts >= ? AND json_extract(body, '$.model_version') = ?
        AND (? IS NULL OR substr(id, -3) IN (SELECT value FROM json_each(?)))"""
OUTBOX_REVIEWS = """SELECT prediction_id, label, reason, weight, predicted, model_version
    FROM review WHERE ts >= ? ORDER BY ts DESC LIMIT ?"""


@dataclass(frozen=True)
class Window:
    """The predictions since a time.

    rows: documents of one model with FIELDS; `text` only where it is stored.
    found: how many predictions of that model there are.
    others: how many of other models.
    reviews: made since that time, with REVIEW_FIELDS.
    """

    rows: list[Document]
    found: int
    others: int
    reviews: list[Document]


def read_window(settings: Settings, version: str, since: datetime) -> Window:
    """Return the predictions of a model version since a time, at most about MAX_ROWS.

    Raises:
        DriftError: the log cannot be read.
        ArchiveRefusedError: MONGODB_URI is malformed, or MongoDB denies access.
    """
    try:
        with _store(settings, since) as store:
            counts = store.versions()
            found = counts.pop(version, 0)
            rows = store.rows(version, endings(found)) if found else []
            return Window(rows, found, sum(counts.values()), store.reviews())
    except sqlite3.Error as error:
        raise DriftError(f"TAGGER_OUTBOX: {settings.outbox} cannot be read: {error}") from None
    except ArchiveError as error:
        raise DriftError(str(error)) from None


def endings(found: int) -> list[str] | None:
    """Return the endings of the ids whose rows are about MAX_ROWS of `found`; None: all."""
    if found <= MAX_ROWS:
        return None
    every = [f"{i:0{DIGITS}x}" for i in range(16**DIGITS)]
    every.sort(key=digest)
    return every[: max(1, len(every) * MAX_ROWS // found)]


def _store(
    settings: Settings, since: datetime
) -> contextlib.AbstractContextManager["_Outbox | _Mongo"]:
    if settings.mongodb_uri:
        return contextlib.closing(_Mongo(settings.mongodb_uri.get_secret_value(), since))
    if not settings.outbox.is_file():
        raise DriftError(
            f"TAGGER_OUTBOX: got {settings.outbox}, which is no file; wanted the outbox of a "
            "service, or MONGODB_URI"
        )
    return contextlib.closing(_Outbox(settings, since))


class _Outbox:
    """The outbox's file, which a service may be writing to."""

    def __init__(self, settings: Settings, since: datetime) -> None:
        address = f"{settings.outbox.absolute().as_uri()}?mode=ro"
        self._db = sqlite3.connect(address, uri=True, timeout=READ_SECONDS)
        self._since = milliseconds(since)

    def versions(self) -> dict[str, int]:
        return dict(self._db.execute(OUTBOX_VERSIONS, (RecordType.PREDICTION, self._since)))

    def rows(self, version: str, endings: Sequence[str] | None) -> list[Document]:
        chosen = None if endings is None else json.dumps(endings)
        values = (RecordType.PREDICTION, self._since, version, chosen, chosen or "[]")
        return [json.loads(row) for (row,) in self._db.execute(OUTBOX_ROWS, values)]

    def reviews(self) -> list[Document]:
        tables = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'review'"
        if not self._db.execute(tables).fetchone():  # an outbox of before there were reviews
            return []
        rows = self._db.execute(OUTBOX_REVIEWS, (self._since, MAX_REVIEWS))
        documents = [dict(zip(REVIEW_FIELDS, row, strict=True)) for row in rows]
        return [each | {"predicted": json.loads(each["predicted"])} for each in documents]

    def close(self) -> None:
        self._db.close()


class _Mongo:
    """A database of MongoDB."""

    def __init__(self, uri: str, since: datetime) -> None:
        from serving.prediction_log.mongo import MongoArchive

        self._archive = MongoArchive(uri)
        self._runner = asyncio.Runner()
        self._since = {"ts": {"$gte": since}, "erased": {"$exists": False}}

    def versions(self) -> dict[str, int]:
        first: list[Document] = [{"$limit": 1}, {"$project": {"_id": 1}}]
        self._aggregate("predictions", first, CONNECT_SECONDS)
        counts: Document = {"$group": {"_id": "$model_version", "rows": {"$sum": 1}}}
        found = self._aggregate("predictions", [{"$match": self._since}, counts])
        return {str(each["_id"]): int(each["rows"]) for each in found}

    def rows(self, version: str, endings: Sequence[str] | None) -> list[Document]:
        query: dict[str, Any] = self._since | {"model_version": version}
        if endings is not None:
            ending = {"$substrBytes": ["$_id", ID_DIGITS - DIGITS, DIGITS]}
            query["$expr"] = {"$in": [ending, list(endings)]}
        fields = dict.fromkeys(FIELDS, 1)
        return self._aggregate("predictions", [{"$match": query}, {"$project": fields}])

    def reviews(self) -> list[Document]:
        stages: list[Document] = [
            {"$match": self._since},
            {"$sort": {"ts": -1}},
            {"$limit": MAX_REVIEWS},
            {"$project": dict.fromkeys(REVIEW_FIELDS, 1)},
        ]
        return self._aggregate("reviews", stages)

    def _aggregate(
        self, collection: str, stages: list[Document], seconds: float = READ_SECONDS
    ) -> list[Document]:
        return self._runner.run(self._archive.aggregate(collection, stages, seconds))

    def close(self) -> None:
        async def close() -> None:
            await self._archive.close()

        self._runner.run(close())
        self._runner.close()
