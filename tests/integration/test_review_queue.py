"""The review queue over both of its stores: the outbox's file, and MongoDB.

A world has two processes of the service, or two replicas, which share a store and nothing else.
"""

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from scipy.stats import binomtest, chisquare

from serving.ids import new_id
from serving.prediction_log.log import LogError, PredictionLog
from serving.prediction_log.mongo import MongoArchive
from serving.prediction_log.outbox import Outbox
from serving.prediction_log.records import FeedbackRecord, PredictionRecord, RecordType
from serving.review.mongo import HOUR, MongoReviews
from serving.review.outbox import OutboxReviews
from serving.review.queue import (
    MAX_FEEDBACK,
    MAX_FEEDBACK_OF_CLIENT,
    MAX_READ,
    has_second_reviewer,
)
from serving.review.service import (
    DAY,
    NoReviewError,
    NoTextsError,
    NotLeasedError,
    QueueOptions,
    QueueState,
    ReviewQueue,
    UnknownPredictionError,
)
from serving.review.store import ReviewRecord, ReviewStore
from tests.support.mongodb import MongoServer
from tests.support.prediction_log import PLENTY, prediction

START = 4_000_000_000.0  # seconds; in the future, so that no TTL ends a test
RULE = QueueOptions(random_share=0, second_share=0)
Test = Callable[["World"], Awaitable[None]]


class World:
    """Two queues on one store, and a clock that the test sets."""

    def __init__(self, logs: Sequence[PredictionLog], stores: Sequence[ReviewStore]) -> None:
        self.logs, self.stores = logs, stores
        self.now = START

    def queue(self, replica: int = 0, options: QueueOptions = RULE, seed: int = 0) -> ReviewQueue:
        return ReviewQueue(
            self.stores[replica],
            self.logs[replica],
            options,
            rng=random.Random(seed),
            clock=lambda: self.now,
        )

    async def predict(self, *, age: float = 60, text_mode: str = "full", **fields: Any) -> str:
        """Store a prediction; return its id."""
        return (await self.predict_many([{"age": age, **fields}], text_mode=text_mode))[0]

    async def predict_many(
        self, rows: Sequence[dict[str, Any]], *, text_mode: str = "full"
    ) -> list[str]:
        records = [self._record(**row) for row in rows]
        log = self.logs[0]
        log._text = text_mode  # type: ignore[assignment]
        for start in range(0, len(records), 500):
            await log.append(records[start : start + 500])
        await self.relay()
        return [record.id for record in records]

    def _record(self, age: float = 60, **fields: Any) -> PredictionRecord:
        ts = datetime.fromtimestamp(self.now - age, UTC)
        return prediction(id=new_id(), ts=ts, **fields)

    async def feedback(self, prediction_id: str, label: str) -> None:
        await self.feedback_of("somebody", [prediction_id], label)

    async def feedback_of(self, client: str, prediction_ids: Sequence[str], label: str) -> None:
        ts = int(self.now * 1000)
        records = [FeedbackRecord(id_, label, None, client) for id_ in prediction_ids]
        documents = [record.document(ts) for record in records]
        await self.logs[0].outbox.append(RecordType.FEEDBACK, documents)
        await self.relay()

    async def relay(self) -> None:
        """Send to MongoDB what waits in the outboxes."""
        for log in self.logs:
            if log._relay:
                while await log._relay.flush():
                    pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    with MongoServer(tmp_path_factory.mktemp("mongo")) as started:
        yield started


