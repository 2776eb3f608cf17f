"""The request middleware: pure ASGI around every route.

    request -> admission (ready? capacity? key? scope? rate? size?) -> route -> reply + headers

A request that can be refused is refused before a byte of its body is read. One that has a timeout
(X-Request-Timeout, REQUEST_TIMEOUT_SECONDS) gets its answer or a 503 by then. Every reply gets a
request id and the security headers; every error is rendered in the error format of its route. This
module knows no model and no text.
"""

import asyncio
import logging
import re
from collections.abc import Iterable
from time import perf_counter
from typing import Any, Protocol

import orjson
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as ASGIScope

from serving.auth import ApiKey, ApiKeyStore, key_of_request
from serving.errors import ErrorCode, ErrorFormat, MissingKeyError, ServiceError, as_service_error
from serving.ids import new_id
from serving.inference.batcher import DeadlineError
from serving.middleware.rate_limit import RateLimit, client_prefix
from serving.middleware.route_table import UNKNOWN, RouteRule, RouteTable
from serving.observability.metrics import Metrics
from serving.settings import Settings

# Seconds before a request is watched for a disconnect. Watching costs 40 µs; most requests are
# answered sooner.
WATCH_AFTER_S = 0.5
TIMEOUT = re.compile(rb"\d{1,9}(?:\.\d{1,9})?")  # of X-Request-Timeout
# The rest of a timeout is for the refusal's way to the client.
TIMEOUT_SHARE = 0.9
REQUEST_ID = re.compile(rb"[\w.:-]{1,128}", re.ASCII)
SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
# The default; a route that serves a page sends a policy of its own.
CSP = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")

log = logging.getLogger("serving.request")

Headers = list[tuple[bytes, bytes]]


class Admission(Protocol):
    """The part of the model manager that decides whether a request can be answered now."""

    stopping: bool

    @property
    def not_ready(self) -> str | None:
        """Why no request can be answered; None if requests can."""

    def check_capacity(self, pending: int = 0) -> None:
        """Raise ServiceError or QueueFullError if a new request would wait too long."""

    def enter(self) -> Any:
        """Count a request in; return the engine that it uses until `leave`."""

    def leave(self, engine: Any) -> None:
        """Count a request out."""


