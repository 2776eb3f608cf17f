"""The service over HTTP, as its own process."""

import asyncio
import gzip
import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.api import v1
from serving.api.routing import route_table
from serving.app import _listen, create_app
from serving.bundle import ATTRIBUTES, LABELS, Bundle, Encoding, Scores, content_version
from serving.compat import compatible_apis
from serving.inference.batcher import Capacity
from serving.inference.engine import Engine
from serving.inference.policy import Policy
from serving.settings import Settings, SettingsError
from tests.support.service import ROOT, Served

Serve = Callable[..., Served]
TEXTS = ["have a lovely day", "you absolute clown", "😂😂", "привет", "i d i o t", "ok"]


def problem(reply: httpx.Response) -> dict[str, str]:
    """The content of an error reply, whose shape is checked."""
    content = reply.json()
    assert set(content) == {"error"}, content
    assert {"type", "message"} <= set(content["error"]) <= {"type", "message", "field"}
    assert reply.headers["x-request-id"]
    error: dict[str, str] = content["error"]
    return error


def request(body: bytes, *headers: str, path: str = "/v1/predict") -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", *headers]
    return "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body


def test_every_route_with_a_body_and_a_fixed_path_has_a_fast_path(served: Served) -> None:
    documented = served.http.get("/openapi.json").json()["paths"]
    with_body = {
        path
        for path, methods in documented.items()
        if "requestBody" in methods.get("post", {}) and "{" not in path
    }
    routers = [v1.router, *(api.router for api in compatible_apis())]
    table = route_table(routers)
    paths = [route.path for router in routers for route in router.routes]
    assert with_body == {path for path in paths if table.find(path).fast_path}


def test_a_prediction_has_every_field_of_the_contract(served: Served) -> None:
    reply = served.predict(*TEXTS)
    assert reply.status_code == 200
    content = reply.json()
    assert set(content) == {"id", "model", "policy", "predictions"}
    assert content["id"] == reply.headers["x-request-id"]
    assert set(content["model"]) == {"name", "version"}
    assert len(content["predictions"]) == len(TEXTS)
    for row in content["predictions"]:
        assert set(row) == {
            "id", "label", "scores", "attributes", "toxicity", "action", "language", "truncated",
            "warnings",
        }  # fmt: skip
        assert tuple(row["attributes"]) == ATTRIBUTES
        assert all(0 <= p <= 1 for p in row["attributes"].values())
        toxic = row["scores"]["hate"] + row["scores"]["offensive"]
        assert row["attributes"]["TOXICITY"] == pytest.approx(toxic, abs=2e-6)
        assert set(row["scores"]) == set(LABELS)
        assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] in LABELS
    assert len({row["id"] for row in content["predictions"]}) == len(TEXTS)


def test_a_text_scores_the_same_alone_in_a_list_under_load_and_after_a_restart(
    serve: Serve, trained: Path
) -> None:
    service = serve(CACHE_SIZE="0")
    together = service.scores(*TEXTS)
    alone = [service.scores(text)[0] for text in TEXTS]
    with ThreadPoolExecutor(16) as pool:
        under_load = list(pool.map(lambda i: service.scores(TEXTS[i % 6])[0], range(200)))
    service.stop()
    again = serve(CACHE_SIZE="0").scores(*TEXTS)
    expected = Bundle.load(trained / "models" / "candidate").score(TEXTS).labels
    for i, scores in [
        *enumerate(together), *enumerate(alone), *enumerate(again),
        *((n % 6, row) for n, row in enumerate(under_load)),
    ]:  # fmt: skip
        assert [scores[label] for label in LABELS] == pytest.approx(expected[i].tolist(), abs=1e-4)


def test_a_truncated_text_is_marked(served: Served) -> None:
    (short, long) = served.predict("ok", "word " * 1500).json()["predictions"]
    assert (short["truncated"], long["truncated"]) == (False, True)
    assert "truncated" in long["warnings"]


def test_the_model_route_describes_the_model_that_answers(served: Served) -> None:
    content = served.http.get("/v1/model").json()
    version = served.predict("ok").json()["model"]["version"]
    assert content["manifest"]["version"] == version
    assert content["policy"]["version"] == served.predict("ok").json()["policy"]
    assert content["card"].startswith("#") or "---" in content["card"]
    assert content["metrics"]


