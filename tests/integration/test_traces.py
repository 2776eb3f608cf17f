"""Traces of the real service, as a collector that speaks OTLP over HTTP receives them."""

import gzip
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.support.service import ROOT, Served

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "nobody may read zanzibar"
WAIT_S = 30.0


class Collector:
    """Keeps every span that it is sent."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.receive(self.path, body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def receive(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        self.raw.append(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = {pair.key: pair.value.string_value for pair in group.resource.attributes}
            self.resources.append(resource)
            self.spans += [span for scope in group.scope_spans for span in scope.spans]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def named(self, name: str, trace: str | None = None) -> list[Span]:
        """The spans of a name, in one trace or in all, once there is one."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            found = [span for span in self.spans if span.name == name]
            found = [span for span in found if trace in {None, span.trace_id.hex()}]
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"no span {name}, but {sorted({s.name for s in self.spans})}")


def attributes(span: Span) -> dict[str, str | int]:
    pairs = {pair.key: pair.value for pair in span.attributes}
    return {key: value.string_value or value.int_value for key, value in pairs.items()}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_SERVICE_NAME", "tagger-test")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        service = Served(ROOT / "models" / "release", tmp_path_factory.mktemp("traced"))
    yield service
    service.stop()


def test_a_request_has_the_callers_trace_and_its_parts_lie_within_it(
    traced: Served, collector: Collector
) -> None:
    before = time.time_ns()
    reply = traced.http.post(
        "/v1/predict?who=cares",
        json={"texts": [SECRET]},
        headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"},
    )
    after = time.time_ns()
    assert reply.status_code == 200
    (request,) = collector.named("POST /v1/predict", TRACE)
    assert request.parent_span_id.hex() == PARENT
    assert request.kind == Span.SPAN_KIND_SERVER
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/v1/predict",
        "http.response.status_code": 200,
        "tagger.request_id": "mine",
    }
    assert before <= request.start_time_unix_nano < request.end_time_unix_nano <= after
    parts = {}
    for name in ("queue", "inference", "batch", "outbox"):
        (parts[name],) = collector.named(name, TRACE)
        assert parts[name].parent_span_id == request.span_id, name
    queue, inference, batch, outbox = parts.values()
    slack = 2_000_000  # two clocks of one machine are compared
    order = [
        request.start_time_unix_nano,
        queue.start_time_unix_nano,
        queue.end_time_unix_nano,
        inference.start_time_unix_nano,
        inference.end_time_unix_nano,
        outbox.start_time_unix_nano,
        outbox.end_time_unix_nano,
        request.end_time_unix_nano,
    ]
    assert all(b >= a - slack for a, b in itertools.pairwise(order)), order
    assert outbox.end_time_unix_nano > outbox.start_time_unix_nano
    assert [link.span_id for link in batch.links] == [request.span_id]
    assert [link.span_id for link in inference.links] == [batch.span_id]
    assert attributes(batch)["tagger.batch.rows"] == 1


def test_a_batch_links_to_all_of_its_requests(traced: Served, collector: Collector) -> None:
    def send(i: int) -> None:
        texts = [f"{word} {i} and {word}" for word in ("one", "two", "three", "four")]
        traced.http.post("/v1/predict", json={"texts": texts})

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(send, range(48)))
    time.sleep(0.5)
    requests = {s.span_id for s in collector.named("POST /v1/predict")}
    batches = {span.span_id: span for span in collector.named("batch")}
    shared = [span for span in batches.values() if len(span.links) > 1]
    assert shared, "no batch held texts of two requests"
    for batch in batches.values():
        linked = [link.span_id for link in batch.links]
        assert len(linked) == len(set(linked))
        assert set(linked) <= requests
        assert batch.parent_span_id == linked[0]
    for inference in collector.named("inference"):
        (link,) = inference.links
        assert inference.parent_span_id in {other.span_id for other in batches[link.span_id].links}


def test_an_error_has_its_status_and_an_unknown_path_no_name(
    traced: Served, collector: Collector
) -> None:
    traced.http.get(f"/{SECRET.replace(' ', '-')}")
    traced.predict()
    (unknown,) = collector.named("GET other")
    assert attributes(unknown)["http.response.status_code"] == 404
    assert unknown.status.code == Status.STATUS_CODE_UNSET  # the caller's mistake
    refused = [
        span
        for span in collector.named("POST /v1/predict")
        if attributes(span)["http.response.status_code"] == 422
    ]
    assert len(refused) == 1


def test_no_span_has_a_text_and_the_service_has_its_name(
    traced: Served, collector: Collector
) -> None:
    collector.named("POST /v1/predict")
    assert not [body for body in collector.raw if b"zanzibar" in body or b"cares" in body]
    assert {row["service.name"] for row in collector.resources} == {"tagger-test"}


def test_what_the_caller_did_not_sample_leaves_no_span(
    traced: Served, collector: Collector
) -> None:
    trace = TRACE[::-1]
    headers = {"traceparent": f"00-{trace}-{PARENT}-00"}
    traced.http.post("/v1/predict", json={"texts": ["not sampled"]}, headers=headers)
    traced.http.get("/v1/model")
    collector.named("GET /v1/model")
    assert [span for span in collector.spans if span.trace_id.hex() == trace] == []


def test_the_last_spans_are_sent_when_the_service_stops(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    service = Served(ROOT / "models" / "release", tmp_path)
    service.http.get("/docs")
    assert service.stop() < 15
    collector.named("GET /docs")


def test_without_a_collector_requests_are_answered_and_the_stop_is_not_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    service = Served(ROOT / "models" / "release", tmp_path)
    for i in range(8):
        assert service.predict(f"hello there, number {i}").status_code == 200
        time.sleep(1.5)
    assert service.stop() < 15
    lines = [line for line in service.log.read_text().splitlines() if "trac" in line]
    assert len(lines) == 1
    assert "OTEL_EXPORTER_OTLP_ENDPOINT does not take traces" in lines[0]