class RequestMiddleware:
    """ASGI middleware."""

    def __init__(  # noqa: PLR0913 # by name, from one place
        self,
        app: ASGIApp,
        *,
        admission: Admission,
        metrics: Metrics,
        routes: RouteTable,
        rate: RateLimit,
        settings: Settings,
    ) -> None:
        self._app, self._admission, self._metrics, self._routes = app, admission, metrics, routes
        self._keys = ApiKeyStore(settings.api_keys)
        self._rate = rate
        self._max_bytes, self._body_seconds = settings.max_bytes, settings.body_seconds
        self._timeout = settings.request_timeout_seconds
        self._log_requests = settings.log_requests

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limits = self._max_bytes, self._body_seconds
        context = RequestContext(scope, receive, send, limits, self._admission)
        rule = self._routes.find(scope["path"])
        path = scope["path"].removesuffix("/")
        if rule is UNKNOWN and path and self._routes.find(path) is not UNKNOWN:
            # Not a redirect: its URL would say http:// behind a TLS proxy that is not trusted.
            rule, scope["path"] = self._routes.find(path), path
        engine = timeout = None
        try:
            await self._admit(scope, rule, context)
            app, routed = self._app, scope
            if scope["method"] == "HEAD":
                # The server drops the body: its own scope still says HEAD.
                routed = {**scope, "method": "GET"}
            # A GET is cheap and needs no place.
            if scope["method"] == "POST" and rule is not UNKNOWN:
                engine = scope["state"]["engine"] = self._admission.enter()
                app = rule.fast_path or app
            async with asyncio.timeout_at(scope["state"].get("deadline")) as timeout:
                await app(routed, context.receive, context.send)
        except asyncio.CancelledError:
            if not context.disconnected:
                raise
            self._metrics.client_disconnected()
        except Exception as error:
            # Not by the clock: uvloop rounds to milliseconds, so a timeout may come too early.
            if isinstance(error, TimeoutError) and timeout and timeout.expired():
                error = DeadlineError()
            await self._report(error, rule.error_format, context)
        finally:
            context.end()
            if engine is not None:
                self._admission.leave(engine)
            self._record(scope, rule, context)

    async def _admit(self, scope: ASGIScope, rule: RouteRule, context: "RequestContext") -> None:
        """Raise ServiceError or QueueFullError if the request must be refused."""
        is_open = rule.scope is None
        if is_open and (scope["method"] != "POST" or rule is UNKNOWN):
            return
        if reason := self._admission.not_ready:
            raise ServiceError(ErrorCode.UNAVAILABLE, f"Not ready: {reason}", retry_after=5)
        if scope["method"] == "POST":
            self._admission.check_capacity()
        if not is_open:
            await self._check_caller(scope, rule)
            context.limit_time(requested_timeout(scope["headers"]), self._timeout)
        if context.announced_bytes > self._max_bytes:
            raise context.too_large()

    async def _check_caller(self, scope: ASGIScope, rule: RouteRule) -> None:
        """Raise ServiceError if the caller may not use the route, or uses it too often."""
        key = self._authenticate(scope, rule)
        if rule.scope not in key.scopes:
            raise ServiceError(ErrorCode.FORBIDDEN, f"Missing scope: {rule.scope}")
        scope["state"]["client"] = client = _client_name(key, scope)
        wait = await self._rate.hit(client or "unknown")
        if wait is not None:
            message = "Rate limit exceeded, retry later"
            raise ServiceError(ErrorCode.RATE_LIMITED, message, retry_after=wait)
        if self._rate.is_shared and scope["method"] == "POST":
            self._admission.check_capacity()  # others have entered while Redis was asked

    def _authenticate(self, scope: ASGIScope, rule: RouteRule) -> ApiKey:
        secret = None
        if not self._keys.is_open:
            query = scope["query_string"] if rule.error_format.key_in_query else b""
            secret = key_of_request(scope["headers"], query)
        key = self._keys.find(secret)
        if key is None:
            headers = {"www-authenticate": "Bearer"}
            if secret is None:
                raise MissingKeyError(headers)
            raise ServiceError(ErrorCode.UNAUTHENTICATED, "Unknown API key", headers=headers)
        return key

    async def _report(
        self, error: Exception, error_format: ErrorFormat, context: "RequestContext"
    ) -> None:
        """Send an error to the caller."""
        reported = as_service_error(error)
        if reported is None:
            # The exception's own text may hold a caller's text: only its place is logged.
            log.error(
                "bug: %s at %s",
                type(error).__name__,
                _origin(error),
                extra={"request_id": context.request_id},
            )
            reported = ServiceError(ErrorCode.INTERNAL, "Internal error; it has been logged")
        self._metrics.refused(reported.code.type)
        if context.status:
            return  # the reply has begun: it can only be cut off
        status, headers, body = error_reply(reported, error_format)
        if reported.code is ErrorCode.TIMEOUT:
            headers.append((b"connection", b"close"))
        await context.send({"type": "http.response.start", "status": status, "headers": headers})
        await context.send({"type": "http.response.body", "body": body})

    def _record(self, scope: ASGIScope, rule: RouteRule, context: "RequestContext") -> None:
        """Count a finished request and, if configured, log it."""
        seconds, status = perf_counter() - context.started, context.status or 499
        self._metrics.request(rule.path, status, seconds)
        if self._log_requests:
            log.info(
                "request",
                extra={
                    "request_id": context.request_id,
                    "method": scope["method"],
                    "route": rule.path,
                    "status": status,
                    "ms": round(seconds * 1000, 2),
                },
            )