@pytest.fixture(params=["outbox", "mongodb"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Test], None]:
    uri = request.getfixturevalue("server").uri + new_id() if request.param == "mongodb" else None

    async def with_world(test: Test) -> None:
        outboxes = [
            Outbox(tmp_path / ("shared" if uri is None else str(i)), max_bytes=PLENTY, ring=not uri)
            for i in range(2)
        ]
        archives = [MongoArchive(uri) for _ in range(2)] if uri else [None, None]
        for outbox in outboxes:
            await outbox.start()
        logs = [
            PredictionLog(outbox, archive)
            for outbox, archive in zip(outboxes, archives, strict=True)
        ]
        stores: list[ReviewStore] = [OutboxReviews(outbox) for outbox in outboxes]
        for i, archive in enumerate(archives):
            if archive:
                await archive.prepare()
                stores[i] = MongoReviews(archive)
        try:
            await test(World(logs, stores))
        finally:
            for outbox in outboxes:
                await outbox.close()
            for archive in archives:
                if archive:
                    await archive.close()

    return lambda test: asyncio.run(with_world(test))


async def with_outbox(path: Path, test: Test) -> None:
    """Run a test with one process and its outbox."""
    outbox = Outbox(path, max_bytes=PLENTY, ring=True)
    await outbox.start()
    try:
        await test(World([PredictionLog(outbox)], [OutboxReviews(outbox)]))
    finally:
        await outbox.close()


def given(state: QueueState) -> list[tuple[str, str]]:
    return [(item.prediction["_id"], item.reason) for item in state.items]


def ids(state: QueueState) -> list[str]:
    return [id_ for id_, _ in given(state)]


UNSURE = {"hate": 0.45, "offensive": 0.35, "neither": 0.2}
SURE = {"hate": 0.01, "offensive": 0.01, "neither": 0.98}


def test_items_come_by_the_rule_with_their_texts(run: Callable[[Test], None]) -> None:
    async def test(world: World) -> None:
        sure = await world.predict(scores=SURE)
        close = await world.predict(scores=UNSURE, label="hate", text="close")
        acted = await world.predict(scores=SURE, action="review", text="acted")
        told = await world.predict(scores=SURE, text="told")
        await world.predict(scores=SURE, action="review", age=8 * 86_400)
        await world.feedback(told, "hate")
        await world.feedback(sure, "neither")
        state = await world.queue().next_items("ann", 10)
        assert given(state) == [(told, "feedback"), (acted, "action"), (close, "margin")]
        assert [item.prediction["text"] for item in state.items] == ["told", "acted", "close"]
        assert (state.reviewed, state.waiting, state.agreement.pairs) == (0, 0, 0)
        assert state.items[0].lease_until == int(START * 1000) + 300_000

    run(test)


def test_a_flood_of_feedback_hides_no_other_clients(run: Callable[[Test], None]) -> None:
    async def test(world: World) -> None:
        complained = await world.predict(label="offensive")
        await world.feedback_of("somebody", [complained], "neither")
        world.now += 1
        rows = [{"label": "offensive"}] * (MAX_FEEDBACK + 50)
        await world.feedback_of("flood", await world.predict_many(rows), "hate")
        snapshot = await world.stores[0].snapshot(0, int(world.now * 1000))
        assert complained in snapshot.contradicted
        assert len(snapshot.contradicted) == MAX_FEEDBACK_OF_CLIENT + 1

    run(test)


def test_feedback_that_agrees_hides_no_contradiction_of_the_same_client(
    run: Callable[[Test], None],
) -> None:
    async def test(world: World) -> None:
        wrong = await world.predict(label="offensive")
        await world.feedback_of("platform", [wrong], "neither")
        world.now += 1
        right = await world.predict_many([{"label": "offensive"}] * 300)
        await world.feedback_of("platform", right[:150], "offensive")
        await world.feedback_of("platform", right[150:], "hate+offensive")
        snapshot = await world.stores[0].snapshot(0, int(world.now * 1000))
        assert snapshot.contradicted == {wrong}

    run(test)


