"""Compares the acknowledged predictions with the stored ones."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pymongo import MongoClient

from serving.prediction_log.records import Document
from tests.chaos.load import Load
from tests.chaos.service import texts_in
from tests.support.mongodb import MongoServer


class Stores(Protocol):
    """Where the predictions of a scenario are, which all have texts that start with its name."""

    name: str
    mongo: MongoServer
    load: Load | None

    @property
    def database(self) -> str: ...

    @property
    def outboxes(self) -> Sequence[Path]: ...


def stored_texts(stores: Stores) -> dict[str, str]:
    """Return the texts of all predictions in MongoDB and in the outboxes, by id."""
    texts: dict[str, str] = {}
    for outbox in stores.outboxes:
        texts |= texts_in(outbox) if outbox.exists() else {}
    with MongoClient[Document](stores.mongo.uri) as client:
        for document in client[stores.database]["predictions"].find({}, {"text": 1}):
            texts[document["_id"]] = document["text"]
    return {id_: text for id_, text in texts.items() if text.startswith(stores.name)}


def compare(stores: Stores) -> dict[str, int]:
    """Compare the acknowledged predictions with the stored ones."""
    acknowledged = stores.load.replies.texts if stores.load else {}
    stored = stored_texts(stores)
    return {
        "acknowledged": len(acknowledged),
        "stored": len(stored),
        "lost": sum(stored.get(id_) != text for id_, text in acknowledged.items()),
        "duplicated": sum(count - 1 for count in Counter(stored.values()).values()),
        "unacknowledged": len(stored.keys() - acknowledged.keys()),
    }