class RequestContext:
    """One request: its id, the limits of its body, and whether its client is still connected."""

    __slots__ = (
        "_admission", "_deadline", "_max_bytes", "_receive", "_received", "_send", "_state",
        "_timer", "_watcher", "announced_bytes", "disconnected", "request_id", "started", "status",
    )  # fmt: skip

    def __init__(
        self,
        scope: ASGIScope,
        receive: Receive,
        send: Send,
        body_limits: tuple[int, float],
        admission: Admission,
    ) -> None:
        self._receive, self._send, self._admission = receive, send, admission
        self._max_bytes, body_seconds = body_limits
        self.started = perf_counter()
        self._deadline = asyncio.get_running_loop().time() + body_seconds
        self.disconnected = False
        self.status, self._received, self.announced_bytes = 0, 0, 0
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                self.announced_bytes = int(value[:18])
        self.request_id = request_id_of(scope["headers"])
        self._state = scope.setdefault("state", {})
        self._state["request_id"] = self.request_id

    def limit_time(self, requested: float | None, configured: float) -> None:
        """Set the time by which the request is answered: the caller's or the operator's timeout,
        whichever is shorter; 0 is none.
        """
        seconds = min(filter(None, (requested, configured)), default=None)
        if seconds is not None:
            now = asyncio.get_running_loop().time()
            passed = perf_counter() - self.started
            self._state["deadline"] = now - passed + seconds * TIMEOUT_SHARE

    def too_large(self) -> ServiceError:
        """Return the error of a body over the limit."""
        message = f"The request body must not exceed {self._max_bytes} bytes"
        return ServiceError(ErrorCode.TOO_LARGE, message)

    async def receive(self) -> Message:
        """Return the next part of the body, within the limits of size and time."""
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            text = "The request body did not arrive in time"
            raise ServiceError(ErrorCode.TIMEOUT, text) from None
        if message["type"] == "http.disconnect":
            self.disconnected = True
            raise asyncio.CancelledError
        self._received += len(message.get("body", b""))
        if self._received > self._max_bytes:
            raise self.too_large()
        if not message.get("more_body"):
            loop = asyncio.get_running_loop()
            task = asyncio.current_task()
            assert task is not None
            self._timer = loop.call_later(WATCH_AFTER_S, self._watch, task)
        return message

    def _watch(self, task: "asyncio.Task[Any]") -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._cancel_on_disconnect(task))

    async def _cancel_on_disconnect(self, task: "asyncio.Task[Any]") -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.status:  # the server also says disconnect after a reply
            self.disconnected = True
            task.cancel()

    async def send(self, message: Message) -> None:
        """Send a part of the reply; its head gets the headers that every reply carries."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            headers += common_headers(self.request_id, headers)
            if self._admission.stopping:  # the client's next request needs another connection
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

    def end(self) -> None:
        """Stop watching for a disconnect."""
        if self._timer:
            self._timer.cancel()
        if self._watcher:
            self._watcher.cancel()


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the valid X-Request-ID that a request brings, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return value.decode()
    return new_id()


def requested_timeout(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """Return the seconds of X-Request-Timeout; None without it; ServiceError if it is no time."""
    for name, value in headers:
        if name == b"x-request-timeout":
            if not TIMEOUT.fullmatch(value) or not float(value):
                message = "X-Request-Timeout must be a number of seconds above 0, such as 0.5"
                raise ServiceError(ErrorCode.BAD_REQUEST, message)
            return float(value)
    return None


def common_headers(request_id: str, headers: Headers) -> Headers:
    """Return the headers that every reply carries beside its own `headers`."""
    common = [*SECURITY, (b"x-request-id", request_id.encode())]
    return common if any(name == CSP[0] for name, _ in headers) else [*common, CSP]


def error_reply(error: ServiceError, error_format: ErrorFormat) -> tuple[int, Headers, bytes]:
    """Return status, headers and body of an error."""
    status, content = error_format.render(error)
    body = orjson.dumps(content)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
    ]
    return status, headers, body


def _client_name(key: ApiKey, scope: ASGIScope) -> str | None:
    """Return the name of the key, else the client's address."""
    if key.name:
        return key.name
    client = scope.get("client")
    return client_prefix(client[0]) if client else None


def _origin(error: BaseException) -> str:
    """Return where an exception was raised."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None:
        return "unknown place"
    code = trace.tb_frame.f_code
    return f"{code.co_filename}:{trace.tb_lineno} in {code.co_qualname}"