def test_what_has_no_text_is_not_given(run: Callable[[Test], None]) -> None:
    async def test(world: World) -> None:
        for mode in ("hash", "none"):
            hidden = await world.predict(action="review", text_mode=mode)
            await world.feedback(hidden, "hate")
        for share in (0.0, 1.0):
            queue = world.queue(options=QueueOptions(random_share=share))
            state = await queue.next_items("ann", 5)
            assert (state.items, state.waiting) == ([], 0)
        with pytest.raises(NoTextsError):
            await world.queue(options=QueueOptions(has_texts=False)).next_items("ann", 1)

    run(test)


def test_a_leased_item_is_given_to_nobody_else_until_the_lease_runs_out(
    run: Callable[[Test], None],
) -> None:
    async def test(world: World) -> None:
        first, second = await world.predict_many([{"action": "review", "age": a} for a in (1, 2)])
        ann, bob = world.queue(0), world.queue(1)
        assert ids(await ann.next_items("ann", 1)) == [first]
        state = await bob.next_items("bob", 5)
        assert (ids(state), state.waiting) == ([second], 0)
        with pytest.raises(NotLeasedError):
            await bob.give(first, "bob", "hate", None)
        world.now += 200
        assert ids(await ann.next_items("ann", 5)) == [first]  # her own, for 300 seconds more
        world.now += 200
        assert ids(await world.queue(1).next_items("cat", 5)) == [second]  # bob's ran out
        with pytest.raises(NotLeasedError):
            await bob.give(second, "bob", "hate", None)
        world.now += 101
        with pytest.raises(NotLeasedError):
            await ann.give(first, "ann", "hate", None)
        assert ids(await bob.next_items("bob", 5)) == [first]

    run(test)


def test_reviewers_at_the_same_time_never_get_the_same_item(run: Callable[[Test], None]) -> None:
    async def test(world: World) -> None:
        await world.predict_many([{"action": "review"} for _ in range(60)])
        queues = [
            world.queue(i % 2, QueueOptions(random_share=0.5, second_share=0), seed=i)
            for i in range(10)
        ]
        states = await asyncio.gather(
            *(queue.next_items(f"reviewer{i}", 5) for i, queue in enumerate(queues))
        )
        everything = [id_ for state in states for id_ in ids(state)]
        assert len(everything) == len(set(everything)) == 50
        reviews = [
            queue.give(id_, f"reviewer{i}", "hate", None)
            for i, (queue, state) in enumerate(zip(queues, states, strict=True))
            for id_ in ids(state)
        ]
        await asyncio.gather(*reviews)
        found = await world.stores[0].reviews_of(everything)
        assert Counter(each.prediction_id for each in found) == Counter(everything)

    run(test)


def test_an_item_that_is_drawn_and_ranked_is_given_once(run: Callable[[Test], None]) -> None:
    async def test(world: World) -> None:
        rows = await world.predict_many([{"action": "review"} for _ in range(12)])
        queue = world.queue(options=QueueOptions(random_share=0.5, second_share=0), seed=1)
        state = await queue.next_items("ann", 50)
        assert sorted(ids(state)) == sorted(rows)
        assert {reason for _, reason in given(state)} == {"random", "action"}
        again = await queue.next_items("ann", 50)
        # A later draw may have found what was ranked; what was drawn stays so.
        drawn = {id_ for id_, reason in given(state) if reason == "random"}
        assert drawn <= {id_ for id_, reason in given(again) if reason == "random"}
        assert sorted(ids(again)) == sorted(rows)

    run(test)


