"""The compatible APIs of one app in this process, with a real bundle and a real outbox."""

import email
import gzip
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from starlette.testclient import TestClient

from serving.app import create_app
from serving.bundle import ATTRIBUTES
from serving.inference.batcher import QueueFullError
from serving.inference.engine import Engine
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


def test_spans_keep_the_deadline_of_their_request(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines, predict = [], Engine.predict

    async def recorded(
        self: Engine, texts: Any, priority: Any = None, deadline: float | None = None
    ) -> Any:
        deadlines.append(deadline)
        return await predict(self, texts, priority, deadline)

    monkeypatch.setattr(Engine, "predict", recorded)
    body = analyze_body("You clown. Have a lovely day.", spanAnnotations=True)
    assert start().post(ANALYZE, json=body, headers={"x-request-timeout": "60"}).status_code == 200
    assert len(deadlines) == 2
    assert deadlines[0] is not None
    assert deadlines[0] == deadlines[1]


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
    assert [(row["begin"], row["end"]) for row in spans] == [
        (0, 38),
        (39, 77),
        (78, 116),
        (117, 149),
    ]


def test_a_comment_whose_spans_are_refused_is_not_stored(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(client := start())
    monkeypatch.setattr(Engine, "predict", AsyncMock(side_effect=QueueFullError(2.0)))
    body = analyze_body("a. " * 50, spanAnnotations=True)
    reply = client.post(ANALYZE, json=body)
    assert reply.status_code == 503  # as Google says it
    assert log.records() == []


def words(count: int) -> str:
    """A text without a full stop, of words that no vocabulary has."""
    return " ".join("abcdefghij"[i % 10] + "zyxwvut"[i % 7] + "kl" * (i % 3) for i in range(count))


def test_a_reply_without_a_field_for_it_says_in_a_header_what_was_not_read(start: Start) -> None:
    client, long = start(), words(1800)
    header = "x-truncated-inputs"
    for path, body, wanted in [
        ("/v1/moderations", {"input": ["a", long, "b", long]}, "1, 3"),
        ("/v1/moderations", {"input": "a"}, None),
        ("/predict", {"inputs": long}, "0"),
        (ANALYZE, analyze_body(long), "0"),
    ]:
        reply = client.post(path, json=body)
        assert (reply.status_code, reply.headers.get(header)) == (200, wanted), path


def test_every_span_of_a_long_comment_is_read_to_its_end(start: Start) -> None:
    plain = "have a lovely day you absolute clown "
    comments = [plain * 250, "".join(f"{plain[:17]}{i}. " for i in range(400))]
    for comment in comments:
        reply = start().post(ANALYZE, json=analyze_body(comment, spanAnnotations=True))
        assert reply.status_code == 200
        assert "x-truncated-spans" not in reply.headers
    reply = start(max_texts=1).post(ANALYZE, json=analyze_body(words(1800), spanAnnotations=True))
    assert reply.headers["x-truncated-spans"] == "0"


def test_a_text_that_would_lose_its_beginning_is_refused(start: Start) -> None:
    body = {"inputs": "a", "truncation_direction": "Left"}
    assert start().post("/predict", json=body).status_code == 200
    reply = start().post("/predict", json=body | {"inputs": words(1800)})
    assert reply.status_code == 413
    assert "truncation_direction is Left" in reply.json()["error"]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"fields": "languages"}, {"languages": ["en"]}),
        ({"$fields": "attributeScores/IDENTITY_ATTACK/summaryScore/type"}, None),
        ({"alt": "json", "prettyPrint": "false", "quotaUser": "a", "fields": "clientToken"}, {}),
    ],
)
def test_a_partial_response_has_the_fields_that_were_asked_for(
    start: Start, query: dict[str, str], wanted: Any
) -> None:
    scores = {"IDENTITY_ATTACK": {"summaryScore": {"type": "PROBABILITY"}}}
    reply = start().post(ANALYZE, json=analyze_body("x"), params=query)
    assert reply.json() == ({"attributeScores": scores} if wanted is None else wanted)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"alt": "proto"}, "alt must be json"),
        ({"callback": "f"}, 'Unknown name "callback"'),
        ({"fields": "a(b"}, "not a field mask"),
    ],
)
def test_a_query_parameter_that_cannot_be_obeyed_is_refused(
    start: Start, query: dict[str, str], words: str
) -> None:
    reply = start().post(ANALYZE, json=analyze_body("x"), params=query)
    assert reply.status_code == 400
    assert words in reply.json()["error"]["message"]