def test_the_examples_in_the_document_work(served: Served) -> None:
    document = served.http.get("/openapi.json").json()
    tried = 0
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        # These two are about a prediction, which the example does not know.
        if path in {"/v1/feedback", "/v1/review/{prediction_id}"} or not content:
            continue
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for example in document["components"]["schemas"][name].get("examples", []):
            assert served.http.post(path, json=example).status_code == 200, path
            tried += 1
    assert tried >= 4


def test_the_docs_page_loads_all_its_files_from_the_service(served: Served) -> None:
    page = served.http.get("/docs")
    assert page.status_code == 200
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(sources) == 3
    for source in sources:
        assert served.http.get(f"/{source}").status_code == 200, source
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert served.http.get("/docs/other.js").status_code == 404


BAD: list[tuple[bytes, int, str | None]] = [
    (b'{"texts": []}', 422, "texts"),
    (b'{"texts": [""]}', 422, "texts[0]"),
    (b'{"texts": ["ok", " \\n\\t "]}', 422, "texts[1]"),
    (b'{"texts": ["ok", null]}', 422, "texts[1]"),
    (b'{"texts": ["ok", "ok", 3]}', 422, "texts[2]"),
    (b'{"texts": "ok"}', 422, "texts"),
    (b'{"texts": null}', 422, "texts"),
    (b'{"texts": {"0": "ok"}}', 422, "texts"),
    (b"{}", 422, "texts"),
    (b"[]", 422, None),
    (b"null", 422, None),
    (b'"ok"', 422, None),
    (b'{"texts": ["ok"], "surprise": 1}', 422, "surprise"),
    (b'{"texts": ["ok"], "do_not_store": "yes"}', 422, "do_not_store"),
    (b'{"texts": ["ok"], "do_not_store": 1}', 422, "do_not_store"),
    (b"", 400, None),
    (b"{", 400, None),
    (b'{"texts": ["ok"]} more', 400, None),
    (b"texts=ok", 400, None),
    (b'{"texts": ["\xff\xfe"]}', 400, None),
    (b'{"texts": ["\\ud800"]}', 400, None),
    (b'{"texts": ["\\udc00\\ud800"]}', 400, None),
    (b'{"texts": [NaN]}', 422, "texts[0]"),
    (b"[" * 100_000, 400, None),
    (b'{"texts": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, None),
    (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 400, None),
    (json.dumps({"texts": ["x" * 10_001]}).encode(), 413, "texts[0]"),
    (json.dumps({"texts": ["ok", "x" * 100_000]}).encode(), 413, "texts[1]"),
    (json.dumps({"texts": ["ok"] * 257}).encode(), 413, "texts"),
    (json.dumps({"texts": ["x" * 10_000_000]}).encode(), 413, None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "field"), BAD, ids=range(len(BAD)))
def test_bad_input_gets_the_error_shape_and_names_the_field(
    served: Served, body: bytes, status: int, field: str | None
) -> None:
    reply = served.http.post(
        "/v1/predict", content=body, headers={"content-type": "application/json"}
    )
    assert reply.status_code == status, reply.text
    assert problem(reply).get("field") == field


@pytest.fixture(scope="module")
def uncached(serve: Serve) -> Served:
    return serve(CACHE_SIZE="0")


@pytest.mark.parametrize(
    "text", ["\0", "a\0b", "😂" * 100, "\u202e\u200d\ufeff", "x" * 10_000, "\\", '"}]', "\x7f"]
)
def test_unusual_texts_score_the_same_alone_and_in_a_list(uncached: Served, text: str) -> None:
    alone, in_list = uncached.scores(text)[0], uncached.scores("ok", text)[1]
    assert alone == pytest.approx(in_list, abs=1e-4)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "a"])
def test_another_content_type_is_refused(served: Served, content_type: str) -> None:
    reply = served.http.post(
        "/v1/predict", content=b'{"texts": ["ok"]}', headers={"content-type": content_type}
    )
    assert reply.status_code == 415
    assert "application/json" in problem(reply)["message"]


