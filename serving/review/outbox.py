"""Reviews in the outbox's file, where there is no MongoDB; all worker processes share them."""

import random
import sqlite3
from collections.abc import Collection

import orjson

from serving.prediction_log.outbox import Outbox
from serving.prediction_log.records import Document, RecordType, timestamp
from serving.review.queue import (
    MAX_FEEDBACK,
    MAX_FEEDBACK_OF_CLIENT,
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

KEEP_LEASES_MS = 3_600_000  # after they ran out
# A list comes out of SQLite as one JSON text; see serving.prediction_log.outbox. The margin of
# three scores is 2 · largest + smallest - sum.
ITEM = """json_array(id, ts, json_extract(body, '$.label'), json_extract(body, '$.action'),
    2 * max({h}, {o}, {n}) + min({h}, {o}, {n}) - ({h} + {o} + {n}))""".format(
    h="json_extract(body, '$.scores.hate')",
    o="json_extract(body, '$.scores.offensive')",
    n="json_extract(body, '$.scores.neither')",
)
HAS_TEXT = "json_extract(body, '$.text') IS NOT NULL"
NEWEST = f"""SELECT json_group_array(json(item)) FROM (
    SELECT {ITEM} AS item, body FROM (
        SELECT id, ts, body FROM log WHERE kind = {RecordType.PREDICTION:d} AND ts >= ?
        ORDER BY ts DESC LIMIT {MAX_READ})
    WHERE {HAS_TEXT})
    WHERE json_extract(item, '$[3]') = 'review' OR json_extract(item, '$[4]') < {SMALL_MARGIN}"""
BY_ID = f"""SELECT json_group_array({ITEM}) FROM log
    WHERE kind = {RecordType.PREDICTION:d} AND ts >= ? AND {HAS_TEXT}
    AND id IN (SELECT value FROM json_each(?))"""
# What `contradicting` counts: of one client so many that it cannot hide the others, from so many
# that a flood costs little. Feedback that agrees must not take the place of what contradicts.
FEEDBACK = f"""SELECT json_group_array(json_array(about, label, client)) FROM (
    SELECT *, row_number() OVER (PARTITION BY client ORDER BY seq DESC) AS place FROM (
        SELECT given.seq, given.about, json_extract(given.body, '$.label') AS label,
            coalesce(json_extract(given.body, '$.client'), '') AS client
        FROM (SELECT seq, about, body FROM log WHERE about IS NOT NULL AND ts >= ?
                AND about NOT IN (SELECT prediction_id FROM review WHERE label <> 'skip')
            ORDER BY seq DESC LIMIT {50 * MAX_FEEDBACK}) AS given
        JOIN log AS item ON item.id = given.about AND item.kind = {RecordType.PREDICTION:d}
        WHERE instr('+' || json_extract(given.body, '$.label') || '+',
            '+' || json_extract(item.body, '$.label') || '+') = 0)
    ORDER BY seq DESC)
    WHERE place <= {MAX_FEEDBACK_OF_CLIENT}"""
COLUMNS = "prediction_id, reviewer, label, ts, reason, prediction_ts"
COUNT = f"SELECT count(*) FROM log WHERE kind = {RecordType.PREDICTION:d} AND ts >= ?"
NTH = f"""SELECT id FROM log WHERE seq = (
    SELECT seq FROM log WHERE kind = {RecordType.PREDICTION:d} AND ts >= ?
    ORDER BY ts LIMIT 1 OFFSET ?)"""
LEASE = """INSERT INTO lease (prediction_id, reviewer, until, reason, weight) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (prediction_id) DO UPDATE SET reviewer = excluded.reviewer,
        until = excluded.until, reason = excluded.reason, weight = excluded.weight
    WHERE lease.until <= ? OR lease.reviewer = excluded.reviewer"""
WRITE = f"""INSERT OR REPLACE INTO review (id, body) SELECT ?, ?
    WHERE EXISTS (SELECT 1 FROM log WHERE id = ? AND kind = {RecordType.PREDICTION:d})"""


class OutboxReviews:
    """A `ReviewStore` in an outbox that is started."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def snapshot(self, since: int, now: int) -> Snapshot:
        """See `ReviewStore`."""

        def work(db: sqlite3.Connection) -> Snapshot:
            items = {item.id: item for item in _items(db, NEWEST, since)}
            (rows,) = db.execute(FEEDBACK, (since,)).fetchone()
            feedback = orjson.loads(rows)
            about = {
                item.id: item for item in _items(db, BY_ID, since, [row[0] for row in feedback])
            }
            contradicted = contradicting(feedback, about, _reviews_of(db, about))
            items |= {id_: about[id_] for id_ in contradicted}
            sql = f"SELECT {COLUMNS} FROM review ORDER BY ts DESC LIMIT {MAX_REVIEWS}"
            reviews = {Review(*row) for row in db.execute(sql)}
            reviews.update(_reviews_of(db, items))
            sql = "SELECT prediction_id, reviewer, until, reason, weight FROM lease WHERE until > ?"
            leases = {row[0]: Lease(*row) for row in db.execute(sql, (now,))}
            return Snapshot(items, contradicted, list(reviews), leases)

        return await self._outbox.read(work)

    async def draw(
        self, since: int, now: int, rng: random.Random, count: int
    ) -> tuple[list[str], int]:
        """See `ReviewStore`."""

        def work(db: sqlite3.Connection) -> tuple[list[str], int]:
            (total,) = db.execute(COUNT, (since,)).fetchone()
            places = [rng.randrange(total) for _ in range(count if total else 0)]
            # Between two statements rows may be removed; then there is no such row.
            rows = [db.execute(NTH, (since, place)).fetchone() for place in places]
            return [row[0] for row in rows if row], total

        return await self._outbox.read(work)

    async def predictions(self, ids: Collection[str]) -> dict[str, Document]:
        """See `ReviewStore`."""

        def work(db: sqlite3.Connection) -> dict[str, Document]:
            sql = f"""SELECT body FROM log WHERE kind = {RecordType.PREDICTION:d} AND {HAS_TEXT}
                AND id IN (SELECT value FROM json_each(?))"""
            documents = (orjson.loads(body) for (body,) in db.execute(sql, (_json(list(ids)),)))
            return {each["_id"]: each | {"ts": timestamp(each["ts"])} for each in documents}

        return await self._outbox.read(work)

    async def reviews_of(self, ids: Collection[str]) -> list[Review]:
        """See `ReviewStore`."""
        return await self._outbox.read(lambda db: _reviews_of(db, ids))

    async def count_since(self, reviewer: str, since: int) -> int:
        """See `ReviewStore`."""
        sql = "SELECT count(*) FROM review WHERE ts >= ? AND reviewer = ? AND label <> 'skip'"
        return await self._outbox.read(
            lambda db: int(db.execute(sql, (since, reviewer)).fetchone()[0])
        )

    async def lease_of(self, prediction_id: str, now: int) -> Lease | None:
        """See `ReviewStore`."""

        def work(db: sqlite3.Connection) -> Lease | None:
            sql = """SELECT prediction_id, reviewer, until, reason, weight FROM lease
                WHERE prediction_id = ? AND until > ?"""
            row = db.execute(sql, (prediction_id, now)).fetchone()
            return Lease(*row) if row else None

        return await self._outbox.read(work)

    async def lease(self, lease: Lease, now: int) -> bool:
        """See `ReviewStore`."""

        def work(db: sqlite3.Connection) -> bool:
            db.execute("DELETE FROM lease WHERE until < ?", (now - KEEP_LEASES_MS,))
            return db.execute(LEASE, (*lease, now)).rowcount > 0

        return await self._outbox.execute(work)

    async def release(self, prediction_id: str, reviewer: str) -> None:
        """See `ReviewStore`."""
        await self._outbox.execute(lambda db: _release(db, prediction_id, reviewer))

    async def mark_random(self, review: Review | Lease, weight: float) -> None:
        """See `ReviewStore`."""

        def work(db: sqlite3.Connection) -> None:
            if isinstance(review, Lease):
                sql = """UPDATE lease SET reason = 'random', weight = ?
                    WHERE prediction_id = ? AND reviewer = ?"""
                db.execute(sql, (weight, review.prediction_id, review.reviewer))
            else:
                sql = """UPDATE review SET
                    body = json_set(body, '$.reason', 'random', '$.weight', ?) WHERE id = ?"""
                db.execute(sql, (weight, review_id(review.prediction_id, review.reviewer)))

        await self._outbox.execute(work)

    async def find_review(self, prediction_id: str, reviewer: str) -> Document | None:
        """See `ReviewStore`."""

        def work(db: sqlite3.Connection) -> Document | None:
            sql = "SELECT body FROM review WHERE id = ?"
            row = db.execute(sql, (review_id(prediction_id, reviewer),)).fetchone()
            document: Document | None = orjson.loads(row[0]) if row else None
            return document

        return await self._outbox.read(work)

    async def write(self, document: Document) -> bool:
        """See `ReviewStore`."""

        def work(db: sqlite3.Connection) -> bool:
            row = (document["_id"], _json(document), document["prediction_id"])
            _release(db, document["prediction_id"], document["reviewer"])
            return db.execute(WRITE, row).rowcount > 0

        return await self._outbox.execute(work)

    async def remove(self, prediction_id: str, reviewer: str) -> None:
        """See `ReviewStore`."""
        key = (review_id(prediction_id, reviewer),)
        await self._outbox.execute(
            lambda db: db.execute("DELETE FROM review WHERE id = ?", key).rowcount
        )


def _items(
    db: sqlite3.Connection, sql: str, since: int, ids: Collection[str] | None = None
) -> list[Item]:
    (rows,) = db.execute(sql, (since,) if ids is None else (since, _json(list(ids)))).fetchone()
    return [Item(*row) for row in orjson.loads(rows)]


def _reviews_of(db: sqlite3.Connection, ids: Collection[str]) -> list[Review]:
    sql = f"""SELECT {COLUMNS} FROM review
        WHERE prediction_id IN (SELECT value FROM json_each(?))"""
    return [Review(*row) for row in db.execute(sql, (_json(list(ids)),))]


def _release(db: sqlite3.Connection, prediction_id: str, reviewer: str) -> None:
    sql = "DELETE FROM lease WHERE prediction_id = ? AND reviewer = ?"
    db.execute(sql, (prediction_id, reviewer))


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
