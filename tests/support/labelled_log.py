"""A prediction log with labels: an outbox written by the service's own code, and its reviews."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from serving.prediction_log.log import PredictionLog
from tests.support.prediction_log import prediction, with_log

# As serving.prediction_log.outbox makes it; older files do not have it.
REVIEW_TABLE = """CREATE TABLE IF NOT EXISTS review (id TEXT PRIMARY KEY, body TEXT NOT NULL,
    prediction_id TEXT AS (json_extract(body, '$.prediction_id')))"""


class Said(NamedTuple):
    """What somebody says of a text, which gets a prediction of its own."""

    text: str
    label: str
    client: str | None = None
    reviewer: str | None = None
    attributes: dict[str, float] | None = None


def by_clients(text: str, label: str, *clients: str, **scores: float) -> list[Said]:
    return [Said(text, label, client, attributes=scores or None) for client in clients]


def review(prediction_id: str, said: Said) -> dict[str, Any]:
    """The document of a review; its times are those of an outbox."""
    return {
        "_id": f"{prediction_id}-{said.reviewer}", "prediction_id": prediction_id,
        "reviewer": said.reviewer, "label": said.label, "text": said.text, "ts": 5,
        "reason": "random", "weight": 20.0, "predicted": {"label": "neither"}, "language": "en",
        "model_version": "model", "prediction_ts": 4,
    }  # fmt: skip


async def write(log: PredictionLog, said: Sequence[Said], **changes: Any) -> list[str]:
    """Store a prediction for each, and feedback of clients; return the predictions' ids."""
    records = [prediction(text=one.text, **changes) for one in said]
    await log.append(records)
    for record, one in zip(records, said, strict=True):
        if one.reviewer is None:
            assert await log.feedback(record.id, one.label, None, one.client, one.attributes)
    return [record.id for record in records]


def add_reviews(path: Path, ids: Sequence[str], said: Sequence[Said]) -> None:
    """Write the reviews among what was said to an outbox."""
    documents = [review(id_, one) for id_, one in zip(ids, said, strict=True) if one.reviewer]
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(REVIEW_TABLE)
        rows = [(document["_id"], json.dumps(document)) for document in documents]
        db.executemany("INSERT INTO review (id, body) VALUES (?, ?)", rows)


def write_outbox(path: Path, said: Sequence[Said], **options: Any) -> list[str]:
    """Write an outbox as the service does; return the ids of the predictions."""
    ids: list[str] = []

    async def run(log: PredictionLog) -> None:
        ids.extend(await write(log, said))

    with_log(path, run, **options)
    add_reviews(path, ids, said)
    return ids
