"""Load shedding: while the queue is full, POSTs get their 429 at the server's HTTP parser.

    parser: headers complete -> LoadShedder: queue full? -> 429 without an ASGI call
                                             otherwise   -> the request goes its usual way
            headers late or too large -> 408 or 431, and the connection is closed

At five times the load that the service can bear, four of five requests are refused, and what
refusals cost is missing for the fifth. Refused here, a request needs no task, no routing and no
middleware: a third of the cost. An unusual request always goes the usual way, where
`middleware.request` gives the same answer. The app passes the LoadShedder to the protocol in ASGI's
lifespan state.
"""

import asyncio
import re
from http import HTTPStatus
from time import perf_counter, sleep
from typing import NamedTuple

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import NATIVE, ErrorCode, ServiceError, as_service_error
from serving.ids import new_id
from serving.inference.batcher import QueueFullError
from serving.middleware.request import (
    Admission,
    Headers,
    common_headers,
    error_reply,
    request_id_of,
)
from serving.middleware.route_table import RouteRule, RouteTable
from serving.observability.metrics import Metrics

# A request that offers HTTP/2, which Java's HttpClient sends first. The parser would drop its body.
H2C_OFFER = re.compile(rb"\r\nupgrade:[ \t]*h2c[ \t]*(?=\r\n)", re.IGNORECASE)
MAX_PAUSE_S = 0.005  # see `LoadShedder._pause`
MANY_REFUSED = 64  # in one turn of the event loop: then requests wait in their sockets
# Between a request's first byte and the end of its headers. (TAGGER_BODY_SECONDS is for its body.)
HEADER_SECONDS = 10.0
MAX_HEADER_BYTES = 65_536  # of request line and headers, or of what follows a chunked body
ID_PLACEHOLDER = "{id}"
STATE, METRICS = "load_shedder", "metrics"  # the keys in ASGI's lifespan state
STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class _RenderedError(NamedTuple):
    """An error as bytes: headers and body before and after the request's id."""

    type: str
    status: int
    before: bytes
    after: bytes


class LoadShedder:
    """Renders whole 429 replies while the service is overloaded."""

    def __init__(self, admission: Admission, metrics: Metrics, routes: RouteTable) -> None:
        self._admission, self._metrics, self._routes = admission, metrics, routes
        self._rendered: dict[tuple[str, str], _RenderedError] = {}
        self._refused = 0  # in this turn of the event loop, because the queue is full
        self._pending = 0  # admitted, not begun: the event loop first reads from all sockets

    @property
    def stopping(self) -> bool:
        """Whether replies must close their connections."""
        return self._admission.stopping

    def __call__(self, path: str, headers: Headers) -> list[bytes] | None:
        """Return status line, headers and body for a POST; None if it is not refused here."""
        started = perf_counter()
        rule = self._routes.find(path)
        if rule.fast_path is None:
            return None
        try:
            self._admission.check_capacity(self._pending)
        except (ServiceError, QueueFullError) as error:
            if isinstance(error, QueueFullError):
                if not self._refused:
                    seconds = min(MAX_PAUSE_S, error.wait / 100)
                    asyncio.get_running_loop().call_soon(self._pause, seconds)
                self._refused += 1
            # Errors with the same text (whole seconds) differ only in the request's id.
            rendered = self._rendered.get((path, str(error))) or self._render(error, path, rule)
        else:
            if not self._pending:
                asyncio.get_running_loop().call_soon(self._reset_pending)
            self._pending += 1
            return None
        self._metrics.refused(rendered.type)
        self._metrics.request(rule.path, rendered.status, perf_counter() - started)
        request_id = request_id_of(headers).encode()
        return [STATUS_LINES[rendered.status], rendered.before, request_id, rendered.after]

    def _pause(self, seconds: float) -> None:
        """Let the event loop sleep for a hundredth of the wait that every request has anyway.

        Otherwise each request wakes it and takes a processor from inference, which has enough to
        do. After a pause it handles many requests at once. If they were very many, it is behind,
        and the pause is shorter.
        """
        sleep(seconds * max(0.0, 1 - self._refused / MANY_REFUSED))
        self._refused = 0

    def _reset_pending(self) -> None:
        """All admitted requests begin with this turn of the event loop."""
        self._pending = 0

    def _render(
        self, error: ServiceError | QueueFullError, path: str, rule: RouteRule
    ) -> _RenderedError:
        reported = as_service_error(error)
        assert reported is not None
        status, own, body = error_reply(reported, rule.error_format)
        headers = [*own, *common_headers(ID_PLACEHOLDER, own)]
        parts = [name + b": " + value + b"\r\n" for name, value in headers]
        before, _, after = b"".join([*parts, b"\r\n", body]).partition(ID_PLACEHOLDER.encode())
        rendered = _RenderedError(reported.code.type, status, before, after)
        self._rendered[path, str(error)] = rendered
        return rendered


class LoadSheddingProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with a short cut for refusals.

    The parser sets no limit to what comes outside of a body, neither of size nor of time.
    """

    _refused = False  # whether the rest of this request is read and dropped
    # Bytes received since the last part of a body, or since the last request.
    _unparsed = 0
    _timer: asyncio.TimerHandle | None = None  # runs while a request arrives that nothing handles

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close a connection that sends nothing as late as one that is kept alive."""
        super().connection_made(transport)
        self._keep_alive()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read; an offer to change to HTTP/2 is ignored, as RFC 9110 lets a server do."""
        nothing_handles = self.cycle is None or self.cycle.response_complete
        if nothing_handles and b"h2c" in data:
            head, end, body = data.partition(b"\r\n\r\n")
            data = H2C_OFFER.sub(b"", head + end[:2]) + end[2:] + body
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEADER_BYTES:
            self._refuse_headers(ErrorCode.HEADERS_TOO_LARGE)
        elif (
            self._timer is None
            and self.timeout_keep_alive_task is None
            and (self.cycle is None or self.cycle.response_complete)
        ):
            # Headers, or a body whose request has its answer already.
            self._timer = self.loop.call_later(HEADER_SECONDS, self._on_late)

    def _on_late(self) -> None:
        self._timer = None
        if self._unparsed and not self._refused:
            self._refuse_headers(ErrorCode.TIMEOUT)
        else:
            self.transport.close()

    def _refuse_headers(self, code: ErrorCode) -> None:
        """Close the connection; say why, unless another request is still being answered."""
        if self.transport.is_closing():
            return
        if metrics := self.app_state.get(METRICS):
            metrics.refused(code.type)
        if self.cycle is None or self.cycle.response_complete:
            message = "The headers of the request did not arrive in time"
            if code is ErrorCode.HEADERS_TOO_LARGE:
                message = f"The headers of the request must not exceed {MAX_HEADER_BYTES} bytes"
            status, own, body = error_reply(ServiceError(code, message), NATIVE)
            headers = [*own, (b"connection", b"close"), *common_headers(new_id(), own)]
            lines = [name + b": " + value + b"\r\n" for name, value in headers]
            self.transport.write(b"".join([STATUS_LINES[status], *lines, b"\r\n", body]))
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _keep_alive(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def on_headers_complete(self) -> None:
        """Refuse the request, or let it go its usual way."""
        if self._unparsed > MAX_HEADER_BYTES:  # a part of the body may be among them
            size = sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)
            if size + len(self.url) > MAX_HEADER_BYTES:
                self._refused = True
                self._refuse_headers(ErrorCode.HEADERS_TOO_LARGE)
                return
        self._unparsed = 0
        self._stop_timer()
        parts = self._refusal()
        if parts is None:
            super().on_headers_complete()
            return
        self._refused = True
        keep_alive = (
            self.parser.get_http_version() != "1.0"
            and self.parser.should_keep_alive()
            and not self.app_state[STATE].stopping
        )
        for name, value in self.server_state.default_headers:
            parts[1:1] = [name, b": ", value, b"\r\n"]
        if not keep_alive:
            parts.insert(1, b"connection: close\r\n")
        self.transport.write(b"".join(parts))
        if not keep_alive:
            self.transport.close()

    def _refusal(self) -> list[bytes] | None:
        shed: LoadShedder | None = self.app_state.get(STATE)
        answering = self.cycle is not None and not self.cycle.response_complete
        if (
            shed is None
            or answering  # the reply to the request before this one comes first
            or self.flow.write_paused
            or self.expect_100_continue
            or self.parser.should_upgrade()
            or self.parser.get_method() != b"POST"
        ):
            return None
        return shed(self.url.partition(b"?")[0].decode("latin-1"), self.headers)

    def on_body(self, body: bytes) -> None:
        """Drop the body of a refused request."""
        self._unparsed = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Get ready for the next request."""
        self._unparsed = 0
        self._stop_timer()
        if not self._refused:
            super().on_message_complete()
            if self.cycle.response_complete and self.timeout_keep_alive_task is None:
                self._keep_alive()  # the answer came before the end of the body
            return
        self._refused = False
        self.on_response_complete()
