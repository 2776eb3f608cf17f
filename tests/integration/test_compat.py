"""Every door of one app in this process, with a real bundle and a real outbox."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.app import create_app
from serving.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
ANALYZE, SUGGEST = "/v1alpha1/comments:analyze", "/v1alpha1/comments:suggestscore"
TEXTS = ["you absolute clown", "have a lovely day", "أنت أحمق 🤡", "hi 👩‍👩‍👧!", "word " * 300]
Start = Callable[..., TestClient]


@pytest.fixture(scope="module")
def start(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts an app with these settings and an outbox of its own; the same again is not started."""
    opened: dict[str, TestClient] = {}

    def run(**settings: Any) -> TestClient:
        key = repr(settings)
        if key not in opened:
            app = create_app(
                Settings(
                    bundle=trained / "models" / "candidate",
                    policy=ROOT / "configs" / "policy.yaml",
                    outbox=tmp_path_factory.mktemp("outbox") / "outbox.db",
                    **({"perspective": ROOT / "configs" / "perspective.yaml"} | settings),
                )
            )
            opened[key] = TestClient(app, raise_server_exceptions=False)
            opened[key].__enter__()
        return opened[key]

    yield run
    for client in opened.values():
        client.__exit__(None, None, None)


class Log:
    """What an app's outbox holds since this was made."""

    def __init__(self, client: TestClient) -> None:
        self._path = client.app.state.service.settings.outbox
        self._since = self._rows("SELECT coalesce(max(seq), 0) FROM log")[0][0]

    def _rows(self, query: str, *values: int) -> list[Any]:
        with sqlite3.connect(self._path) as database:
            return database.execute(query, values).fetchall()

    def records(self, kind: int = 0) -> list[dict[str, Any]]:
        query = "SELECT body FROM log WHERE kind = ? AND seq > ? ORDER BY seq"
        return [json.loads(body) for (body,) in self._rows(query, kind, self._since)]


def asking(text: str, **more: Any) -> dict[str, Any]:
    return {"comment": {"text": text}, "requestedAttributes": {"IDENTITY_ATTACK": {}}} | more


@pytest.mark.parametrize("text", TEXTS)
def test_every_door_says_the_same_numbers_and_notes_its_name(start: Start, text: str) -> None:
    log = Log(client := start())
    (native,) = client.post("/v1/predict", json={"texts": [text]}).json()["predictions"]
    attributes = {name: {} for name in ("TOXICITY", "IDENTITY_ATTACK", "PROFANITY")}
    google = client.post(ANALYZE, json=asking(text, requestedAttributes=attributes)).json()
    (openai,) = client.post("/v1/moderations", json={"input": text}).json()["results"]
    hub = client.post("/predict", json={"inputs": text}).json()

    scores = native["scores"]
    assert {row["label"]: row["score"] for row in hub} == scores
    found = {name: row["summaryScore"]["value"] for name, row in google["attributeScores"].items()}
    assert found == {
        "TOXICITY": round(scores["hate"] + scores["offensive"], 6),
        "IDENTITY_ATTACK": scores["hate"],
        "PROFANITY": scores["offensive"],
    }
    assert openai["category_scores"]["hate"] == scores["hate"]
    assert openai["category_scores"]["harassment"] == scores["offensive"]
    assert openai["flagged"] == (native["label"] != "neither")

    records = log.records()
    assert [row["door"] for row in records] == ["native", "perspective", "openai", "huggingface"]
    assert all(row["scores"] == scores and row["text"] == text for row in records)


def test_do_not_store_leaves_nothing(start: Start) -> None:
    log = Log(client := start())
    assert client.post(ANALYZE, json=asking("hi", doNotStore=True)).status_code == 200
    spans = asking("hi. you", doNotStore=True, spanAnnotations=True)
    assert client.post(ANALYZE, json=spans).status_code == 200
    assert log.records() == []


def test_spans_have_the_scores_of_their_own_text_and_no_record(start: Start) -> None:
    log = Log(client := start())
    text = "You absolute clown 🤡! Have a lovely day."
    reply = client.post(ANALYZE, json=asking(text, spanAnnotations=True)).json()
    spans = reply["attributeScores"]["IDENTITY_ATTACK"]["spanScores"]
    units = text.encode("utf-16-le")
    parts = [units[row["begin"] * 2 : row["end"] * 2].decode("utf-16-le") for row in spans]
    assert parts == ["You absolute clown 🤡!", "Have a lovely day."]
    assert [row["text"] for row in log.records()] == [text]
    alone = client.post("/v1/predict", json={"texts": parts}).json()["predictions"]
    assert [row["score"]["value"] for row in spans] == [row["scores"]["hate"] for row in alone]


def test_a_suggestion_is_feedback_on_a_prediction(start: Start) -> None:
    log = Log(client := start())
    said = {"TOXICITY": {"summaryScore": {"value": 0}}}
    body = {"comment": {"text": "get busy living"}, "attributeScores": said, "clientToken": "c"}
    reply = client.post(SUGGEST, json=body)
    assert (reply.status_code, reply.json()) == (200, {"clientToken": "c"})
    (prediction,), (feedback,) = log.records(), log.records(kind=1)
    assert prediction["door"] == "perspective"
    assert feedback["prediction_id"] == prediction["_id"]
    assert (feedback["label"], feedback["comment"]) == ("neither", "suggestscore: TOXICITY=0")


