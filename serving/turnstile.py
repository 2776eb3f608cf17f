"""The turnstile: while too much waits, says so at the server's parser, for a third of the cost.

Under five times the load that it can bear, four of five requests get a refusal; what those cost is
taken from the one. So they never become an ASGI call: no task, no routing, no middleware. It is a
short cut and no more: whatever is unusual about a request goes the whole way to `gate`, which says
the same. It knows what a refusal is made of from the app, through ASGI's lifespan state.
"""

import asyncio
from collections.abc import Container, Mapping
from http import HTTPStatus
from time import perf_counter, sleep
from typing import NamedTuple

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.batcher import QueueFullError
from serving.errors import ServiceError, as_service_error
from serving.gate import Dialect, Headers, dialect_of, every_reply, refusal, request_id_of
from serving.service import Service

REST = 0.005  # seconds at most: `Refuser._rest`
ID = "{id}"  # where a request's id goes
STATE = "turnstile"  # the key in ASGI's lifespan state
HEADS = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class _Written(NamedTuple):
    """A refusal, of a kind of error: its headers and body before and after the request's id."""

    kind: str
    status: int
    before: bytes
    after: bytes


class Refuser:
    """Makes whole refusals for a service that is too busy."""

    def __init__(
        self, service: Service, paths: Container[str], dialects: Mapping[str, Dialect]
    ) -> None:
        # A bounded number of paths: each becomes a metric's label.
        self._service, self._paths, self._dialects = service, paths, dialects
        self._written: dict[tuple[str, str], _Written] = {}
        self._rests = False
        self._coming = 0  # let in, and not begun yet: the event loop first reads from all sockets

    def __call__(self, path: str, headers: Headers) -> list[bytes] | None:
        """Return status line, headers and body for a POST; None lets it pass."""
        began = perf_counter()
        if path not in self._paths:
            return None
        try:
            self._service.check_room(self._coming)
        except (ServiceError, QueueFullError) as error:
            if isinstance(error, QueueFullError) and not self._rests:
                self._rests = True
                asyncio.get_running_loop().call_soon(self._rest, min(REST, error.wait / 100))
            # Errors of the same words (whole seconds) are refused alike, but for the request's id.
            written = self._written.get((path, str(error))) or self._write(error, path)
        else:
            if not self._coming:
                asyncio.get_running_loop().call_soon(self._begun)
            self._coming += 1
            return None
        metrics = self._service.metrics
        metrics.refused(written.kind)
        metrics.request(path, written.status, perf_counter() - began)
        return [
            HEADS[written.status], written.before, request_id_of(headers).encode(), written.after
        ]  # fmt: skip

    def _rest(self, seconds: float) -> None:
        """Let the event loop rest for a hundredth of what everybody waits anyway. Else each request
        wakes it and takes a processor from inference, which has enough to do; after a rest it
        deals with many at once.
        """
        sleep(seconds)
        self._rests = False

    def _begun(self) -> None:
        """All that was let in begins with this turn of the event loop."""
        self._coming = 0

    def _write(self, error: ServiceError | QueueFullError, path: str) -> _Written:
        refused = as_service_error(error)
        assert refused is not None
        status, own, body = refusal(refused, dialect_of(self._dialects, path))
        parts = [name + b": " + value + b"\r\n" for name, value in [*own, *every_reply(ID, own)]]
        before, _, after = b"".join([*parts, b"\r\n", body]).partition(ID.encode())
        written = _Written(refused.kind.label, status, before, after)
        self._written[path, str(error)] = written
        return written


class Turnstile(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with a short cut for refusals."""

    _refused = False  # whether the rest of this request is read for nothing

    def on_headers_complete(self) -> None:
        """Refuse, or let the request go its usual way."""
        parts = self._refusal()
        if parts is None:
            super().on_headers_complete()
            return
        self._refused = True
        keep = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        for name, value in self.server_state.default_headers:
            parts[1:1] = [name, b": ", value, b"\r\n"]
        if not keep:
            parts.insert(1, b"connection: close\r\n")
        self.transport.write(b"".join(parts))
        if not keep:
            self.transport.close()

    def _refusal(self) -> list[bytes] | None:
        refuse: Refuser | None = self.app_state.get(STATE)
        answering = self.cycle is not None and not self.cycle.response_complete
        if (
            refuse is None
            or answering  # the reply to a request before this one comes first
            or self.flow.write_paused
            or self.expect_100_continue
            or self.parser.should_upgrade()
            or self.parser.get_method() != b"POST"
        ):
            return None
        return refuse(self.url.partition(b"?")[0].decode("latin-1"), self.headers)

    def on_body(self, body: bytes) -> None:
        """Drop what a refused request brings."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Be ready for the next request."""
        if not self._refused:
            super().on_message_complete()
            return
        self._refused = False
        self.on_response_complete()