def test_a_review_is_stored_replaced_and_undone(run: Callable[[Test], None]) -> None:
    async def test(world: World) -> None:
        id_ = await world.predict(action="review", scores=UNSURE, label="hate", text="walrus")
        queue, store = world.queue(), world.stores[1]
        await queue.next_items("ann", 1)
        first = await queue.give(id_, "ann", "hate", "a note")
        assert first[1:] == ("action", True)
        document = await store.find_review(id_, "ann")
        assert document is not None
        assert document["_id"] == first[0]
        expected = {
            "prediction_id": id_, "reviewer": "ann", "label": "hate", "note": "a note",
            "reason": "action", "weight": None, "text": "walrus", "model_version": "model",
            "language": "en", "predicted": {"label": "hate", "scores": UNSURE},
        }  # fmt: skip
        assert {name: document[name] for name in expected} == expected
        world.now += 1000  # the lease has gone; the review is still the reviewer's own
        assert await queue.give(id_, "ann", "neither", None) == (first[0], "action", False)
        document = await store.find_review(id_, "ann")
        assert document is not None
        assert document["label"] == "neither"
        assert "note" not in document
        state = await queue.next_items("ann", 1)
        assert (state.items, state.reviewed) == ([], 1)
        await queue.undo(id_, "ann")
        assert await store.find_review(id_, "ann") is None
        with pytest.raises(NoReviewError):
            await queue.undo(id_, "ann")
        assert (await world.queue(1).next_items("bob", 1)).items == []
        assert given(await queue.next_items("ann", 1)) == [(id_, "action")]
        assert (await queue.next_items("ann", 1)).reviewed == 0

    run(test)


def test_an_undo_takes_nothing_from_another_reviewer(run: Callable[[Test], None]) -> None:
    async def test(world: World) -> None:
        id_ = await world.predict(action="review")
        queue = world.queue(options=QueueOptions(random_share=0, second_share=1))
        await queue.next_items("ann", 1)
        await queue.give(id_, "ann", "hate", None)
        assert given(await queue.next_items("bob", 1)) == [(id_, "second")]
        with pytest.raises(NotLeasedError):
            await queue.undo(id_, "ann")
        assert await world.stores[0].find_review(id_, "ann")

    run(test)


def test_second_reviews_and_disagreements_are_found_and_counted(
    run: Callable[[Test], None],
) -> None:
    async def test(world: World) -> None:
        rows = await world.predict_many([{"scores": SURE, "action": "review"} for _ in range(40)])
        queue = world.queue(options=QueueOptions(random_share=0, second_share=0.3))
        second = {id_ for id_ in rows if has_second_reviewer(id_, 0.3)}
        assert 0 < len(second) < 40
        for item in (await queue.next_items("ann", 50)).items:
            await queue.give(item.prediction["_id"], "ann", "neither", None)
        state = await queue.next_items("bob", 50)
        assert set(given(state)) == {(id_, "second") for id_ in second}
        wrong, *rest = ids(state)
        await queue.give(wrong, "bob", "hate", None)
        for id_ in rest:
            await queue.give(id_, "bob", "neither", None)
        state = await queue.next_items("cat", 50)
        assert given(state) == [(wrong, "disagreement")]
        assert state.agreement.pairs == len(second)
        await queue.give(wrong, "cat", "skip", None)
        assert (await queue.next_items("cat", 50)).reviewed == 0
        await queue.next_items("dan", 50)
        await queue.give(wrong, "dan", "hate", None)
        assert (await queue.next_items("eve", 50)).items == []

    run(test)


def test_an_erased_prediction_has_no_reviews_and_gets_none(run: Callable[[Test], None]) -> None:
    async def test(world: World) -> None:
        one, two = await world.predict_many(
            [{"action": "review", "text": f"walrus {i}"} for i in range(2)]
        )
        queue, log = world.queue(), world.logs[0]
        await queue.next_items("ann", 2)
        await queue.give(one, "ann", "hate", "a secret")
        for id_ in (one, two):
            assert await log.delete(id_)
        await world.relay()
        for id_ in (one, two):
            with pytest.raises(UnknownPredictionError):
                await queue.give(id_, "ann", "hate", None)
        with pytest.raises(NoReviewError):
            await queue.undo(one, "ann")
        assert await world.stores[0].find_review(one, "ann") is None
        state = await queue.next_items("ann", 5)
        assert (state.items, state.reviewed, state.waiting) == ([], 0, 0)
        assert not await log.delete(one)

    run(test)