def test_a_misspelt_field_gets_the_name_that_was_meant(start: Start) -> None:
    client = start()
    for path, body, name in [
        ("/v1/predict", {"text": ["a"]}, "`texts`"),
        ("/v1/predict", {"texts": ["a"], "doNotStore": True}, "`do_not_store`"),
        ("/v1/moderations", {"inputs": "a"}, "`input`"),
        ("/predict", {"input": "a"}, "`inputs`"),
        ("/predict", {"inputs": "a", "parameters": {"topk": 1}}, "`top_k`"),
        (ANALYZE, analyze_body("a", request_attributes={}), "`requestedAttributes`"),
    ]:
        reply = client.post(path, json=body)
        assert reply.status_code in {400, 422}
        assert f"Unknown field; did you mean {name}?" in reply.text, path


def test_an_error_names_every_wrong_field(start: Start) -> None:
    client = start()
    body: Any = {"texts": ["a", 1, 2], "do_not_store": "no", "zzz": 1}
    error = client.post("/v1/predict", json=body).json()["error"]
    assert error["field"] == "texts[1]"
    assert all(f"`{name}`: " in error["message"] for name in ("texts[2]", "do_not_store", "zzz"))
    assert "known fields: `texts`, `do_not_store`" in error["message"]
    body = {"inputs": ["a", 5], "truncate": "x", "raw_scores": True}
    message = client.post("/predict", json=body).json()["error"]
    assert all(f"`{name}`: " in message for name in ("inputs[1]", "truncate", "raw_scores"))
    body = analyze_body("a", languages=5, spanAnnotations="maybe")
    (detail,) = client.post(ANALYZE, json=body).json()["error"]["details"]
    fields = [row["field"] for row in detail["fieldViolations"]]
    assert fields == ["languages", "spanAnnotations"]
    body = {f"unknown{i}": 1 for i in range(1000)}
    message = client.post("/v1/predict", json=body).json()["error"]["message"]
    assert message.endswith("; and 996 more")


@pytest.mark.parametrize(
    ("path", "content", "field", "message"),
    [
        (
            "/v1/moderations",
            b'{"input": [{"type": "input_text", "text": "a"}]}',
            "input[0].type",
            "This value must be 'text' or 'image_url'",
        ),
        ("/v1/moderations", b'{"input": [{"text": "a"}]}', "input[0].type", "is required"),
        (
            "/v1/moderations",
            b'{"input": [{"type": "text", "text": "a"}, {"type": "text", "text": 1}]}',
            "input[1].text",
            "must be a string",
        ),
        ("/predict", b'{"inputs": [["a"], [1]]}', "inputs[1][0]", "must be a string"),
        ("/predict", b'{"inputs": [[]]}', "inputs[0]", "This list must have one text"),
    ],
)
def test_an_error_inside_of_a_list_names_the_value_and_what_is_wanted(
    start: Start, path: str, content: bytes, field: str, message: str
) -> None:
    reply = start().post(path, content=content, headers={"content-type": "application/json"})
    error = reply.json()["error"]
    if path == "/predict":
        assert error.startswith(f"`{field}`: ")
    else:
        assert error["param"] == field
    assert message in reply.text