BODY = json.dumps({"texts": ["ok"]}).encode()
RAW_DEFLATE = zlib.compress(BODY)[2:-4]  # without zlib's header and checksum


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("GZIP, identity", gzip.compress(BODY[:5]) + gzip.compress(BODY[5:])),
        ("x-gzip", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", RAW_DEFLATE),
        ("identity", BODY),
        ("", b"\xef\xbb\xbf" + BODY),  # a byte order mark
        ("gzip", gzip.compress(b"\xef\xbb\xbf" + BODY)),
        ("gzip", gzip.compress(BODY) + bytes(512)),  # a tape's last block
        ("gzip", gzip.compress(BODY[:5]) + bytes(3) + gzip.compress(BODY[5:])),
        ("deflate", zlib.compress(BODY) + bytes(512)),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_compressed_body_or_one_with_a_byte_order_mark_is_read(
    served: Served, coding: str, body: bytes, chunked: bool
) -> None:
    headers = {"content-type": "application/json"}
    headers |= {"content-encoding": coding} if coding else {}
    content = iter([body[:7], body[7:]]) if chunked else body
    reply = served.http.post("/v1/predict", content=content, headers=headers)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize(
    ("coding", "body", "status", "words"),
    [
        ("gzip", gzip.compress(b" " * 50_000_000), 413, "1000000 bytes, decompressed"),
        ("deflate", zlib.compress(b" " * 50_000_000), 413, "1000000 bytes, decompressed"),
        ("gzip", gzip.compress(b"") * 51_000, 413, "1000000 bytes"),
        ("gzip", gzip.compress(b"") * 1000, 400, "not valid gzip"),
        ("gzip", gzip.compress(BODY)[:-5], 400, "not valid gzip"),
        ("gzip", gzip.compress(BODY) + b"\0x", 400, "not valid gzip"),
        ("gzip", bytes(512), 400, "not valid gzip"),
        ("gzip", BODY, 400, "not valid gzip"),
        ("deflate", b"", 400, "not valid deflate"),
        ("br", BODY, 415, "Content-Encoding must be gzip or deflate"),
        ("gzip, gzip", BODY, 415, "Content-Encoding must be gzip or deflate"),
        ("", gzip.compress(BODY), 400, "Content-Encoding: gzip"),
        ("", BODY.decode().encode("utf-16"), 400, "not UTF-8"),
        ("", b"\xef\xbb\xbf", 400, "must not be empty"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_cannot_be_decoded_is_refused_with_the_reason(
    served: Served, coding: str, body: bytes, status: int, words: str, chunked: bool
) -> None:
    headers = {"content-type": "application/json"}
    headers |= {"content-encoding": coding} if coding else {}
    content = iter([body[:7], body[7:]]) if chunked else body
    reply = served.http.post("/v1/predict", content=content, headers=headers)
    assert reply.status_code == status, reply.text
    assert words in problem(reply)["message"]
    assert reply.headers.get("accept-encoding") == ("gzip, deflate" if status == 415 else None)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json; charset=UTF-8", 200),
        ('Application/JSON;charset="utf-8"', 200),
        ("application/json; charset=utf-16", 415),
        ("application/json; charset=iso-8859-1", 415),
    ],
)
def test_a_body_in_another_charset_is_refused(
    served: Served, content_type: str, status: int
) -> None:
    reply = served.http.post("/v1/predict", content=BODY, headers={"content-type": content_type})
    assert reply.status_code == status, reply.text


def test_head_is_answered_like_get_without_a_body(served: Served) -> None:
    document = served.http.get("/openapi.json").json()
    gets = {path for path, methods in document["paths"].items() if "get" in methods}
    paths = {path for path in gets if "{" not in path} | {"/", "/docs", "/card", "/nowhere"}
    assert len(paths) > 6
    for path in sorted(paths | {"/$discovery/rest", "/v1/predictions/none", "/docs/start.js"}):
        head, get = served.http.head(path), served.http.get(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers["content-type"] == get.headers["content-type"], path
    assert served.http.head("/v1/predict").status_code == 405
    assert served.http.post("/healthz").headers["allow"] == "GET, HEAD"


def test_unknown_paths_and_methods_get_the_error_shape(served: Served) -> None:
    assert problem(served.http.get("/nowhere"))["type"] == "not_found"
    reply = served.http.get("/v1/predict")
    assert reply.status_code == 405
    assert reply.headers["allow"] == "POST"
    assert problem(reply)["type"] == "method_not_allowed"


def test_every_reply_has_a_request_id_and_security_headers(served: Served) -> None:
    new_id = served.predict("ok")
    own_id = served.http.post(
        "/v1/predict", json={"texts": []}, headers={"x-request-id": "abc-1.2:3"}
    )
    invalid_id = served.http.get("/healthz", headers={"x-request-id": "a b"})
    assert own_id.headers["x-request-id"] == "abc-1.2:3"
    assert re.fullmatch("[0-9a-f]{32}", invalid_id.headers["x-request-id"])
    for reply in (new_id, own_id, invalid_id, served.http.get("/nowhere")):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert "access-control-allow-origin" not in reply.headers
        assert "server" not in reply.headers


def test_a_slow_body_times_out_and_other_requests_are_answered_meanwhile(serve: Serve) -> None:
    service = serve(BODY_SECONDS="1")
    body = b'{"texts": ["ok"]}'
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(service.raw, request(body)[: -len(body)], b'{"te')
        assert service.predict("ok").status_code == 200
        received = slow.result()
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b'"timeout"' in received
    assert b"connection: close" in received


def test_a_chunked_body_must_keep_the_size_limit(served: Served) -> None:
    def endless() -> Any:
        for _ in range(3000):
            yield b" " * 1000

    reply = served.http.post(
        "/v1/predict", content=endless(), headers={"content-type": "application/json"}
    )
    assert reply.status_code == 413
    assert problem(reply)["type"] == "too_large"


def test_bytes_that_are_not_http_get_a_400(served: Served) -> None:
    assert served.raw(b"\x16\x03\x01 hello\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert served.predict("ok").status_code == 200


def test_requests_of_disconnected_clients_are_dropped(serve: Serve) -> None:
    service = serve(
        CACHE_SIZE="0", MAX_TEXTS="5000", MAX_QUEUE_SECONDS="60", THREADS="1", MAX_BYTES="3000000"
    )
    texts = [f"{n} " * 60 for n in range(5000)]
    body = json.dumps({"texts": texts}).encode()
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", service.port)) as line:
            line.sendall(request(body))
            time.sleep(0.5)
    service.wait_for("tagger_client_disconnects_total", 3)
    assert service.predict("ok").status_code == 200
    assert service.metric("tagger_batch_rows_sum") < 3 * len(texts)
    assert service.metric("tagger_queue_tokens") == 0


def test_requests_over_capacity_are_refused_at_once(serve: Serve) -> None:
    service = serve(CACHE_SIZE="0", MAX_QUEUE_SECONDS="0.02", THREADS="1")
    texts = [f"number {n} of a list " * 4 for n in range(256)]
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: service.predict(*texts), range(36)))
    accepted = [reply for reply in replies if reply.status_code == 200]
    refused = [reply for reply in replies if reply.status_code == 429]
    assert len(accepted) + len(refused) == len(replies)
    assert accepted
    assert refused
    for reply in refused:
        assert int(reply.headers["retry-after"]) >= 1
        assert problem(reply)["type"] == "overloaded"
    assert service.metric("tagger_refusals_total") == len(refused)
    time.sleep(0.5)
    assert service.predict("ok").status_code == 200


def test_the_load_shedder_refuses_exactly_as_the_middleware_does(serve: Serve) -> None:
    # With a CORS origin every refusal comes from the middleware.
    shedding, middleware = (
        serve(MAX_CONCURRENT_REQUESTS="1"),
        serve(MAX_CONCURRENT_REQUESTS="1", CORS_ORIGINS="https://a.example"),
    )
    paths = {
        "/v1/predict": {"texts": ["ok"]},
        "/predict": {"inputs": "ok"},
        "/v1/moderations": {"input": "ok"},
        "/v1alpha1/comments:analyze": {
            "comment": {"text": "ok"}, "requestedAttributes": {"TOXICITY": {}},
        },
    }  # fmt: skip
    replies: dict[str, list[httpx.Response]] = {path: [] for path in paths}
    for service in (shedding, middleware):
        for path, body in paths.items():
            assert service.http.post(path, json=body).status_code == 200, path
        with socket.create_connection(("127.0.0.1", service.port)) as line:
            line.sendall(request(b"x" * 100)[:-50])  # it takes all of the capacity
            service.wait_for("tagger_active_requests", 1)
            for path, body in paths.items():
                replies[path].append(
                    service.http.post(path, json=body, headers={"x-request-id": "abc"})
                )
            assert service.http.get("/healthz").status_code == 200
        assert service.metric("tagger_refusals_total") == len(paths)
    for path, (one, other) in replies.items():
        assert one.status_code == other.status_code, path
        # Google's and OpenAI's clients retry after a 503 and give up after a 429.
        assert one.status_code == (429 if path in {"/v1/predict", "/predict"} else 503), path
        assert one.content == other.content
        ignored = {"date": "", "vary": ""}  # the CORS middleware adds the latter
        assert {**one.headers, **ignored} == {**other.headers, **ignored}


def test_a_connection_can_be_used_after_a_refusal(serve: Serve) -> None:
    service = serve(MAX_CONCURRENT_REQUESTS="1")
    body = b'{"texts": ["ok"]}'
    health = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    closing = request(body, "connection: close")
    with socket.create_connection(("127.0.0.1", service.port)) as line:
        line.sendall(request(b"x" * 100)[:-50])
        service.wait_for("tagger_active_requests", 1)
        # A late body, and two requests at once: no body is read as a request.
        late = service.raw(request(body)[:-5], body[-5:] + health)
        both = service.raw(request(body) + request(body) + health)
        closed = service.raw(closing)
        expecting = service.raw(request(body, "expect: 100-continue", "connection: close"))
    assert re.findall(rb"HTTP/1.1 (\d+) ", late) == [b"429", b"200"]
    assert re.findall(rb"HTTP/1.1 (\d+) ", both) == [b"429", b"429", b"200"]
    for received in (closed, expecting):
        assert re.findall(rb"HTTP/1.1 (\d+) ", received) == [b"429"]
        assert b"connection: close\r\n" in received
    service.wait_for("tagger_active_requests", 0)  # until it sees that the connection is closed
    assert service.raw(closing).startswith(b"HTTP/1.1 200 ")


def test_requests_over_the_rate_limit_get_429(serve: Serve) -> None:
    service = serve(REQUESTS_PER_MINUTE="3")
    assert [service.predict("ok").status_code for _ in range(3)] == [200] * 3
    reply = service.predict("ok")
    assert reply.status_code == 429
    assert problem(reply)["type"] == "rate_limited"
    assert int(reply.headers["retry-after"]) >= 1
    assert service.http.get("/healthz").status_code == 200


def test_a_request_needs_a_known_key_with_the_scope(serve: Serve) -> None:
    digest = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("one", "two")}
    service = serve(API_KEYS=f"a:{digest['one']}, b:{digest['two']}:feedback")
    reply = service.predict("ok")
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert problem(reply)["type"] == "unauthenticated"
    for headers, status in [
        ({"authorization": "Bearer one"}, 200),
        ({"x-api-key": "one"}, 200),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": f"Bearer {digest['one']}"}, 401),
        ({"authorization": "Bearer two"}, 403),
    ]:
        reply = service.http.post("/v1/predict", json={"texts": ["ok"]}, headers=headers)
        assert reply.status_code == status, headers
    assert service.http.get("/v1/model").status_code == 401
    assert service.http.get("/readyz").status_code == 200
    assert "security" in service.http.get("/openapi.json").json()


def test_a_port_in_use_is_named(trained: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = Settings(port=port, outbox=tmp_path / "outbox.db")
        with pytest.raises(SettingsError, match=f"PORT: cannot listen on port {port} of 127"):
            _listen(settings)


def test_the_log_begins_with_what_may_be_meant_otherwise(serve: Serve) -> None:
    service = serve(HOST="0.0.0.0", STORE_TEXTS="none")
    lines = service.log.read_text().splitlines()
    messages = [json.loads(line)["message"] for line in lines if '"warning"' in line]
    assert messages[0].startswith("TAGGER_STORE_TEXTS is not a setting")
    assert messages[1].startswith("TAGGER_PUBLIC_URL is not set: behind a TLS proxy")
    local = serve()
    assert "TAGGER_PUBLIC_URL" not in local.log.read_text()


def test_only_configured_origins_get_cors_headers(serve: Serve) -> None:
    service = serve(CORS_ORIGINS="https://ours.example, http://localhost:*, app://ours")
    allowed = ["https://ours.example", "http://localhost:5173", "app://ours"]
    for origin, wanted in [*zip(allowed, allowed, strict=True), ("https://x.y", None)]:
        reply = service.http.post("/v1/predict", json={"texts": [""]}, headers={"origin": origin})
        assert reply.status_code == 422
        assert reply.headers.get("access-control-allow-origin") == wanted


def test_a_preflight_allows_the_headers_of_client_libraries(serve: Serve) -> None:
    service = serve(CORS_ORIGINS="https://ours.example")
    names = "authorization,content-type,x-stainless-lang,x-stainless-os,openai-project,traceparent"
    for origin, status in [("https://ours.example", 200), ("https://x.y", 400)]:
        headers = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": names,
        }
        reply = service.http.options("/v1/moderations", headers=headers)
        assert reply.status_code == status
        assert ("access-control-allow-origin" in reply.headers) == (status == 200)
    allowed = reply.headers["access-control-allow-headers"]
    assert set(names.split(",")) <= set(allowed.split(","))
    headers = {"origin": "https://ours.example"}
    reply = service.http.post("/v1/moderations", json={"input": "a"}, headers=headers)
    exposed = reply.headers["access-control-expose-headers"]
    assert {"retry-after", "x-request-id", "x-truncated-inputs"} <= set(exposed.split(", "))


@pytest.mark.parametrize("origins", ["https://ours.example", "*"])
def test_a_page_of_an_allowed_origin_may_call_a_service_in_a_private_network(
    serve: Serve, origins: str
) -> None:
    service = serve(CORS_ORIGINS=origins)
    headers = {
        "access-control-request-method": "POST",
        "access-control-request-private-network": "true",
    }
    for origin, status in [
        ("https://ours.example", 200),
        ("https://x.y", 200 if origins == "*" else 400),
    ]:
        reply = service.http.options("/v1/predict", headers={**headers, "origin": origin})
        assert reply.status_code == status
        assert reply.headers["access-control-allow-private-network"] == "true"
        assert ("access-control-allow-origin" in reply.headers) == (status == 200)


def test_metrics_count_every_phase_and_the_json_log_has_no_texts(serve: Serve) -> None:
    service = serve(LOG_REQUESTS="true", LOG_LEVEL="debug")
    secret = "unmistakable words of mine"
    for text in (secret, secret, "ok"):
        service.predict(text)
    service.http.post("/v1/predict", json={"texts": [""], secret: 1})
    service.http.get(f"/{secret}")
    assert service.metric("tagger_predictions_total") == 3
    assert service.metric("tagger_cache_texts_total") == 3
    assert service.metric("tagger_refusals_total") == 2
    assert service.metric("tagger_ready") == 1
    assert service.metric("tagger_model_info") == 1
    for name in ("tagger_phase_seconds_count", "tagger_batch_rows_sum", "tagger_batch_tokens_sum"):
        assert service.metric(name) > 0
    phases = re.findall(
        r'phase_seconds_count\{phase="(\w+)"\} [1-9]', service.http.get("/metrics").text
    )
    assert {"tokenise", "queue", "infer"} <= set(phases)
    service.stop()
    lines = service.log.read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    requests = [entry for entry in entries if entry["message"] == "request"]
    assert {entry["status"] for entry in requests} >= {200, 404, 422}
    assert all(entry["request_id"] and entry["time"] and entry["level"] for entry in requests)
    assert "unmistakable" not in "".join(lines)


def test_sigterm_finishes_accepted_requests_within_ten_seconds(serve: Serve) -> None:
    service = serve(CACHE_SIZE="0", MAX_QUEUE_SECONDS="60", THREADS="1")
    texts = [f"number {n} of a list " * 6 for n in range(256)]
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(service.predict, *texts) for _ in range(4)]
        service.wait_for("tagger_active_requests", 4)
        seconds = service.stop()
    assert [future.result().status_code for future in waiting] == [200] * 4
    assert seconds < 10


