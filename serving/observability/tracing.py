"""OpenTelemetry traces, which the standard OTEL_… variables switch on.

    request (server; its parent is the caller's, from `traceparent`)
    ├── queue       from the submission of its texts to the start of the first batch
    ├── inference   one for each batch that has a text of it; a link to that batch
    ├── batch       in the trace of its first request; links to all of its requests
    └── outbox      until its predictions are on the disk

Switched off, nothing of OpenTelemetry is imported. The SDK reads its own variables: address,
headers, sampler, service name. No attribute has a text, a path, a query or a header of the caller's
but its X-Request-ID. A request whose root is not sampled costs one span that is not recorded.
Refusals at the HTTP parser (`middleware.load_shedding`) have no span: there may be thousands a
second.
"""

import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from serving import __version__
from serving.inference.batcher import BatchReport

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span, SpanContext

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORTER = "OTEL_TRACES_EXPORTER"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
CLOSE_SECONDS = 2.0  # how long a stop waits for the spans that are not sent yet
# W3C Trace Context; what else OTEL_PROPAGATORS may name is not read.
TRACE_HEADERS = (b"traceparent", b"tracestate")

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Send], Awaitable[None]]

log = logging.getLogger(__name__)


class Tracing:
    """Makes spans of what requests, batches and the prediction log report."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import context, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._context, self._trace = context, trace
        self._propagator = TraceContextTextMapPropagator()
        self._provider = provider
        self._tracer = provider.get_tracer("tweet-tagger", __version__)

    @contextmanager
    def request(self, scope: Scope, route: str) -> Iterator["Span"]:
        """Make a request's span, the current one inside of `with`; `route` is its template."""
        headers = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in TRACE_HEADERS
        }
        span = self._tracer.start_span(
            f"{scope['method']} {route}",
            self._propagator.extract(headers, context=self._context.Context()),
            self._trace.SpanKind.SERVER,
            {"http.request.method": scope["method"], "http.route": route},
        )
        token = self._context.attach(self._trace.set_span_in_context(span))
        try:
            yield span
        finally:
            self._context.detach(token)
            if request_id := scope.get("state", {}).get("request_id"):
                span.set_attribute("tagger.request_id", request_id)
            span.end()

    def answered(self, span: "Span", status: int) -> None:
        """Set the HTTP status of a request's reply."""
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(self._trace.StatusCode.ERROR)

    def context(self) -> "SpanContext | None":
        """Return what identifies the current request's span; None if it is not recorded."""
        span = self._trace.get_current_span()
        return span.get_span_context() if span.is_recording() else None

    def batch(self, report: BatchReport) -> None:
        """Make the spans of a batch and of its requests' shares in it."""
        if not report.traced:
            return
        ended = _nanoseconds(report.ended)
        started = ended - int(report.seconds * 1e9)
        contexts: list[Any] = [context for context, _ in report.traced]
        attributes = {
            "tagger.batch.rows": report.rows,
            "tagger.batch.tokens": report.tokens,
            "tagger.batch.padded_tokens": report.padded,
        }
        batch = self._span(
            "batch",
            contexts[0],
            started,
            ended,
            links=contexts,
            attributes=attributes,
            failed=report.failed,
        )
        for context, (_, seconds) in zip(contexts, report.traced, strict=True):
            if seconds is not None:
                self._span("queue", context, started - int(seconds * 1e9), started)
            self._span("inference", context, started, ended, links=[batch])

    def stored(self, seconds: float) -> None:
        """Make the span of the current request's predictions in the outbox, which ends now."""
        if context := self.context():
            now = time.time_ns()
            self._span("outbox", context, now - int(seconds * 1e9), now)

    def _span(  # noqa: PLR0913 # one span's parts
        self,
        name: str,
        parent: "SpanContext",
        started: int,
        ended: int,
        *,
        links: "list[SpanContext] | None" = None,
        attributes: Mapping[str, int] | None = None,
        failed: bool = False,
    ) -> "SpanContext":
        """Make a span that has ended already; times in nanoseconds since 1970."""
        trace = self._trace
        span = self._tracer.start_span(
            name,
            trace.set_span_in_context(trace.NonRecordingSpan(parent), self._context.Context()),
            attributes=attributes,
            links=[trace.Link(context) for context in links or ()],
            start_time=started,
        )
        if failed:
            span.set_status(trace.StatusCode.ERROR)
        span.end(ended)
        return span.get_span_context()

    def close(self) -> None:
        """Send the spans that wait, for up to CLOSE_SECONDS."""
        # A thread, since the exporter's own timeout is longer; a daemon, so that it holds up no
        # exit.
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(CLOSE_SECONDS)


class TracingMiddleware:
    """ASGI middleware around all others; it is there only while traces are switched on."""

    def __init__(self, app: App, *, tracing: Tracing, route: Callable[[str], str]) -> None:
        """Create it; `route` returns the template of a path."""
        self._app, self._tracing, self._route = app, tracing, route

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499  # the client left before the reply

        async def observed(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        with self._tracing.request(scope, self._route(scope["path"])) as span:
            try:
                await self._app(scope, receive, observed)
            finally:
                self._tracing.answered(span, status)


def from_environment(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Return traces as the OTEL_… variables ask for them; None if they do not.

    What cannot be had is logged, and the service runs without traces: it must not depend on them.
    """
    given = {name: value.strip() for name, value in environment.items() if value.strip()}
    exporter = given.get(EXPORTER, "otlp" if any(name in given for name in ENDPOINTS) else "none")
    if exporter == "none" or given.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    protocol = next((given[name] for name in PROTOCOLS if name in given), PROTOCOL)
    for name, value, wanted in (
        (EXPORTER, exporter, ("otlp", "console", "none")),
        (PROTOCOLS[-1], protocol, (PROTOCOL,)),
    ):
        if value not in wanted:
            log.warning("no traces: %s: got %r, wanted %s", name, value, " or ".join(wanted))
            return None
    try:
        return Tracing(_provider(exporter))
    except ValueError as error:
        log.warning("no traces: a variable OTEL_… has a value that cannot be used: %s", error)
        return None
    except ImportError as error:
        hint = "pip install 'toxic-tweet-tagger[otel]'"
        log.warning("no traces: OTEL_… asks for them, but %s is missing: %s", error.name, hint)
        return None


def _provider(exporter: str) -> "TracerProvider":
    """Return the SDK's provider. Raises ImportError."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "tweet-tagger"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    sender = ConsoleSpanExporter() if exporter == "console" else _Sender(OTLPSpanExporter())
    provider.add_span_processor(BatchSpanProcessor(cast("SpanExporter", sender)))
    return provider


class _Sender:
    """An exporter that logs a collector that is gone once, and not at every try."""

    def __init__(self, exporter: "SpanExporter") -> None:
        self._exporter, self._works = exporter, True
        logging.getLogger(type(exporter).__module__).setLevel(logging.CRITICAL)
        self.shutdown, self.force_flush = exporter.shutdown, exporter.force_flush

    def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
        result = self._exporter.export(spans)
        works = result.name == "SUCCESS"
        if works != self._works:
            state = "takes traces again" if works else "does not take traces, which are dropped"
            log.warning("the collector of OTEL_EXPORTER_OTLP_ENDPOINT %s", state)
        self._works = works
        return result


def _nanoseconds(then: float) -> int:
    """Return a time of `perf_counter`'s clock in nanoseconds since 1970."""
    return time.time_ns() - int((time.perf_counter() - then) * 1e9)
