"""What the prediction log stores: predictions and feedback, as frozen records.

    PredictionRecord -> document (JSON, as the outbox stores it) -> MongoDB document

A document has `_id` (str) and `ts` (milliseconds since 1970); which part of a text it holds is the
operator's choice.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

EPOCH = datetime.fromtimestamp(0, UTC)

Document = dict[str, Any]
TextMode = Literal["full", "hash", "none"]


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """One prediction as it was given.

    ts: when, as an aware datetime.
    latency_ms: of the request's inference, queueing included.
    client: the name of the caller's key, else its address.
    api: through which API it was asked for.
    """

    id: str
    request_id: str
    ts: datetime
    text: str
    scores: dict[str, float]
    label: str
    toxicity: str
    action: str
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
            "label": self.label,
            "toxicity": self.toxicity,
            "action": self.action,
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
    """What a person says that a prediction's label should have been."""

    prediction_id: str
    label: str
    comment: str | None
    client: str | None

    @property
    def id(self) -> str:
        """The hash of what it says, so that the same feedback twice is one document."""
        content = "\0".join((self.prediction_id, self.label, self.comment or ""))
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
        return document | ({"comment": self.comment} if self.comment else {})


def milliseconds(ts: datetime) -> int:
    """Return an aware datetime in milliseconds since 1970."""
    return (ts - EPOCH) // timedelta(milliseconds=1)


def timestamp(ms: int) -> datetime:
    """Return the aware datetime of milliseconds since 1970."""
    return EPOCH + timedelta(milliseconds=ms)