def test_a_review_that_an_erasure_overtakes_is_not_stored(run: Callable[[Test], None]) -> None:
    async def test(world: World) -> None:
        id_ = await world.predict(action="review", text="walrus")
        prediction = await world.logs[0].get(id_)
        assert prediction
        assert await world.logs[0].delete(id_)
        await world.relay()
        record = ReviewRecord(prediction, "ann", "hate", "a secret", 0, "action", None)
        assert not await world.stores[1].write(record.document())
        assert await world.stores[0].find_review(id_, "ann") is None

    run(test)


def test_one_draw_is_uniform_and_knows_from_how_many(run: Callable[[Test], None]) -> None:
    """Over three hours of very different traffic, with times that many predictions share."""

    async def test(world: World) -> None:
        hour = HOUR / 1000
        ages = [60.0] * 8 + [hour + 60 + i // 2 for i in range(12)] + [2 * hour + 90] * 4
        rows = await world.predict_many([{"age": age} for age in ages])
        await world.predict(age=8 * 86_400)
        since, now = int(START * 1000) - 7 * DAY, int(START * 1000)
        rng = random.Random(7)
        counts: Counter[str] = Counter()
        for _ in range(30):
            drawn, population = await world.stores[0].draw(since, now, rng, 20)
            assert population == len(rows)
            counts.update(drawn)
        assert counts.total() == 600
        assert counts.keys() == set(rows)
        assert chisquare([counts[id_] for id_ in rows]).pvalue > 0.001

    run(test)


def test_the_random_reviews_are_a_uniform_sample_whatever_else_is_reviewed(tmp_path: Path) -> None:
    """Those that the rule brings first are no smaller part of the sample than of the traffic."""

    async def test(world: World) -> None:
        urgent = await world.predict_many([{"action": "review", "scores": SURE}] * 100)
        rows = urgent + await world.predict_many([{"scores": SURE}] * 200)
        queue = world.queue(options=QueueOptions(random_share=0.5, second_share=0), seed=5)
        for _ in range(200):
            state = await queue.next_items("ann", 1)
            for id_ in ids(state):
                await queue.give(id_, "ann", "neither", None)
        reviews = await world.stores[0].reviews_of(rows)
        sample = [each.prediction_id for each in reviews if each.reason == "random"]
        assert len(sample) > 80
        assert len(reviews) > len(sample) + 40
        document = await world.stores[0].find_review(sample[0], "ann")
        assert document is not None
        assert document["weight"] == 300
        share = sum(id_ in set(urgent) for id_ in sample)
        assert binomtest(share, len(sample), 1 / 3).pvalue > 0.01

    asyncio.run(with_outbox(tmp_path / "outbox.db", test))


def test_the_random_share_is_as_configured(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.predict_many([{"action": "review", "scores": SURE}] * 250)
        everything = world.queue(options=QueueOptions(random_share=1, second_share=0))
        assert {reason for _, reason in given(await everything.next_items("bob", 20))} == {"random"}
        queue = world.queue(options=QueueOptions(random_share=0.2, second_share=0), seed=2)
        reasons: Counter[str] = Counter()
        for _ in range(4):
            state = await queue.next_items("ann", 50)
            reasons.update(item.reason for item in state.items)
            for id_ in ids(state):
                await queue.give(id_, "ann", "neither", None)
        assert reasons.total() == 200
        assert binomtest(reasons["random"], 200, 0.2).pvalue > 0.01

    asyncio.run(with_outbox(tmp_path / "outbox.db", test))


async def look(world: World, predictions: int, read: int) -> None:
    rows = [{"action": "review", "age": 7000 - i} for i in range(predictions)]
    newest = (await world.predict_many(rows))[-1]
    state = await world.queue().next_items("ann", 1)
    assert ids(state) == [newest]
    assert state.waiting == read - 1


def test_one_look_reads_a_bounded_number_of_predictions(tmp_path: Path) -> None:
    test = partial(look, predictions=MAX_READ + 500, read=MAX_READ)
    asyncio.run(with_outbox(tmp_path / "outbox.db", test))


def test_one_look_at_mongodb_does_too(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.review.mongo.MAX_READ", 50)  # the server of the tests is slow

    async def test(world: World) -> None:
        is_mongo = isinstance(world.stores[0], MongoReviews)
        await look(world, predictions=60, read=50 if is_mongo else 60)

    run(test)


def test_reviews_outlive_their_prediction_and_can_still_be_erased(
    run: Callable[[Test], None],
) -> None:
    async def test(world: World) -> None:
        id_ = await world.predict(action="review", text="walrus")
        queue, log = world.queue(), world.logs[0]
        await queue.next_items("ann", 1)
        await queue.give(id_, "ann", "hate", None)
        if isinstance(log.archive, MongoArchive):  # as its TTL does
            await log.archive.collection("predictions").delete_one({"_id": id_})
        else:  # as the ring and the limit of age do
            await log.outbox.prune(int(START * 1000))
        assert await log.get(id_) is None
        assert await world.stores[0].find_review(id_, "ann")
        assert await log.delete(id_)
        await world.relay()
        assert await world.stores[0].find_review(id_, "ann") is None
        assert not await log.delete(id_)

    run(test)


def test_an_erasure_leaves_nothing_personal_in_mongodb(server: MongoServer, tmp_path: Path) -> None:
    name = new_id()

    async def test() -> None:
        archive = MongoArchive(server.uri + name)
        outbox = Outbox(tmp_path / "outbox.db", max_bytes=PLENTY, ring=False)
        await outbox.start()
        log = PredictionLog(outbox, archive)
        world = World([log], [MongoReviews(archive)])
        id_ = await world.predict(action="review", text="walrus", language="xx")
        queue = world.queue()
        await queue.next_items("ann", 1)
        await queue.give(id_, "ann", "hate", "a secret")
        await log.delete(id_)
        await world.relay()
        await outbox.close()
        await archive.close()

    asyncio.run(test())
    with MongoClient[dict[str, Any]](server.uri) as client:
        (left,) = client[name]["reviews"].find()
        assert left["erased"] is True
        assert not {"text", "predicted", "label", "note", "reviewer", "language"} & left.keys()
        indexes = client[name]["reviews"].index_information()
        assert {"ts", "prediction_id"} < indexes.keys()
        assert "expireAfterSeconds" not in indexes["ts"]
        lease = client[name]["review_leases"].index_information()["until"]
        assert lease["expireAfterSeconds"] == 3600


def test_in_the_outbox_a_review_has_a_column_for_each_field(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"

    async def test(world: World) -> None:
        await world.predict(action="review", text="walrus")
        queue = world.queue()
        id_ = ids(await queue.next_items("ann", 1))[0]
        await queue.give(id_, "ann", "hate", "a note")

    asyncio.run(with_outbox(path, test))
    db = sqlite3.connect(path)
    columns = "reviewer, label, note, reason, weight, text, model_version, language, ts"
    row = db.execute(f"SELECT {columns} FROM review").fetchone()
    now = int(START * 1000)
    assert row == ("ann", "hate", "a note", "action", None, "walrus", "model", "en", now)
    db.close()


def test_a_store_that_is_gone_is_an_error_of_the_log(tmp_path: Path) -> None:
    async def test() -> None:
        archive = MongoArchive("mongodb://127.0.0.1:1/x")
        log = PredictionLog(Outbox(tmp_path / "o.db", max_bytes=PLENTY, ring=False), archive)
        queue = ReviewQueue(MongoReviews(archive), log, RULE)
        with pytest.raises(LogError, match="does not answer"):
            await queue.next_items("ann", 1)
        await archive.close()

    asyncio.run(test())
