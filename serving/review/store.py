"""The interface of a store of reviews and leases, and the document of a review.

    serving.review.outbox    the outbox's file, where it is the only store
    serving.review.mongo     MongoDB

Every method raises OutboxError or ArchiveError if the store does not answer; nothing is then
stored. Times are milliseconds since 1970.
"""

import hashlib
import random
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from serving.prediction_log.records import Document, milliseconds
from serving.review.queue import Lease, Reason, Review, Snapshot


def review_id(prediction_id: str, reviewer: str) -> str:
    """Return the id of a reviewer's review of a prediction: there is one at most."""
    return hashlib.sha256(f"{prediction_id}\0{reviewer}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ReviewRecord:
    """A review, with a copy of what it is about: the prediction log may forget the prediction.

    prediction: as `PredictionLog.get` returns it; it has a text.
    weight: where `reason` is `random`, the number of predictions that it was drawn from.
    """

    prediction: Document
    reviewer: str
    label: str
    note: str | None
    ts: int
    reason: str
    weight: float | None

    def document(self) -> Document:
        """Return the document to store."""
        prediction = self.prediction
        ts: datetime = prediction["ts"]
        document: Document = {
            "_id": review_id(prediction["_id"], self.reviewer),
            "prediction_id": prediction["_id"],
            "reviewer": self.reviewer,
            "label": self.label,
            "ts": self.ts,
            "reason": self.reason,
            "weight": self.weight,
            "text": prediction["text"],
            "predicted": {"label": prediction["label"], "scores": prediction["scores"]},
            "model_version": prediction["model_version"],
            "language": prediction.get("language"),
            "prediction_ts": milliseconds(ts),
        }
        return document | ({"note": self.note} if self.note else {})


class Candidate(NamedTuple):
    """A prediction that somebody should look at, and why.

    prediction: as `PredictionLog.get` returns it; it has a text.
    weight: where `reason` is `random`, the number of predictions that it was drawn from.
    """

    prediction: Document
    reason: Reason
    weight: float | None = None


class Annotation(NamedTuple):
    """A review in Label Studio; `ts` is in milliseconds since 1970, None if it is not known."""

    prediction_id: str
    reviewer: str
    label: str
    note: str | None
    ts: int | None
    reason: str
    weight: float | None


class ReviewStore(Protocol):
    """Reviews and leases, and a view of the predictions beside them."""

    async def snapshot(self, since: int, now: int) -> Snapshot:
        """Return what the rule of the queue has to know of the predictions since a time."""

    async def draw(
        self, since: int, now: int, rng: random.Random, count: int
    ) -> tuple[list[str], int]:
        """Draw predictions since a time, each uniformly from all; return their ids, and how many
        there are in all.

        The list is empty if there are none, or if they could not be counted yet, and shorter where
        one has gone in the meantime. One may be erased, or have no text.
        """

    async def predictions(self, ids: Collection[str]) -> dict[str, Document]:
        """Return the predictions that have a text, by id, `ts` as an aware datetime."""

    async def reviews_of(self, ids: Collection[str]) -> list[Review]:
        """Return all reviews of predictions."""

    async def count_since(self, reviewer: str, since: int) -> int:
        """Return how many reviews a reviewer has given since a time; a skip is none."""

    async def lease_of(self, prediction_id: str, now: int) -> Lease | None:
        """Return who has an item; None if it is free or its lease has run out."""

    async def lease(self, lease: Lease, now: int) -> bool:
        """Lease an item, unless another reviewer has it; return whether the lease is there."""

    async def release(self, prediction_id: str, reviewer: str) -> None:
        """End a reviewer's lease of an item."""

    async def mark_random(self, review: Review | Lease, weight: float) -> None:
        """Note that the item of a review or of a lease was drawn at random."""

    async def find_review(self, prediction_id: str, reviewer: str) -> Document | None:
        """Return a review; None if there is none or it is erased."""

    async def write(self, document: Document) -> bool:
        """Store a review in place of the reviewer's last one and end their lease.

        Returns:
            False if the prediction was erased in the meantime; then nothing is stored.
        """

    async def remove(self, prediction_id: str, reviewer: str) -> None:
        """Remove a review."""