@pytest.mark.parametrize(
    ("path", "content", "key"),
    [
        ("/v1/predict", b'{"texts": ["a"], "texts": ["b"]}', "texts"),
        ("/v1/predict", b'{"texts": ["a"], "te\\u0078ts": ["b"]}', "texts"),
        ("/v1/moderations", b'{"input": [{"type": "text", "text": "a", "text": "b"}]}', "text"),
        ("/predict", b'{"inputs": "a", "parameters": {"top_k": 1, "top_k": 2}}', "top_k"),
        (
            ANALYZE,
            b'{"comment": {"text": "a"}, "requestedAttributes": {"THREAT": {}, "THREAT": {}}}',
            "THREAT",
        ),
    ],
)
def test_a_key_that_is_there_twice_is_refused(
    start: Start, path: str, content: bytes, key: str
) -> None:
    reply = start().post(path, content=content, headers={"content-type": "application/json"})
    assert reply.status_code in {400, 422}
    assert f"The request body has the key `{key}` twice in one object" in reply.text


def test_null_is_not_set_in_every_api(start: Start) -> None:
    client = start()
    perspective = ("context", "languages", "clientToken", "sessionId", "communityId")
    for path, body in [
        ("/v1/predict", {"texts": ["a"], "do_not_store": None}),
        ("/v1/explain", {"text": "a"} | dict.fromkeys(("label", "num_samples", "seed"))),
        ("/v1/explain", {"text": "a", "num_features": None}),
        ("/v1/moderations", {"input": "a", "model": None}),
        ("/predict", {"inputs": "a", "raw_scores": None, "truncate": None, "parameters": None}),
        ("/predict", {"inputs": "a", "parameters": {"top_k": None, "function_to_apply": None}}),
        (ANALYZE, analyze_body("a", **dict.fromkeys(perspective))),
        (ANALYZE, analyze_body("a", spanAnnotations=None, doNotStore=None)),
        (ANALYZE, analyze_body("a", requestedAttributes={"TOXICITY": None})),
    ]:
        reply = client.post(path, json=body)
        assert reply.status_code == 200, reply.text


