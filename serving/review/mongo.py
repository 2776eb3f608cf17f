"""Reviews in MongoDB, shared by all replicas; written with the write concern majority.

reviews         by the hash of prediction and reviewer
review_leases   by the prediction's id: an upsert that finds another reviewer's lease fails
                because the id is taken, so of two replicas one gets the item
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

from cachetools import TTLCache
from pymongo.errors import DuplicateKeyError

from serving.prediction_log.mongo import ERASE_REVIEW, READ_SECONDS, MongoArchive
from serving.prediction_log.records import (
    Document,
    milliseconds,
    timestamp,
    with_current_fields,
)
from serving.review.queue import (
    MAX_FEEDBACK,
    MAX_READ,
    MAX_REVIEWS,
    SMALL_MARGIN,
    Item,
    Lease,
    Review,
    Snapshot,
    contradicting,
)
from serving.review.store import review_id

HOUR = 3_600_000  # ms
SECONDS = 10.0  # then a server that accepts connections and hangs counts as unreachable
FEEDBACK_SEARCHES = 3
COUNT_SECONDS = 1.0  # of one draw, for past hours; what is counted by then is kept for the next
SCORES = ["$scores.hate", "$scores.offensive", "$scores.neither"]
# Of three scores: 2 · largest + smallest - sum. The server computes it, so that only what may need
# a review comes here.
MARGIN = {
    "$subtract": [
        {"$add": [{"$multiply": [2, {"$max": SCORES}]}, {"$min": SCORES}]},
        {"$add": SCORES},
    ]
}
ITEM = {"ts": 1, "label": 1, "action": 1, "margin": MARGIN}
REVIEW = {"prediction_id": 1, "reviewer": 1, "label": 1, "ts": 1, "reason": 1, "prediction_ts": 1}
HAS_TEXT = {"text": {"$exists": True}}
KEPT = {"erased": {"$exists": False}}

T = TypeVar("T")


class MongoReviews:
    """A `ReviewStore` in the database of an archive."""

    def __init__(self, archive: MongoArchive) -> None:
        self._archive = archive
        # Documents of past hours still arrive, and are erased: counts are of use for an hour.
        self._counts: TTLCache[tuple[int, int], int] = TTLCache(maxsize=5_000, ttl=3600)

    async def snapshot(self, since: int, now: int) -> Snapshot:
        """See `ReviewStore`."""
        await self._archive.ping()  # it is given up sooner than a search
        start = timestamp(since)
        stages: list[Document] = [
            {"$match": {"ts": {"$gte": start}}},
            {"$sort": {"ts": -1}},
            {"$limit": MAX_READ},
            {"$match": HAS_TEXT},
            {"$project": ITEM},
            {"$match": {"$or": [{"action": "review"}, {"margin": {"$lt": SMALL_MARGIN}}]}},
        ]
        newest, feedback, reviews, leased = await asyncio.gather(
            self._items(stages),
            self._feedback(start),
            self._find("reviews", KEPT, REVIEW, limit=MAX_REVIEWS),
            self._find("review_leases", {"until": {"$gt": timestamp(now)}}, None),
        )
        about = await self._items_by_id({row[0] for row in feedback}, start)
        contradicted = contradicting(feedback, about, await self.reviews_of(about))
        items = {item.id: item for item in newest}
        items |= {id_: about[id_] for id_ in contradicted}
        known = {_review(each) for each in reviews} | set(await self.reviews_of(items))
        leases = {each["_id"]: _lease(each) for each in leased}
        return Snapshot(items, contradicted, list(known), leases)

    async def draw(
        self, since: int, now: int, rng: random.Random, count: int
    ) -> tuple[list[str], int]:
        """See `ReviewStore`.

        The hour is drawn by its number of predictions, then one of that hour: MongoDB would have to
        walk over half of the index to find the n-th of all. Hours are counted once.
        """
        counts = await self._count_hours(since, now)
        total = sum(counts.values())
        places = [rng.randrange(total) for _ in range(count if total else 0)]
        found = await asyncio.gather(*(self._nth(*_place(counts, i), rng) for i in places))
        return [id_ for id_ in found if id_], total

    async def predictions(self, ids: Collection[str]) -> dict[str, Document]:
        """See `ReviewStore`."""
        if not ids:
            return {}
        found = await self._find("predictions", {"_id": {"$in": list(ids)}} | HAS_TEXT, None)
        return {each["_id"]: with_current_fields(each) for each in found}

    async def reviews_of(self, ids: Collection[str]) -> list[Review]:
        """See `ReviewStore`."""
        if not ids:
            return []
        query = {"prediction_id": {"$in": list(ids)}} | KEPT
        return [_review(each) for each in await self._find("reviews", query, REVIEW)]

    async def count_since(self, reviewer: str, since: int) -> int:
        """See `ReviewStore`."""
        query = {"ts": {"$gte": timestamp(since)}, "reviewer": reviewer, "label": {"$ne": "skip"}}
        reviews = self._archive.collection("reviews")
        return await self._call(lambda: reviews.count_documents(query))

    async def lease_of(self, prediction_id: str, now: int) -> Lease | None:
        """See `ReviewStore`."""
        query = {"_id": prediction_id, "until": {"$gt": timestamp(now)}}
        leases = self._archive.collection("review_leases")
        found = await self._call(lambda: leases.find_one(query), READ_SECONDS)
        return _lease(found) if found else None

    async def lease(self, lease: Lease, now: int) -> bool:
        """See `ReviewStore`."""
        free = [{"until": {"$lte": timestamp(now)}}, {"reviewer": lease.reviewer}]
        document = lease._asdict() | {"until": timestamp(lease.until)}
        query = {"_id": document.pop("prediction_id"), "$or": free}
        leases = self._archive.collection("review_leases")

        async def upsert() -> bool:
            try:
                await leases.update_one(query, {"$set": document}, upsert=True)
            except DuplicateKeyError:
                return False
            return True

        return await self._call(upsert)

    async def release(self, prediction_id: str, reviewer: str) -> None:
        """See `ReviewStore`."""
        query = {"_id": prediction_id, "reviewer": reviewer}
        leases = self._archive.collection("review_leases")
        await self._call(lambda: leases.delete_one(query))

    async def mark_random(self, review: Review | Lease, weight: float) -> None:
        """See `ReviewStore`."""
        query: Document = {"_id": review_id(review.prediction_id, review.reviewer)} | KEPT
        if is_lease := isinstance(review, Lease):
            query = {"_id": review.prediction_id, "reviewer": review.reviewer}
        documents = self._archive.collection("review_leases" if is_lease else "reviews")
        change = {"$set": {"reason": "random", "weight": weight}}
        await self._call(lambda: documents.update_one(query, change))

    async def find_review(self, prediction_id: str, reviewer: str) -> Document | None:
        """See `ReviewStore`."""
        query = {"_id": review_id(prediction_id, reviewer)} | KEPT
        reviews = self._archive.collection("reviews")
        return await self._call(lambda: reviews.find_one(query), READ_SECONDS)

    async def write(self, document: Document) -> bool:
        """See `ReviewStore`."""
        times = {name: timestamp(document[name]) for name in ("ts", "prediction_ts")}
        stored = document | times
        reviews = self._archive.collection("reviews")
        key = {"_id": document["_id"]}
        await self._call(lambda: reviews.replace_one(key, stored, upsert=True))
        predictions = self._archive.collection("predictions")
        erased = {"_id": document["prediction_id"], "erased": True}
        # An erasure that came before this write has not seen the review; one that comes later will.
        if await self._call(lambda: predictions.find_one(erased)):
            await self._call(lambda: reviews.update_one(key, ERASE_REVIEW))
            return False
        # After the review: who gets the lease next must find the review.
        await self.release(document["prediction_id"], document["reviewer"])
        return True

    async def remove(self, prediction_id: str, reviewer: str) -> None:
        """See `ReviewStore`."""
        query = {"_id": review_id(prediction_id, reviewer)} | KEPT
        reviews = self._archive.collection("reviews")
        await self._call(lambda: reviews.delete_one(query))

    async def _items(self, stages: list[Document]) -> list[Item]:
        predictions = self._archive.collection("predictions")
        cursor = predictions.aggregate(stages, batchSize=MAX_READ)
        found = await self._call(lambda: cursor.to_list(MAX_READ))
        return [
            Item(
                each["_id"], milliseconds(each["ts"]), each["label"], each["action"], each["margin"]
            )
            for each in found
        ]

    async def _items_by_id(self, ids: Collection[str], start: datetime) -> dict[str, Item]:
        query = {"_id": {"$in": list(ids)}, "ts": {"$gte": start}} | HAS_TEXT
        found = await self._items([{"$match": query}, {"$project": ITEM}]) if ids else []
        return {item.id: item for item in found}

    async def _feedback(self, start: datetime) -> list[tuple[str, str, str]]:
        """Return (prediction id, label, client), of each client the newest first.

        Who fills a search is left out of the next one, so that a flood cannot hide the others.
        """
        fields = {"prediction_id": 1, "label": 1, "client": 1}
        found: dict[str, tuple[str, str, str]] = {}
        flooding: list[str] = []
        for _ in range(FEEDBACK_SEARCHES):
            query = {"ts": {"$gte": start}, "client": {"$nin": flooding}} | KEPT
            given = await self._find("feedback", query, fields, limit=MAX_FEEDBACK)
            clients = Counter(each.get("client") or "" for each in given)
            found |= {
                each["_id"]: (each["prediction_id"], each["label"], each.get("client") or "")
                for each in given
            }
            flooding += [name for name, count in clients.items() if count > MAX_FEEDBACK // 4]
            if len(given) < MAX_FEEDBACK or not flooding:
                break
        return list(found.values())

    async def _find(
        self,
        collection: str,
        query: Document,
        fields: Document | None,
        *,
        limit: int = 0,
    ) -> list[Document]:
        """Return documents; with a limit, the newest."""
        cursor = self._archive.collection(collection).find(query, fields, batch_size=MAX_READ)
        if limit:
            cursor = cursor.sort("ts", -1).limit(limit)
        return await self._call(lambda: cursor.to_list(None))

    async def _count_hours(self, since: int, now: int) -> dict[tuple[int, int], int]:
        """Return the number of predictions in each hour; nothing if counting takes too long."""
        predictions = self._archive.collection("predictions")
        query = {"ts": {"$gte": timestamp(since)}}
        first = await self._call(lambda: predictions.find_one(query, {"ts": 1}, sort=[("ts", 1)]))
        if first is None:
            return {}
        counts, started = {}, time.monotonic()
        hours = _hours(milliseconds(first["ts"]), now)
        for hour in (each for each in hours if each[1] - each[0] == HOUR):
            if (known := self._counts.get(hour)) is None:
                if time.monotonic() - started > COUNT_SECONDS:
                    return {}
                self._counts[hour] = known = await self._count(hour)
            counts[hour] = known
        parts = {each: await self._count(each) for each in hours if each not in counts}
        return counts | parts

    async def _count(self, hour: tuple[int, int]) -> int:
        predictions = self._archive.collection("predictions")
        return await self._call(lambda: predictions.count_documents(_span(hour)))

    async def _nth(self, hour: tuple[int, int], place: int, rng: random.Random) -> str | None:
        """Return the id of the n-th prediction in an hour; None if it has gone since."""
        predictions = self._archive.collection("predictions")
        times = (
            predictions.find(_span(hour), {"_id": 0, "ts": 1}).sort("ts", 1).skip(place).limit(1)
        )
        found = await self._call(lambda: times.to_list(1))
        if not found:
            return None
        # So far only the index was read. Of those with the same time each is equally likely.
        same = predictions.find({"ts": found[0]["ts"]}, {"_id": 1})
        ids = sorted(each["_id"] for each in await self._call(lambda: same.to_list(None)))
        return str(rng.choice(ids)) if ids else None

    async def _call(self, call: Callable[[], Awaitable[T]], seconds: float = SECONDS) -> T:
        return await self._archive.call(seconds, call)


def _hours(first: int, now: int) -> list[tuple[int, int]]:
    """Return the hours from `first` to `now`, in ms; the first and the last are parts."""
    bounds = [first, *range(first - first % HOUR + HOUR, now + 1, HOUR), now + 1]
    return list(pairwise(bounds))


def _place(counts: Mapping[tuple[int, int], int], place: int) -> tuple[tuple[int, int], int]:
    """Return the hour that has the n-th of all, and the which of that hour it is."""
    for hour, count in counts.items():
        if place < count:
            return hour, place
        place -= count
    raise IndexError(place)


def _span(hour: tuple[int, int]) -> Document:
    start, end = map(timestamp, hour)
    return {"ts": {"$gte": start, "$lt": end}}


def _review(document: Document) -> Review:
    return Review(
        document["prediction_id"],
        document["reviewer"],
        document["label"],
        milliseconds(document["ts"]),
        document["reason"],
        milliseconds(document["prediction_ts"]),
    )


def _lease(document: Document) -> Lease:
    return Lease(
        document["_id"],
        document["reviewer"],
        milliseconds(document["until"]),
        document["reason"],
        document["weight"],
    )