def test_an_unfinished_request_does_not_delay_the_shutdown(serve: Serve) -> None:
    service = serve(SHUTDOWN_GRACE_SECONDS="1", BODY_SECONDS="60")
    with socket.create_connection(("127.0.0.1", service.port)) as line:
        line.sendall(request(b"x" * 100)[:-50])
        time.sleep(0.3)
        assert service.stop() < 8


def test_a_machine_that_misses_the_golden_scores_is_live_but_not_ready(
    serve: Serve, trained: Path, tmp_path: Path
) -> None:
    for name in ("model.onnx", "tokenizer.json", "bundle.json"):
        (tmp_path / name).write_bytes((trained / "models" / "candidate" / name).read_bytes())
    content = json.loads((tmp_path / "bundle.json").read_text())
    content["golden"][0]["scores"]["hate"] += 0.2
    content["version"] = content_version(content)
    (tmp_path / "bundle.json").write_text(json.dumps(content))
    service = serve(tmp_path)
    assert service.http.get("/healthz").status_code == 200
    reply = service.http.get("/readyz")
    assert reply.status_code == 503
    assert "golden scores" in reply.json()["reason"]
    refused = service.predict("ok")
    assert refused.status_code == 503
    assert "golden scores" in problem(refused)["message"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PORT": "high"}, "PORT: got 'high', wanted a whole number from 0 to 65535 (port)"),
        (
            {"HOST": "x86_64-conda-linux-gnu"},
            "HOST: cannot listen on 'x86_64-conda-linux-gnu': ",
        ),
        ({"HOST": "192.0.2.1"}, "wanted an address of this machine, such as 127.0.0.1 or 0.0.0.0"),
        ({"TAGGER_HOST": "a..b"}, "TAGGER_HOST: cannot listen on 'a..b': "),
        ({"TAGGER_BUNDLE": "/nowhere"}, "/nowhere: bundle.json is missing"),
        ({"TAGGER_POLICY": "/nowhere.yaml"}, "/nowhere.yaml: No such file"),
    ],
)
def test_a_bad_setting_stops_the_start_with_one_sentence(
    trained: Path, environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    defaults = {
        "TAGGER_BUNDLE": str(trained / "models" / "candidate"),
        "TAGGER_OUTBOX": str(tmp_path / "outbox.db"),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "serving", "serve"],
        cwd=ROOT,
        env=defaults | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_several_workers_answer_and_share_their_metrics(serve: Serve) -> None:
    service = serve(WORKERS="2", THREADS="2")
    deadline = time.monotonic() + 120
    while True:  # the port is open before the workers are ready
        try:
            if service.http.get("/readyz").status_code == 200:
                break
        except httpx.TransportError:
            assert time.monotonic() < deadline
    for n in range(30):  # one connection each, so that both workers get some
        with httpx.Client(base_url=service.url, timeout=60) as one:
            assert one.post("/v1/predict", json={"texts": [f"{n}"]}).status_code == 200
    for _ in range(5):
        assert service.metric("tagger_predictions_total") == 30
    assert service.metric("tagger_ready") == 1
    assert service.stop() < 12


class MortalBundle(Bundle):
    """A bundle that kills its inference thread when a batch has a truncated text."""

    def infer(self, batch: Sequence[Encoding], *, intra_op_parallel: bool = False) -> Scores:
        if any(row.truncated for row in batch):
            raise SystemExit
        return super().infer(batch, intra_op_parallel=intra_op_parallel)


def test_a_dead_inference_thread_ends_liveness(trained: Path, tmp_path: Path) -> None:
    folder = trained / "models" / "candidate"
    settings = Settings(bundle=folder, outbox=tmp_path / "outbox.db")

    async def scenario() -> None:
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http,
        ):
            models = app.state.models
            policy = Policy.load(settings.policy)
            capacity = Capacity(1, 256, 60)
            mortal = Engine(
                MortalBundle.load(folder),
                policy,
                app.state.classifier.metrics,
                capacity,
                cache_size=0,
            )
            await mortal.start()
            await models.engine.close()
            models._activate(mortal, folder)
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.post("/v1/predict", json={"texts": ["ok"]})).status_code == 200
            reply = await http.post("/v1/predict", json={"texts": ["word " * 1500]})
            assert reply.status_code == 503
            assert problem(reply)["type"] == "unavailable"
            for path in ("/healthz", "/readyz"):
                for _ in range(100):
                    reply = await http.get(path)
                    if reply.status_code != 200:
                        break
                    await asyncio.sleep(0.05)
                assert reply.status_code == 503, path
                assert reply.json()["reason"]
            await mortal.close()

    asyncio.run(scenario())