def test_a_suggestion_that_would_not_be_stored_whole_is_refused(start: Start) -> None:
    for more, words_ in [
        ({"spanScores": [{}]}, "spanScores"),
        ({"summaryScore": {"value": 0, "type": "X"}}, "type"),
    ]:
        scores = {"TOXICITY": {"summaryScore": {"value": 0}} | more}
        body = {"comment": {"text": "a"}, "attributeScores": scores}
        reply = start().post(SUGGEST, json=body)
        assert reply.status_code == 400
        assert words_ in reply.json()["error"]["message"]
    body = analyze_body("a", requestedAttributes={"TOXICITY": {"scoreThreshold": float("nan")}})
    reply = start().post(
        ANALYZE, content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert "finite" in reply.json()["error"]["message"]


def batch_of(*calls: bytes) -> dict[str, Any]:
    """The arguments of a request with these calls."""
    head = b"--b\r\nContent-Type: application/http\r\nContent-ID: <id + %d>\r\n\r\n%s\r\n"
    content = b"".join(head % row for row in enumerate(calls)) + b"--b--\r\n"
    headers = {"content-type": 'multipart/mixed; boundary="b"'}
    return {"url": "/batch", "content": content, "headers": headers}


def call(
    body: Any, line: str = f"POST {ANALYZE}?key=right&alt=json HTTP/1.1", more: str = ""
) -> bytes:
    return f"{line}\nContent-Type: application/json\n{more}\n{json.dumps(body)}".encode()


def replies_of(reply: Any) -> list[tuple[str, int, dict[str, Any]]]:
    """Content-ID, status and body of each reply in a batch."""
    head = f"Content-Type: {reply.headers['content-type']}\r\n\r\n".encode()
    rows = []
    for part in email.message_from_bytes(head + reply.content).get_payload():
        assert part.get_content_type() == "application/http"
        status, _, rest = part.get_payload(decode=True).partition(b"\r\n")
        body = json.loads(rest.partition(b"\r\n\r\n")[2])
        rows.append((part["content-id"], int(status.split()[1]), body))
    return rows


def test_a_batch_answers_each_call_with_its_own_key_and_error(start: Start) -> None:
    log = Log(client := with_key(start))
    text = "You absolute clown 🤡"
    calls = [
        call(analyze_body(text)),
        call(analyze_body("")),
        call(analyze_body("x"), f"POST {ANALYZE}?key=wrong HTTP/1.1"),
        call(analyze_body("x"), f"POST {ANALYZE} HTTP/1.1", "X-Goog-Api-Key: right\n"),
        call({}, "POST /v1/model/reload HTTP/1.1"),
        call({}, "POST /batch HTTP/1.1"),
        b"",
        b"\xff\x00 HTTP",
    ]
    reply = client.post(**batch_of(*calls))
    assert reply.status_code == 200
    rows = replies_of(reply)
    assert [row[0] for row in rows] == [f"<response-id + {i}>" for i in range(len(calls))]
    assert [row[1] for row in rows] == [200, 400, 400, 200, 404, 404, 400, 400]
    alone = client.post(ANALYZE, params={"key": "right"}, json=analyze_body(text)).json()
    assert rows[0][2] == alone
    assert rows[1][2]["error"]["details"][0]["errorType"] == "COMMENT_EMPTY"
    assert rows[2][2]["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert sorted(row["text"] for row in log.records()) == sorted([text, "x", text])


def test_a_batch_is_bounded_and_its_own_errors_have_googles_format(start: Start) -> None:
    client = start(max_texts=2, max_bytes=3000)
    good = call(analyze_body("x"))
    assert [row[1] for row in replies_of(client.post(**batch_of(good, good)))] == [200, 200]
    compressed = batch_of(good)
    compressed["content"] = gzip.compress(compressed["content"])
    compressed["headers"]["content-encoding"] = "gzip"
    assert [row[1] for row in replies_of(client.post(**compressed))] == [200]
    for arguments, words_ in [
        (batch_of(good, good, good), "3 calls are too many; the limit of a batch is 2"),
        (batch_of(good + b" " * 3000), "must not exceed 3000 bytes"),
        (batch_of(), "no parts"),
        (batch_of(good) | {"content": batch_of(good)["content"][:-8]}, "no end"),
        (batch_of(good) | {"headers": {"content-type": "application/json"}}, "multipart/mixed"),
        (batch_of(good) | {"headers": {"content-type": "multipart/mixed"}}, "boundary"),
        (
            batch_of(good)
            | {"headers": {"content-type": "multipart/mixed; boundary*=undefined''b"}},
            "boundary",
        ),
    ]:
        reply = client.post(**arguments)
        assert (reply.status_code, reply.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
        assert words_ in reply.json()["error"]["message"]


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
    body = {"inputs": ["short", words(1800)], "truncate": False}
    reply = client.post("/predict", json=body)
    assert (reply.status_code, reply.json()["error_type"]) == (413, "validation")
    assert "inputs[1]" in reply.json()["error"]
    assert log.records() == []
    assert client.post("/predict", json=body | {"truncate": True}).status_code == 200


def test_the_discovery_document_needs_no_key_and_has_the_requested_host(start: Start) -> None:
    client = with_key(start)
    reply = client.get("/$discovery/rest?version=v1alpha1", headers={"host": "tagger.example:8443"})
    assert reply.json()["rootUrl"] == "http://tagger.example:8443/"


def test_the_public_url_is_in_the_discovery_document_and_openapi(start: Start) -> None:
    client = start(public_url="https://tagger.example/api/")
    reply = client.get("/$discovery/rest?version=v1alpha1")
    assert reply.json()["rootUrl"] == "https://tagger.example/api/"
    assert client.get("/openapi.json").json()["servers"] == [{"url": "https://tagger.example/api"}]


def test_a_proxy_that_ends_tls_and_is_not_trusted_is_reported_once(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        start().get("/$discovery/rest", headers={"x-forwarded-proto": "https"})
    messages = [message for message in caplog.messages if "TAGGER_PUBLIC_URL" in message]
    assert len(messages) == 1


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