def test_a_comment_too_long_is_refused_before_its_markup_is_read(start: Start) -> None:
    client = start(max_chars=100)
    comment = {"text": "<b></b>" * 20 + "hi", "type": "HTML"}
    (detail,) = client.post(ANALYZE, json=asking("", comment=comment)).json()["error"]["details"]
    assert detail["errorType"] == "COMMENT_TOO_LONG"
    comment = {"text": "<b></b>" * 10 + "hi", "type": "HTML"}
    assert client.post(ANALYZE, json=asking("", comment=comment)).status_code == 200


def test_a_comment_of_many_sentences_has_as_many_spans_as_a_request_has_texts(start: Start) -> None:
    reply = start(max_texts=4).post(ANALYZE, json=asking("a. " * 50, spanAnnotations=True)).json()
    spans = reply["attributeScores"]["IDENTITY_ATTACK"]["spanScores"]
    assert [(row["begin"], row["end"]) for row in spans] == [(0, 2), (3, 5), (6, 8), (9, 149)]


def test_attributes_are_the_operators(start: Start, tmp_path: Path) -> None:
    table = tmp_path / "mine.yaml"
    table.write_text(
        "attributes: {RUDE: [offensive]}\nunsupported: omit\nlanguages: [de, en]", encoding="utf-8"
    )
    wanted = {"RUDE": {}, "TOXICITY": {}}
    reply = start(perspective=table).post(ANALYZE, json=asking("x", requestedAttributes=wanted))
    assert list(reply.json()["attributeScores"]) == ["RUDE"]
    assert reply.json()["languages"] == ["de"]


def secured(start: Start, rights: str = "predict+feedback") -> TestClient:
    digest = hashlib.sha256(b"right").hexdigest()
    return start(api_keys=f"team:{digest}:{rights}")


@pytest.mark.parametrize(
    ("path", "body", "none", "wrong"),
    [
        (ANALYZE, asking("x"), 403, 400),
        ("/v1/moderations", {"input": "x"}, 401, 401),
        ("/predict", {"inputs": "x"}, 401, 401),
        ("/v1/predict", {"texts": ["x"]}, 401, 401),
    ],
)
def test_keys_are_asked_for_as_each_service_does(
    start: Start, path: str, body: dict[str, Any], none: int, wrong: int
) -> None:
    client = secured(start)

    def status(**where: Any) -> int:
        return client.post(path, json=body, **where).status_code

    assert status() == none
    assert status(headers={"authorization": "Bearer wrong"}) == wrong
    assert status(headers={"authorization": "Bearer right"}) == 200
    # A key in an address ends up in logs: only Perspective's clients, who know no other way.
    is_google = path == ANALYZE
    assert status(params={"key": "right", "alt": "json"}) == (200 if is_google else none)
    assert status(params={"key": "wrong"}) == (wrong if is_google else none)
    assert status(headers={"x-goog-api-key": "right"}) == 200


def test_a_suggestion_needs_the_right_to_give_feedback(start: Start) -> None:
    client = secured(start, "predict")
    reply = client.post(SUGGEST, params={"key": "right"}, json={})
    assert reply.status_code == 403
    assert reply.json()["error"]["status"] == "PERMISSION_DENIED"


def test_limits_hold_for_every_door_together(start: Start) -> None:
    client = start(requests_per_minute=2)
    assert client.post("/v1/predict", json={"texts": ["x"]}).status_code == 200
    assert client.post("/predict", json={"inputs": "x"}).status_code == 200
    replies = [client.post(ANALYZE, json=asking("x"))]
    replies.append(client.post("/v1/moderations", json={"input": "x"}))
    assert [reply.status_code for reply in replies] == [429, 429]
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies)
    assert replies[0].json()["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert replies[1].json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        (ANALYZE, b"{", 400),
        (ANALYZE, b"[]", 400),
        (ANALYZE, b'{"comment": {"text": "\xff"}}', 400),
        (SUGGEST, b"{}", 400),
        ("/v1/moderations", b"{", 400),
        ("/v1/moderations", b"{}", 400),
        ("/v1/moderations", b'{"input": " "}', 400),
        ("/v1/moderations", b'{"input": []}', 400),
        ("/v1/moderations", b'{"input": ["x", ""]}', 400),
        ("/predict", b"{", 400),
        ("/predict", b"{}", 422),
        ("/predict", b'{"inputs": []}', 422),
        ("/predict", b'{"inputs": [["a", "b"]]}', 422),
    ],
)
def test_bad_bodies_get_the_envelope_of_their_door(
    start: Start, path: str, content: bytes, status: int
) -> None:
    client = start()
    reply = client.post(path, content=content, headers={"content-type": "application/json"})
    assert reply.status_code == status
    error = reply.json()["error"]
    if path.startswith("/v1alpha1"):
        assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
    elif path == "/predict":
        assert reply.json()["error_type"] == "validation"
    else:
        assert set(error) == {"message", "type", "param", "code"}


def test_what_the_model_would_cut_is_refused_on_wish(start: Start) -> None:
    log = Log(client := start())
    body = {"inputs": ["short", "word " * 300], "truncate": False}
    reply = client.post("/predict", json=body)
    assert (reply.status_code, reply.json()["error_type"]) == (413, "validation")
    assert "inputs[1]" in reply.json()["error"]
    assert log.records() == []
    assert client.post("/predict", json=body | {"truncate": True}).status_code == 200


def test_the_discovery_document_is_open_and_names_the_host_that_was_asked(start: Start) -> None:
    client = secured(start)
    reply = client.get("/$discovery/rest?version=v1alpha1", headers={"host": "tagger.example:8443"})
    assert reply.json()["rootUrl"] == "http://tagger.example:8443/"


def test_a_moderation_says_which_categories_are_judged(start: Start) -> None:
    reply = start().post("/v1/moderations", json={"input": "x"})
    assert reply.headers["x-categories-judged"] == "hate, harassment"