class SlowBundle(Bundle):
    """A bundle that takes a fiftieth of a second for each token, once `slow` is set."""

    slow = False

    def infer(self, batch: Sequence[Encoding], *, intra_op_parallel: bool = False) -> Scores:
        if not self.slow:
            return super().infer(batch, intra_op_parallel=intra_op_parallel)
        time.sleep(sum(len(row.ids) for row in batch) / 50)
        labels = np.full((len(batch), len(LABELS)), 1 / len(LABELS), dtype=np.float32)
        return Scores(labels, np.full((len(batch), len(ATTRIBUTES)), 0.5, dtype=np.float32))


@pytest.mark.parametrize("configured", [0.0, 1.0])
def test_a_client_with_a_timeout_gets_its_answer_or_a_refusal_by_then(
    trained: Path, tmp_path: Path, configured: float
) -> None:
    folder = trained / "models" / "candidate"
    settings = Settings(
        bundle=folder, outbox=tmp_path / "outbox.db", request_timeout_seconds=configured
    )
    sent = {} if configured else {"x-request-timeout": "1.0"}

    async def scenario() -> None:
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http,
        ):
            models = app.state.models
            bundle = SlowBundle.load(folder)
            slow = Engine(
                bundle,
                Policy.load(settings.policy),
                app.state.classifier.metrics,
                Capacity(1, 1, 60),
                cache_size=0,
            )
            await slow.start()
            bundle.slow = True  # type: ignore[attr-defined]
            await models.engine.close()
            models._activate(slow, folder)

            async def answer(text: str, path: str = "/v1/predict") -> tuple[int, float, str | None]:
                started = time.perf_counter()
                fields = {"/v1/predict": "texts", "/v1/explain": "text"}
                body = {fields[path]: [text] if path == "/v1/predict" else text}
                reply = await http.post(path, json=body, headers=sent)
                seconds = time.perf_counter() - started
                return reply.status_code, seconds, reply.headers.get("retry-after")

            answers = [await answer("ok"), await answer("word " * 60)]
            await asyncio.sleep(0.6)  # until the latter's batch has ended
            text = "one text with nine other words around it"
            answers.append(await answer(text, "/v1/explain"))
            await asyncio.sleep(0.5)
            answers += await asyncio.gather(*(answer(f"number {n}") for n in range(24)))
            assert [status for status, _, _ in answers[:3]] == [200, 503, 503], answers
            assert {status for status, _, _ in answers[3:]} == {200, 503}, answers
            assert max(seconds for _, seconds, _ in answers) < 1.05  # on a busy machine
            assert all(retry for status, _, retry in answers if status == 503)
            await asyncio.sleep(0.2)
            assert (await answer("ok"))[0] == 200  # the queue is empty
            assert slow.waiting_tokens == 0
            await slow.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "path", ["/v1/predict/", "/v1alpha1/comments:analyze/", "/healthz/", "/nowhere/", "//evil.org/"]
)
def test_a_slash_at_the_end_of_a_path_is_never_a_redirect(served: Served, path: str) -> None:
    reply = served.http.post(served.url + path, json={"texts": ["ok"]})
    expected = {"/v1/predict/": 200, "/v1alpha1/comments:analyze/": 400, "/healthz/": 405}
    assert reply.status_code == expected.get(path, 404)
    if reply.status_code == 405:
        assert reply.headers["allow"] == "GET, HEAD"


