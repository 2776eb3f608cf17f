"""A log as a source of training: a MongoDB-wire server, and the outbox of the real service.

The server is MONGODB_TEST_URI if it is set, else secantusdb.
"""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import yaml
from pymongo import MongoClient
from pymongo.database import Database

from serving.auth import new_key
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.mongo import MongoArchive
from serving.prediction_log.outbox import Outbox
from serving.prediction_log.records import timestamp
from tests.conftest import ROOT
from tests.support.labelled_log import Said, by_clients, review, write
from tests.support.mongodb import MongoServer
from tests.support.prediction_log import PLENTY
from tests.support.service import Served
from training.config import PrepareParams, load_profile, load_sources
from training.data import log_source
from training.data.ingest import ingest
from training.data.log_source import read_log
from training.data.prepare import prepare
from training.errors import DataError

PARAMS = PrepareParams(val_fraction=0.2, test_fraction=0.2, near_duplicate=0.8, max_rows=0)
LABELS = {name: [name] for name in ("hate", "offensive", "neither")}
PASSWORD = "correct-horse"
Documents = dict[str, Any]
SAID = [
    Said("they sent a glorp", "offensive", reviewer="ann"),
    Said("they sent a GLORP", "hate", reviewer="bob"),
    Said("They sent a glorp", "hate", reviewer="cy"),
    Said("nobody knows this one", "unsure", reviewer="ann"),
    *by_clients("what a zindle", "hate+offensive", "a", "b", "10.0.0.1", THREAT=0.75),
    *by_clients("too few of them", "hate", "10.0.0.1", "10.0.0.2"),
    Said("soon to be forgotten", "hate", reviewer="ann"),
]


