"""What the prediction log stores: predictions and feedback.

    PredictionRecord, FeedbackRecord  ->  document (JSON in the outbox)  ->  MongoDB document

A document is a dict with at least `_id` (str) and `ts` (int, milliseconds since 1970; MongoDB and
`PredictionLog.get` have a datetime instead). How much of a text it holds is the operator's choice.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, Literal

EPOCH = datetime.fromtimestamp(0, UTC)

Document = dict[str, Any]
TextMode = Literal["full", "hash", "none"]


class RecordType(IntEnum):
    """What a document is about; the outbox stores the number."""

    PREDICTION = 0
    FEEDBACK = 1
    ERASURE = 2


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """One prediction, as it was returned.

    ts: time of the prediction, as an aware datetime.
    latency_ms: inference time of the whole request, with its time in the queue.
    client: name of the API key, else the client's address.
    api: the API that the request used, such as `native` or `perspective`.
    """

    id: str
    request_id: str
    ts: datetime
    text: str
    scores: dict[str, float]
    attributes: dict[str, float]
    label: str
    toxicity: str
    action: str
    language: str
    model_version: str
    policy_version: str
    latency_ms: float
    client: str | None
    api: str

    def document(self, store_text: TextMode) -> Document:
        """Return the document to store, with the text, its SHA-256, or neither."""
        document: Document = {
            "_id": self.id,
            "request_id": self.request_id,
            "ts": milliseconds(self.ts),
            "scores": self.scores,
            "attributes": self.attributes,
            "label": self.label,
            "toxicity": self.toxicity,
            "action": self.action,
            "language": self.language,
            "model_version": self.model_version,
            "policy_version": self.policy_version,
            "latency_ms": self.latency_ms,
            "client": self.client,
            "api": self.api,
        }
        if store_text == "full":
            document["text"] = self.text
        elif store_text == "hash":
            document["text_hash"] = hashlib.sha256(self.text.encode()).hexdigest()
        return document


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    """The label, and scores of attributes, that a person says a prediction should have had."""

    prediction_id: str
    label: str
    comment: str | None
    client: str | None
    attributes: dict[str, float] | None = None

    @property
    def id(self) -> str:
        """A hash of the content and the client, so that the same feedback is stored once of each.

        How many clients agree is what makes it a source of training.
        """
        scores = [f"{name}={score}" for name, score in sorted((self.attributes or {}).items())]
        said = (self.prediction_id, self.label, self.comment or "", self.client or "")
        content = "\0".join((*said, *scores))
        return hashlib.sha256(content.encode()).hexdigest()

    def document(self, ts: int) -> Document:
        """Return the document to store; `ts` is in milliseconds since 1970."""
        document: Document = {
            "_id": self.id,
            "prediction_id": self.prediction_id,
            "label": self.label,
            "ts": ts,
            "client": self.client,
        }
        optional = {"comment": self.comment, "attributes": self.attributes}
        return document | {name: value for name, value in optional.items() if value}


def with_current_fields(document: Document) -> Document:
    """Return a stored prediction with today's field names: version 0.1 called `api` `door`."""
    return {("api" if name == "door" else name): value for name, value in document.items()}


def milliseconds(ts: datetime) -> int:
    """Return an aware datetime in milliseconds since 1970."""
    return (ts - EPOCH) // timedelta(milliseconds=1)


def timestamp(ms: int) -> datetime:
    """Return the aware datetime of milliseconds since 1970."""
    return EPOCH + timedelta(milliseconds=ms)