def test_a_body_is_read_where_a_client_offers_http_2(served: Served) -> None:
    body = b'{"texts": ["h2c"]}'  # Java's HttpClient sends the offer with its first request
    offer = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAA"]
    whole = request(body, *offer)
    usual = request(body, "Connection: close")
    for parts in ([whole, usual], [whole[: -len(body)], body, usual]):
        received = served.raw(*parts)
        assert received.count(b"HTTP/1.1 200 OK") == 2, received


@pytest.mark.parametrize("name", ["content-type", "content-encoding"])
def test_an_empty_header_is_as_if_it_were_missing(served: Served, name: str) -> None:
    headers = {"content-type": "application/json"} | {name: ""}
    body = b'{"texts": ["ok"]}'
    assert served.http.post("/v1/predict", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize("text", [r"cut \ud83d", r"cut \ud83d here", r"cut \ude00 here"])
def test_half_of_an_emoji_is_named(served: Served, text: str) -> None:
    body = f'{{"texts": ["{text}"]}}'.encode()
    reply = served.http.post(
        "/v1/predict", content=body, headers={"content-type": "application/json"}
    )
    assert reply.status_code == 400
    assert "emoji" in problem(reply)["message"]


@pytest.mark.parametrize("value", ["0.000001", "0.0004", "0.001"])
def test_a_timeout_below_the_clocks_resolution_is_an_answer_or_a_503(
    served: Served, value: str
) -> None:
    headers = {"x-request-timeout": value}
    for n in range(30):
        body = {"texts": [f"{value} {n}"]}
        reply = served.http.post("/v1/predict", json=body, headers=headers)
        assert reply.status_code in {200, 503}, reply.text


@pytest.mark.parametrize("value", ["", "0", "-1", "nan", "inf", "1e3", "300ms", "0,3", "1" * 20])
def test_a_timeout_that_is_no_time_is_refused(served: Served, value: str) -> None:
    body = {"texts": ["ok"]}
    reply = served.http.post("/v1/predict", json=body, headers={"x-request-timeout": value})
    assert reply.status_code == 400
    assert "X-Request-Timeout" in problem(reply)["message"]
    usual = served.http.post("/v1/predict", json=body, headers={"x-request-timeout": "30"})
    assert usual.status_code == 200
    assert served.http.get("/healthz", headers={"x-request-timeout": value}).status_code == 200


def test_sigint_stops_the_service_too(serve: Serve) -> None:
    service = serve()
    service.process.send_signal(signal.SIGINT)
    service.process.wait(20)
    assert service.stop() < 10