@pytest.fixture
def named(checkout: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> str:
    """A checkout with the bundled sample and the database as sources; the database's address."""
    configure("${MONGODB_URI}")
    monkeypatch.setenv("MONGODB_URI", uri)
    return uri


def configure(uri: str) -> None:
    sample = {"path": "data/sample/tweets.csv", "labels": LABELS, "max_rows": 200}
    log = {"kind": "log", "uri": uri, "max_client_share": 1}
    text = yaml.safe_dump({"sample": sample, "reviewed": log}, sort_keys=False)
    Path("configs/sources.yaml").write_text(text)


def run() -> tuple[pd.DataFrame, dict[str, Any]]:
    """The log's rows after `ingest` and `prepare`, and what `prepare` counted."""
    ingest("sample", load_sources())
    sources = {n: s for n, s in load_sources().items() if n not in load_profile().missing}
    splits, counts = prepare(PARAMS, sources)
    rows = pd.concat(splits.values())
    return rows[rows["source"] == "reviewed"].set_index("text"), counts["logs"]["reviewed"]


def with_mongodb(folder: Path, uri: str, erase: list[str] | None = None) -> list[str]:
    """Write SAID as the service does with MongoDB, or erase; return the predictions' ids."""

    async def work() -> list[str]:
        archive = MongoArchive(uri, ttl=timedelta(days=30))
        log = PredictionLog(Outbox(folder / "outbox.db", max_bytes=PLENTY, ring=False), archive)
        await log.start()
        try:
            for id_ in erase or ():
                assert await log.delete(id_)
            return [] if erase else await write(log, SAID)
        finally:
            await log.close()  # which sends what waits

    return asyncio.run(work())


def add_reviews(database: Database[Documents], ids: list[str]) -> None:
    for id_, said in zip(ids, SAID, strict=True):
        if said.reviewer:
            document = review(id_, said)
            times = {name: timestamp(document[name]) for name in ("ts", "prediction_ts")}
            database["reviews"].insert_one(document | times)


def test_mongodb_is_read_and_an_erased_text_is_gone_after_the_next_run(
    named: str, database: Database[Documents], tmp_path: Path
) -> None:
    ids = with_mongodb(tmp_path, named)
    add_reviews(database, ids)
    rows, report = run()
    assert {text.lower() for text in rows.index} == {
        "they sent a glorp", "what a zindle", "soon to be forgotten"
    }  # fmt: skip
    zindle = rows.loc["what a zindle"]
    assert list(zindle["labels"]) == ["hate", "offensive"]
    assert zindle["attributes"][-1] == 0.75
    (glorp,) = (text for text in rows.index if "glorp" in text.lower())
    assert list(rows.loc[glorp, "votes"]) == [2, 1, 0]
    assert report["reviews"] == {"read": 5, "entered": 4, "refused": {"unsure": 1}}
    refused = {"repeated": 1, "too_few_clients": 1}
    assert report["feedback"] == {"read": 5, "confirmed": 0, "agreed": 3, "refused": refused}

    with_mongodb(tmp_path, named, erase=[ids[-1], ids[4]])  # a review, and one of three clients
    rows, report = run()
    assert [text.lower() for text in rows.index] == ["they sent a glorp"]
    assert report["reviews"]["refused"] == {"unsure": 1, "erased": 1}
    assert report["feedback"]["refused"]["erased"] == 1
    files = ["data/raw/reviewed.parquet", *Path("data/processed").glob("*.parquet")]
    assert not any("forgotten" in text for path in files for text in pd.read_parquet(path)["text"])


def test_an_empty_database_contributes_nothing(named: str) -> None:
    rows, report = run()
    assert rows.empty
    assert report["texts"] == {"by_reviewers": 0, "by_clients": 0}


def test_of_mongodb_only_the_newest_are_read(
    named: str, database: Database[Documents], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = with_mongodb(tmp_path, named)
    add_reviews(database, ids)
    database["reviews"].update_one({"prediction_id": ids[0]}, {"$set": {"ts": timestamp(1)}})
    monkeypatch.setattr(log_source, "MAX_DOCUMENTS", 4)
    monkeypatch.setattr(log_source, "IDS_AT_ONCE", 3)
    documents = read_log(named)
    assert documents.not_read == {"reviews": 1, "feedback": 1}
    assert ids[0] not in {review["prediction_id"] for review in documents.reviews}
    about = {each["prediction_id"] for each in (*documents.reviews, *documents.feedback)}
    assert {prediction["_id"] for prediction in documents.predictions} == about


def test_wrong_credentials_are_one_sentence_without_the_password(tmp_path: Path) -> None:
    with MongoServer(tmp_path) as server:
        with MongoClient[Documents](server.uri) as client:
            roles = [{"role": "read", "db": "tweets"}]
            client["admin"].command("createUser", "bob", pwd=PASSWORD, roles=roles)
        server.stop()
        server.start("--auth")
        host = f"127.0.0.1:{server.port}"
        right = f"mongodb://bob:{PASSWORD}@{host}/tweets?authSource=admin"
        assert not read_log(right).reviews  # the role `read` is enough
        for address, problem in [
            (right.replace(PASSWORD, "wrong-horse"), "does not accept the user: got error 18, "),
            (f"mongodb://{host}/tweets", "does not allow reading: got error 13, wanted a user"),
        ]:
            with pytest.raises(DataError) as caught:
                read_log(address)
            message = str(caught.value)
            assert message.startswith(f"MongoDB at {host} {problem}")
            assert "horse" not in message
            assert "\n" not in message


def test_a_server_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_source, "SERVER_S", 0.5)
    with MongoServer(tmp_path) as server:
        server.freeze()
        with pytest.raises(DataError, match=r"does not answer: got .*, wanted a server"):
            read_log(server.uri)
        server.thaw()


def test_labels_of_the_real_service_become_rows_and_do_not_store_never_gets_there(
    checkout: Path, tmp_path: Path
) -> None:
    keys, entries = zip(*(new_key(name) for name in ("forum", "shop", "press")), strict=True)
    service = Served(ROOT / "models" / "release", tmp_path, API_KEYS=",".join(entries))
    try:
        clients = [client(service, key) for key in keys]
        shared = predict(clients[0], "what a zindle")
        for http in clients:  # on one prediction, and each on its own
            assert feedback(http, shared, "hate") == 200
            assert feedback(http, predict(http, "you moldy sprocket"), "offensive") == 200
            assert feedback(http, predict(http, "kept secret", do_not_store=True), "hate") == 404
            assert suggest(http, "what a rude gronk", TOXICITY=0.9, THREAT=0.8) == 200
        # The service still runs.
        configure(str(tmp_path / "outbox.db"))
        rows, report = run()
        for http in clients:
            http.close()
    finally:
        service.stop()
    assert {text: list(labels) for text, labels in rows["labels"].items()} == {
        "what a zindle": ["hate"],
        "you moldy sprocket": ["offensive"],
        "what a rude gronk": ["hate", "offensive"],
    }
    assert rows.loc["what a rude gronk", "attributes"][-1] == pytest.approx(0.8)
    assert report["feedback"] == {"read": 9, "confirmed": 0, "agreed": 9, "refused": {}}
    assert b"kept secret" not in Path("data/raw/reviewed.parquet").read_bytes()


def client(service: Served, key: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=service.url, headers=headers, timeout=60)


def predict(http: httpx.Client, text: str, **more: object) -> str:
    reply = http.post("/v1/predict", json={"texts": [text], **more})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["predictions"][0]["id"])


def feedback(http: httpx.Client, prediction_id: str, label: str) -> int:
    body = {"prediction_id": prediction_id, "label": label}
    return http.post("/v1/feedback", json=body).status_code


def suggest(http: httpx.Client, text: str, **scores: float) -> int:
    given = {name: {"summaryScore": {"value": value}} for name, value in scores.items()}
    body = {"comment": {"text": text}, "attributeScores": given}
    reply = http.post("/v1alpha1/comments:suggestscore", json=body)
    assert reply.status_code == 200, reply.text
    return reply.status_code
