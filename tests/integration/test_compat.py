"""The compatible APIs of one app in this process, with a real bundle and a real outbox."""

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.app import create_app
from serving.bundle import ATTRIBUTES
from serving.settings import Settings
from tests.support.service import without_settings

ROOT = Path(__file__).resolve().parents[2]
ANALYZE, SUGGEST = "/v1alpha1/comments:analyze", "/v1alpha1/comments:suggestscore"
TEXTS = ["you absolute clown", "have a lovely day", "أنت أحمق 🤡", "hi 👩‍👩‍👧!", "word " * 300]
Start = Callable[..., TestClient]


@pytest.fixture(scope="module")
def start(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start an app with these settings and an outbox of its own, once for equal settings."""
    clients: dict[str, TestClient] = {}

    def run(**settings: Any) -> TestClient:
        key = repr(settings)
        if key not in clients:
            app = create_app(
                Settings(
                    bundle=trained / "models" / "candidate",
                    policy=ROOT / "configs" / "policy.yaml",
                    outbox=tmp_path_factory.mktemp("outbox") / "outbox.db",
                    **({"perspective": ROOT / "configs" / "perspective.yaml"} | settings),
                )
            )
            clients[key] = TestClient(app, raise_server_exceptions=False)
            clients[key].__enter__()
        return clients[key]

    yield run
    for client in clients.values():
        client.__exit__(None, None, None)


class Log:
    """What an app's outbox has stored since this object was created."""

    def __init__(self, client: TestClient) -> None:
        self._path = client.app.state.classifier.settings.outbox
        self._since = self._rows("SELECT coalesce(max(seq), 0) FROM log")[0][0]

    def _rows(self, query: str, *values: int) -> list[Any]:
        with sqlite3.connect(self._path) as database:
            return database.execute(query, values).fetchall()

    def records(self, kind: int = 0) -> list[dict[str, Any]]:
        query = "SELECT body FROM log WHERE kind = ? AND seq > ? ORDER BY seq"
        return [json.loads(body) for (body,) in self._rows(query, kind, self._since)]


def analyze_body(text: str, **fields: Any) -> dict[str, Any]:
    return {"comment": {"text": text}, "requestedAttributes": {"IDENTITY_ATTACK": {}}} | fields


@pytest.mark.parametrize("text", TEXTS)
def test_every_api_returns_the_same_scores_and_the_log_names_it(start: Start, text: str) -> None:
    log = Log(client := start())
    (native,) = client.post("/v1/predict", json={"texts": [text]}).json()["predictions"]
    attributes = {name: {} for name in ATTRIBUTES}
    google = client.post(ANALYZE, json=analyze_body(text, requestedAttributes=attributes)).json()
    (openai,) = client.post("/v1/moderations", json={"input": text}).json()["results"]
    hub = client.post("/predict", json={"inputs": text}).json()

    scores = native["scores"]
    assert {row["label"]: row["score"] for row in hub} == scores
    rows = google["attributeScores"]
    attributes = native["attributes"]
    assert {name: row["summaryScore"]["value"] for name, row in rows.items()} == attributes
    assert openai["category_scores"]["hate"] == scores["hate"]
    harassment = max(attributes["INSULT"], attributes["THREAT"])
    assert openai["category_scores"]["harassment"] == harassment
    assert openai["flagged"] == (native["label"] == "hate" or harassment >= 0.5)

    records = log.records()
    assert [row["api"] for row in records] == ["native", "perspective", "openai", "huggingface"]
    assert all(row["scores"] == scores and row["text"] == text for row in records)
    assert all(row["attributes"] == attributes for row in records)


def test_do_not_store_stores_nothing(start: Start) -> None:
    log = Log(client := start())
    assert client.post(ANALYZE, json=analyze_body("hi", doNotStore=True)).status_code == 200
    spans = analyze_body("hi. you", doNotStore=True, spanAnnotations=True)
    assert client.post(ANALYZE, json=spans).status_code == 200
    assert log.records() == []


def test_spans_have_the_scores_of_their_own_text_and_no_record(start: Start) -> None:
    log = Log(client := start())
    text = "You absolute clown 🤡! Have a lovely day."
    reply = client.post(ANALYZE, json=analyze_body(text, spanAnnotations=True)).json()
    spans = reply["attributeScores"]["IDENTITY_ATTACK"]["spanScores"]
    units = text.encode("utf-16-le")
    parts = [units[row["begin"] * 2 : row["end"] * 2].decode("utf-16-le") for row in spans]
    assert parts == ["You absolute clown 🤡!", "Have a lovely day."]
    assert [row["text"] for row in log.records()] == [text]
    native = client.post("/v1/predict", json={"texts": parts}).json()["predictions"]
    assert [row["score"]["value"] for row in spans] == [
        row["attributes"]["IDENTITY_ATTACK"] for row in native
    ]


def test_a_suggestion_is_feedback_on_a_prediction(start: Start) -> None:
    log = Log(client := start())
    values = {"TOXICITY": 0, "THREAT": 0.25}
    scores = {name: {"summaryScore": {"value": value}} for name, value in values.items()}
    body = {"comment": {"text": "get busy living"}, "attributeScores": scores, "clientToken": "c"}
    reply = client.post(SUGGEST, json=body)
    assert (reply.status_code, reply.json()) == (200, {"clientToken": "c"})
    (prediction,), (feedback,) = log.records(), log.records(kind=1)
    assert prediction["api"] == "perspective"
    assert feedback["prediction_id"] == prediction["_id"]
    note = "suggestscore: TOXICITY=0, THREAT=0.25"
    assert (feedback["label"], feedback["comment"]) == ("neither", note)
    assert feedback["attributes"] == values


def test_a_long_comment_is_refused_before_its_markup_is_removed(start: Start) -> None:
    client = start(max_chars=100)
    comment = {"text": "<b></b>" * 20 + "hi", "type": "HTML"}
    error = client.post(ANALYZE, json=analyze_body("", comment=comment)).json()["error"]
    assert error["details"][0]["errorType"] == "COMMENT_TOO_LONG"
    comment = {"text": "<b></b>" * 10 + "hi", "type": "HTML"}
    assert client.post(ANALYZE, json=analyze_body("", comment=comment)).status_code == 200


def test_a_comment_has_at_most_max_texts_spans(start: Start) -> None:
    body = analyze_body("a. " * 50, spanAnnotations=True)
    reply = start(max_texts=4).post(ANALYZE, json=body).json()
    spans = reply["attributeScores"]["IDENTITY_ATTACK"]["spanScores"]
    assert [(row["begin"], row["end"]) for row in spans] == [(0, 2), (3, 5), (6, 8), (9, 149)]


def test_the_operator_defines_aliases(start: Start, tmp_path: Path) -> None:
    table = tmp_path / "mine.yaml"
    table.write_text("aliases: {RUDE: INSULT}\nunsupported: omit", encoding="utf-8")
    body = analyze_body("x", requestedAttributes={"RUDE": {}, "FLIRTATION": {}})
    reply = start(perspective=table).post(ANALYZE, json=body)
    assert list(reply.json()["attributeScores"]) == ["RUDE"]
    assert reply.json()["languages"] == ["en"]


def with_key(start: Start, scopes: str = "predict+feedback") -> TestClient:
    digest = hashlib.sha256(b"right").hexdigest()
    return start(api_keys=f"team:{digest}:{scopes}")


@pytest.mark.parametrize(
    ("path", "body", "missing", "wrong"),
    [
        (ANALYZE, analyze_body("x"), 403, 400),
        ("/v1/moderations", {"input": "x"}, 401, 401),
        ("/predict", {"inputs": "x"}, 401, 401),
        ("/v1/predict", {"texts": ["x"]}, 401, 401),
    ],
)
def test_each_api_has_its_own_status_for_a_missing_and_a_wrong_key(
    start: Start, path: str, body: dict[str, Any], missing: int, wrong: int
) -> None:
    client = with_key(start)

    def status(**options: Any) -> int:
        return client.post(path, json=body, **options).status_code

    assert status() == missing
    assert status(headers={"authorization": "Bearer wrong"}) == wrong
    assert status(headers={"authorization": "Bearer right"}) == 200
    # Keys in URLs end up in logs: only Perspective accepts them, whose clients have no other way.
    is_google = path == ANALYZE
    assert status(params={"key": "right", "alt": "json"}) == (200 if is_google else missing)
    assert status(params={"key": "wrong"}) == (wrong if is_google else missing)
    assert status(headers={"x-goog-api-key": "right"}) == 200


def test_a_suggestion_needs_the_scope_feedback(start: Start) -> None:
    client = with_key(start, "predict")
    reply = client.post(SUGGEST, params={"key": "right"}, json={})
    assert reply.status_code == 403
    assert reply.json()["error"]["status"] == "PERMISSION_DENIED"


def test_all_apis_share_one_rate_limit(start: Start) -> None:
    client = start(requests_per_minute=2)
    assert client.post("/v1/predict", json={"texts": ["x"]}).status_code == 200
    assert client.post("/predict", json={"inputs": "x"}).status_code == 200
    replies = [client.post(ANALYZE, json=analyze_body("x"))]
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
def test_invalid_bodies_get_the_error_format_of_the_api(
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


def test_truncate_false_refuses_a_text_that_the_model_would_truncate(start: Start) -> None:
    client = start()
    assert client.post("/predict", json={"inputs": TEXTS, "truncate": False}).status_code == 200
    log = Log(client)
    body = {"inputs": ["short", "word " * 1500], "truncate": False}
    reply = client.post("/predict", json=body)
    assert (reply.status_code, reply.json()["error_type"]) == (413, "validation")
    assert "inputs[1]" in reply.json()["error"]
    assert log.records() == []
    assert client.post("/predict", json=body | {"truncate": True}).status_code == 200


def test_the_discovery_document_needs_no_key_and_has_the_requested_host(start: Start) -> None:
    client = with_key(start)
    reply = client.get("/$discovery/rest?version=v1alpha1", headers={"host": "tagger.example:8443"})
    assert reply.json()["rootUrl"] == "http://tagger.example:8443/"


def test_a_moderation_names_the_scored_categories(start: Start) -> None:
    reply = start().post("/v1/moderations", json={"input": "x"})
    categories = "harassment, harassment/threatening, hate, hate/threatening"
    assert reply.headers["x-categories-judged"] == categories


BODIES = {
    ANALYZE: analyze_body("x"),
    "/v1/moderations": {"input": "x"},
    "/predict": {"inputs": "x"},
    "/v1/predict": {"texts": ["x"]},
}
STATUSES = f"""
from starlette.testclient import TestClient
from serving.app import create_app
from serving.settings import load_settings
with TestClient(create_app(load_settings())) as client:
    for path, body in {BODIES!r}.items():
        print(path, client.post(path, json=body).status_code)
"""


@pytest.mark.parametrize(
    ("name", "path"),
    [("perspective", ANALYZE), ("openai.py", "/v1/moderations"), ("huggingface.py", "/predict")],
)
def test_an_api_can_be_deleted_without_other_changes(
    trained: Path, tmp_path: Path, name: str, path: str
) -> None:
    for folder in ("serving", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    deleted = tmp_path / "serving" / "compat" / name
    shutil.rmtree(deleted) if deleted.is_dir() else deleted.unlink()
    ended = subprocess.run(
        [sys.executable, "-c", STATUSES],
        cwd=tmp_path,
        env=without_settings()
        | {"TAGGER_BUNDLE": str(trained / "models" / "candidate"), "TAGGER_OUTBOX": "outbox.db"},
        capture_output=True,
        text=True,
        check=True,
    )
    statuses = dict(line.split() for line in ended.stdout.splitlines())
    assert statuses == dict.fromkeys(BODIES, "200") | {path: "404"}
