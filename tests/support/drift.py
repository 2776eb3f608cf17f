"""Logs for the tests of drift."""

import asyncio
import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from serving.bundle import LABELS
from serving.drift.columns import Reference
from serving.prediction_log.outbox import Outbox
from serving.prediction_log.records import PredictionRecord, RecordType, TextMode, milliseconds
from tests.support.prediction_log import PLENTY, prediction

# As the service makes it; the columns of the outbox's table of reviews.
TABLE = """CREATE TABLE IF NOT EXISTS review (id TEXT PRIMARY KEY, prediction_id TEXT,
    reviewer TEXT, label TEXT, note TEXT, ts INTEGER, reason TEXT, weight REAL, text TEXT,
    predicted TEXT, model_version TEXT, language TEXT, prediction_ts INTEGER)"""


def fill_outbox(
    path: Path, records: Iterable[PredictionRecord], *, store_text: TextMode = "full"
) -> None:
    """Write predictions as the service does."""

    async def run() -> None:
        outbox = Outbox(path, max_bytes=PLENTY, ring=True)
        await outbox.start()
        documents = [record.document(store_text) for record in records]
        await outbox.append(RecordType.PREDICTION, documents)
        await outbox.close()

    asyncio.run(run())


def review(
    prediction_id: str, label: str, predicted: str, ts: datetime, version: str = "model"
) -> dict[str, Any]:
    """A random review, as it is stored."""
    return {
        "_id": f"review of {prediction_id}",
        "prediction_id": prediction_id,
        "reviewer": "ann",
        "label": label,
        "ts": milliseconds(ts),
        "reason": "random",
        "weight": 5000.0,
        "text": "a text",
        "predicted": {"label": predicted, "scores": {}},
        "model_version": version,
        "language": "en",
        "prediction_ts": milliseconds(ts),
    }


def fill_reviews(
    path: Path, reviews: Sequence[tuple[str, str, str, datetime]], version: str = "model"
) -> None:
    """Write reviews: (prediction id, label, predicted label, time)."""
    db = sqlite3.connect(path)
    db.execute(TABLE)
    for row in reviews:
        document = review(*row, version)
        document["id"] = document.pop("_id")
        document["predicted"] = json.dumps(document["predicted"])
        names = ", ".join(document)
        marks = ", ".join(f":{name}" for name in document)
        db.execute(f"INSERT INTO review ({names}) VALUES ({marks})", document)
    db.commit()
    db.close()


def drawn_from(
    reference: Reference, rows: int, *, seed: int, hate: float = 1.0, longer: float = 1.0
) -> list[PredictionRecord]:
    """Predictions drawn from a reference's rows; their texts only have the right length.

    Args:
        reference: whose rows are drawn, with replacement.
        rows: how many.
        seed: of the draw.
        hate: how much larger than in the reference the share of hate is.
        longer: how much longer the texts are.
    """
    columns = reference.columns
    assert columns.characters is not None
    is_hate = np.array(columns.label) == "hate"
    share = is_hate.mean()
    weights = np.where(is_hate, hate, (1 - hate * share) / (1 - share))
    chosen = np.random.default_rng(seed).choice(columns.rows, rows, p=weights / weights.sum())
    now = datetime.now(UTC)
    return [
        prediction(
            ts=now,
            text=("word " * columns.characters[i])[: int(longer * columns.characters[i])],
            label=columns.label[i],
            scores={name: getattr(columns, name)[i] for name in LABELS},
            language=columns.language[i],
            model_version=reference.version,
        )
        for i in chosen
    ]
