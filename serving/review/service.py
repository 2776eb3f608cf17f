"""The review queue: gives items to reviewers and takes their labels.

    next_items   snapshot -> rank, or a uniform draw -> lease -> item with its text
    give         lease -> review in the store of record (MongoDB, else the outbox)

Two reviewers never have the same item at once: a lease is one atomic write to the store that all
workers and replicas share.

    ReviewError                  the request cannot be served; nothing was stored
    ├── UnknownPredictionError   no such prediction, or it is erased
    ├── NoReviewError            the caller has no review of it
    ├── NotLeasedError           the lease ran out, or another reviewer has the item
    └── NoTextsError             the log keeps no texts, so there is nothing to look at
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serving.prediction_log.archive import ArchiveError
from serving.prediction_log.log import LogError, PredictionLog
from serving.prediction_log.records import Document, milliseconds
from serving.prediction_log.sqlite_writer import OutboxError
from serving.review.queue import (
    Agreement,
    Item,
    Lease,
    Reason,
    Review,
    agreement,
    margin,
    rank,
    reason_for,
)
from serving.review.store import Annotation, Candidate, ReviewRecord, ReviewStore

DAY = 86_400_000  # ms
DRAWS, DRAW_ROUNDS = 5, 4  # for one item; a draw may find what is reviewed already
CHUNK = 50  # predictions whose texts are read at one time
MEASURE_SECONDS = 30.0


class ReviewError(Exception):
    """The request cannot be served; nothing was stored."""


class UnknownPredictionError(ReviewError):
    """There is no such prediction, or it is erased."""


class NoReviewError(ReviewError):
    """The caller has no review of the prediction."""


class NotLeasedError(ReviewError):
    """The lease ran out, or another reviewer has the item."""


class NoTextsError(ReviewError):
    """The log keeps no texts, so there is nothing to look at."""


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """What an operator may change: see the settings REVIEW_…, and STORE_TEXT."""

    days: int = 7
    random_share: float = 0.05
    second_share: float = 0.1
    lease_seconds: int = 300
    has_texts: bool = True


class QueueItem(NamedTuple):
    """A prediction that a reviewer has; `lease_until` is in milliseconds since 1970."""

    prediction: Document
    reason: Reason
    lease_until: int


@dataclass(frozen=True, slots=True)
class QueueState:
    """What a reviewer gets.

    reviewed: number of this reviewer's reviews within a day.
    waiting: number of items that nobody has, at most 5,000.
    """

    items: Sequence[QueueItem]
    reviewed: int
    waiting: int
    agreement: Agreement


class ReviewQueue:
    """Gives items to reviewers and takes their labels.

    Args:
        store: of reviews and leases.
        log: has the predictions.
        options: the operator's.
        rng: makes the draws; a test gives one with a seed.
        clock: returns the time in seconds since 1970.
    """

    def __init__(
        self,
        store: ReviewStore,
        log: PredictionLog,
        options: QueueOptions,
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._log, self._options = store, log, options
        self._rng = rng or random.SystemRandom()
        self._clock = clock

    async def next_items(self, reviewer: str, limit: int) -> QueueState:
        """Lease up to `limit` items to a reviewer; those that the reviewer has come first.

        Raises:
            NoTextsError: there is nothing to look at.
            LogError: the store does not answer.
        """
        self._check_texts()
        now, since = self._times()
        with _store_errors():
            snapshot = await self._store.snapshot(since, now)
            held = [lease for lease in snapshot.leases.values() if lease.reviewer == reviewer]
            held.sort(key=lambda lease: lease.until)
            items = await self._renew(held[:limit], now)
            waiting = rank(snapshot, reviewer, since, self._options.second_share)
            taken = {item.prediction["_id"] for item in items}
            async for candidate in self._candidates(reviewer, waiting, limit - len(items)):
                id_ = candidate.prediction["_id"]
                contradicted = id_ in snapshot.contradicted
                if id_ not in taken:  # what was drawn may also be in the ranking
                    items += await self._take(candidate, reviewer, now, contradicted=contradicted)
                    taken.add(id_)
                if len(items) == limit:
                    break
            taken = {item.prediction["_id"] for item in items}
            return QueueState(
                items,
                await self._store.count_since(reviewer, now - DAY),
                sum(id_ not in taken for id_, _ in waiting),
                agreement(snapshot.reviews),
            )

    async def give(
        self, prediction_id: str, reviewer: str, label: str, note: str | None
    ) -> tuple[str, str, bool]:
        """Store a reviewer's label; it replaces the reviewer's last one.

        Returns:
            The review's id, why the queue gave the item, and whether it is the reviewer's first
            label for it.

        Raises:
            UnknownPredictionError, NotLeasedError, NoTextsError: see there.
            LogError: the store does not answer.
        """
        self._check_texts()
        now, _ = self._times()
        prediction = await self._log.get(prediction_id)
        if prediction is None:
            raise UnknownPredictionError
        with _store_errors():
            earlier = await self._store.find_review(prediction_id, reviewer)
            lease = await self._store.lease_of(prediction_id, now)
            if earlier:
                reason, weight = earlier["reason"], earlier["weight"]
            elif lease and lease.reviewer == reviewer and "text" in prediction:
                reason, weight = lease.reason, lease.weight
            else:
                raise NotLeasedError
            record = ReviewRecord(prediction, reviewer, label, note, now, reason, weight)
            document = record.document()
            if not await self._store.write(document):
                raise UnknownPredictionError
        return document["_id"], reason, earlier is None

    async def undo(self, prediction_id: str, reviewer: str) -> None:
        """Remove a reviewer's review and lease the item to the reviewer again.

        Raises:
            NoReviewError, NotLeasedError, NoTextsError: see there.
            LogError: the store does not answer.
        """
        self._check_texts()
        now, _ = self._times()
        with _store_errors():
            review = await self._store.find_review(prediction_id, reviewer)
            if review is None:
                raise NoReviewError
            until = self._lease_end(now)
            lease = Lease(prediction_id, reviewer, until, review["reason"], review["weight"])
            if not await self._store.lease(lease, now):
                raise NotLeasedError
            await self._store.remove(prediction_id, reviewer)

    async def watch(self, report: Callable[[int, Agreement], None]) -> None:
        """Report, again and again, how many items nobody has and how far reviewers agree.

        While the store does not answer, nothing is reported.
        """
        while self._options.has_texts:
            with contextlib.suppress(LogError), _store_errors():
                now, since = self._times()
                snapshot = await self._store.snapshot(since, now)
                # For a reviewer without any review.
                waiting = rank(snapshot, "", since, self._options.second_share)
                report(len(waiting), agreement(snapshot.reviews))
            await asyncio.sleep(MEASURE_SECONDS)

    async def preview(self, limit: int) -> list[Candidate]:
        """Return up to `limit` items that nobody has, by the rule of the queue; lease none.

        Raises:
            NoTextsError, LogError: as `next_items`.
        """
        self._check_texts()
        now, since = self._times()
        with _store_errors():
            snapshot = await self._store.snapshot(since, now)
            waiting = rank(snapshot, "", since, self._options.second_share)
            found: dict[str, Candidate] = {}
            async for candidate in self._candidates("", waiting, limit):
                found[candidate.prediction["_id"]] = candidate
                if len(found) == limit:
                    break
        return list(found.values())

    async def _candidates(
        self, reviewer: str, waiting: Sequence[tuple[str, Reason]], count: int
    ) -> AsyncIterator[Candidate]:
        """Yield candidates for `count` places, and more: another reviewer may take some of them.

        Each is drawn at random with the configured probability, else it is the next by the rule.
        """
        ranked, share = self._with_texts(waiting), self._options.random_share
        for _ in range(count + len(waiting) if count else 0):
            candidate = None
            if self._rng.random() < share:
                candidate = await self._draw(reviewer)
                share = share if candidate else 0  # the next draw would find no more
            candidate = candidate or await anext(ranked, None)
            if candidate:
                yield candidate

    async def _with_texts(self, waiting: Sequence[tuple[str, Reason]]) -> AsyncIterator[Candidate]:
        """Yield ranked candidates that the log still has."""
        for start in range(0, len(waiting), CHUNK):
            chunk = dict(waiting[start : start + CHUNK])
            predictions = await self._store.predictions(chunk)
            for id_, reason in chunk.items():
                if id_ in predictions:
                    yield Candidate(predictions[id_], reason)

    async def _draw(self, reviewer: str) -> Candidate | None:
        """Draw a prediction of the window uniformly; None if none has to be looked at.

        A draw that finds a review counts it as drawn, since it needs no second look; leaving it out
        would leave the items that come first by the rule out of the sample. The same holds for what
        a reviewer has now. What the sample has already is drawn again.
        """
        now, since = self._times()
        for _ in range(DRAW_ROUNDS):
            drawn, population = await self._store.draw(since, now, self._rng, DRAWS)
            predictions = await self._store.predictions(drawn)
            reviews = await self._store.reviews_of(drawn)
            for id_ in (each for each in drawn if each in predictions):
                of_it = sorted(
                    (row for row in reviews if row.prediction_id == id_), key=lambda row: row.ts
                )
                if await self._is_new(id_, of_it, reviewer, now, float(population)):
                    return Candidate(predictions[id_], "random", float(population))
        return None

    async def _is_new(
        self, id_: str, reviews: Sequence[Review], reviewer: str, now: int, weight: float
    ) -> bool:
        """Return whether a drawn prediction has to be looked at; note the draw where it has not."""
        known: list[Review | Lease] = [row for row in reviews if row.label != "skip"]
        if not known and (lease := await self._store.lease_of(id_, now)):
            known = [lease]
        if known and all(each.reason != "random" for each in known):
            await self._store.mark_random(known[0], weight)
        return not known and all(row.reviewer != reviewer for row in reviews)

    async def _take(
        self, candidate: Candidate, reviewer: str, now: int, *, contradicted: bool
    ) -> list[QueueItem]:
        """Return the leased item; nothing if another reviewer has it, or has just reviewed it."""
        prediction, reason, weight = candidate
        id_ = prediction["_id"]
        lease = Lease(id_, reviewer, self._lease_end(now), reason, weight)
        if not await self._store.lease(lease, now):
            return []
        scores = prediction["scores"]
        ts = milliseconds(prediction["ts"])
        item = Item(id_, ts, prediction["label"], prediction["action"], margin(scores))
        reviews = await self._store.reviews_of([id_])
        share = self._options.second_share
        still = reason_for(item, reviews, reviewer, contradicted=contradicted, second_share=share)
        has_answer = any(row.reviewer == reviewer or row.label != "skip" for row in reviews)
        if has_answer if reason == "random" else still is None:
            await self._store.release(id_, reviewer)
            return []
        return [QueueItem(prediction, reason, lease.until)]

    async def _renew(self, held: Sequence[Lease], now: int) -> list[QueueItem]:
        """Return the items of a reviewer's leases, which begin anew."""
        predictions = await self._store.predictions([lease.prediction_id for lease in held])
        items = []
        for lease in held:
            renewed = lease._replace(until=self._lease_end(now))
            if lease.prediction_id not in predictions:  # erased in the meantime
                await self._store.release(lease.prediction_id, lease.reviewer)
            elif await self._store.lease(renewed, now):
                prediction = predictions[lease.prediction_id]
                items.append(QueueItem(prediction, lease.reason, renewed.until))
        return items

    def _lease_end(self, now: int) -> int:
        return now + self._options.lease_seconds * 1000

    def _times(self) -> tuple[int, int]:
        """Return the time now and the beginning of the window."""
        now = int(self._clock() * 1000)
        return now, now - self._options.days * DAY

    def _check_texts(self) -> None:
        if not self._options.has_texts:
            raise NoTextsError("the log stores no texts (TAGGER_STORE_TEXT is not full)")


async def import_annotations(store: ReviewStore, annotations: Sequence[Annotation]) -> int:
    """Store annotations as reviews; return of how many the prediction is known.

    Raises:
        LogError: the store does not answer; those before it are stored, and can be stored again.
    """
    stored = 0
    with _store_errors():
        for start in range(0, len(annotations), CHUNK):
            chunk = annotations[start : start + CHUNK]
            predictions = await store.predictions({each.prediction_id for each in chunk})
            for each in chunk:
                if prediction := predictions.get(each.prediction_id):
                    record = ReviewRecord(
                        prediction,
                        each.reviewer,
                        each.label,
                        each.note,
                        each.ts or int(time.time() * 1000),
                        each.reason,
                        each.weight,
                    )
                    stored += await store.write(record.document())
    return stored


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    """Turn the errors of a store into the log's."""
    try:
        yield
    except (ArchiveError, OutboxError) as error:
        raise LogError(str(error)) from None
