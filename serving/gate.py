"""The gate: pure ASGI around every route. Who may pass, what every reply carries, what went wrong.

What can be refused is refused before a byte of the body is read: not ready, too much waiting, no
key, too many requests, a body that is too large. It knows no model and no text.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import Any, NamedTuple

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.engine import Engine
from serving.errors import Kind, MissingKeyError, ServiceError, as_service_error, native
from serving.ids import new_id
from serving.keys import ApiKey, Keyring, Right, secret_of
from serving.limits import RateLimit, neighbourhood
from serving.service import Service

WATCH_AFTER = 0.5  # seconds; who is answered sooner is not watched for hanging up: it costs 40 µs
ID = re.compile(r"(?<=^/v1/predictions/).*", re.DOTALL)
REQUEST_ID = re.compile(rb"[\w.:-]{1,128}", re.ASCII)
SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
# What a page may do; a route that sends one says so itself.
CSP = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")

log = logging.getLogger("serving.gate")


class Dialect(NamedTuple):
    """How the clients of a path expect errors (status and body), and where they put their key."""

    envelope: Callable[[ServiceError], tuple[int, Any]]
    key_in_query: bool = False


NATIVE = Dialect(native)
Headers = list[tuple[bytes, bytes]]
RightOf = Callable[[str], Right | None]


class Gate:
    """ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: Service,
        right_of: RightOf,
        dialects: Mapping[str, Dialect],
        direct: Mapping[str, ASGIApp],
    ) -> None:
        """Wrap an app.

        Args:
            app: what answers.
            service: whether it is ready, and how much waits.
            right_of: what a path asks for; None: open to all, even when not ready.
            dialects: by path; others speak ours.
            direct: by path, what answers a POST in the app's stead.
        """
        settings = service.settings
        self._app, self._service = app, service
        self._right_of, self._dialects, self._direct = right_of, dialects, direct
        self._keys = Keyring(settings.api_keys)
        self._rate = RateLimit(settings.requests_per_minute)
        self._max_bytes, self._body_seconds = settings.max_bytes, settings.body_seconds
        self._log_requests = settings.log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, receive, send, self._max_bytes, self._body_seconds)
        try:
            self._admit(scope, visit)
            app = self._app
            if scope["method"] == "POST":  # what is merely looked up takes no place
                visit.engine = scope["state"]["engine"] = self._service.enter()
                app = self._direct.get(scope["path"], app)
            await app(scope, visit.receive, visit.send)
        except asyncio.CancelledError:
            if not visit.hung_up:
                raise
            self._service.metrics.left()
        except Exception as error:
            await self._refuse(error, scope, visit)
        finally:
            visit.end()
            if visit.engine:
                self._service.leave(visit.engine)
            self._note(scope, visit)

    def _admit(self, scope: Scope, visit: "_Visit") -> None:
        """Raise ServiceError or QueueFullError if the request may not pass."""
        right = self._right_of(scope["path"])
        if right is None:
            return
        if reason := self._service.not_ready:
            raise ServiceError(Kind.UNAVAILABLE, f"Not ready: {reason}.", retry_after=5)
        if scope["method"] == "POST":
            self._service.check_room()
        key = self._keys.find(secret := None if self._keys.is_open else self._secret(scope))
        if key is None:
            headers = {"www-authenticate": "Bearer"}
            if secret is None:
                raise MissingKeyError(headers)
            raise ServiceError(Kind.UNAUTHENTICATED, "This key is not known.", headers=headers)
        if right not in key.rights:
            raise ServiceError(Kind.FORBIDDEN, f"This needs the right {right!r}.")
        scope["state"]["client"] = client = _name(key, scope)
        wait = self._rate.hit(client or "nobody")
        if wait is not None:
            raise ServiceError(Kind.RATE_LIMITED, "Too many requests.", retry_after=wait)
        if visit.announced_bytes > self._max_bytes:
            raise visit.too_large()

    def _secret(self, scope: Scope) -> bytes | None:
        dialect = dialect_of(self._dialects, scope["path"])
        query = scope["query_string"] if dialect.key_in_query else b""
        return secret_of(scope["headers"], query)

    async def _refuse(self, error: Exception, scope: Scope, visit: "_Visit") -> None:
        """Tell the caller of an error."""
        refused = as_service_error(error)
        if refused is None:
            # The exception's own words may hold a caller's text: only its place is logged.
            log.error(
                "bug: %s at %s",
                type(error).__name__,
                _place(error),
                extra={"request_id": visit.request_id},
            )
            refused = ServiceError(Kind.INTERNAL, "Something went wrong here; it has been logged.")
        self._service.metrics.refused(refused.kind.label)
        if visit.status:
            return  # the reply has begun: it can only be broken off
        status, headers, body = refusal(refused, dialect_of(self._dialects, scope["path"]))
        if refused.kind is Kind.TIMEOUT:
            headers.append((b"connection", b"close"))
        await visit.send({"type": "http.response.start", "status": status, "headers": headers})
        await visit.send({"type": "http.response.body", "body": body})

    def _note(self, scope: Scope, visit: "_Visit") -> None:
        """Count and, if wanted, log a request that is over."""
        metrics, seconds = self._service.metrics, perf_counter() - visit.began
        route = getattr(scope.get("route"), "path", None)
        if route is None:  # refused before routing; unknown paths are one, there may be many
            known = self._right_of(scope["path"]) is not None
            route = ID.sub("{prediction_id}", scope["path"]) if known else "other"
        metrics.request(route, visit.status or 499, seconds)
        if self._log_requests:
            log.info(
                "request",
                extra={
                    "request_id": visit.request_id,
                    "method": scope["method"],
                    "route": route,
                    "status": visit.status or 499,
                    "ms": round(seconds * 1000, 2),
                },
            )


class _Visit:
    """One request on its way through: its id, its body's size, whether its caller waits."""

    __slots__ = (
        "_deadline", "_max_bytes", "_receive", "_send", "_timer", "_watcher",
        "announced_bytes", "began", "engine", "hung_up", "received", "request_id", "status",
    )  # fmt: skip

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, max_bytes: int, body_seconds: float
    ) -> None:
        self._receive, self._send, self._max_bytes = receive, send, max_bytes
        self.began = perf_counter()
        self._deadline = asyncio.get_running_loop().time() + body_seconds
        self.hung_up = False
        self.engine: Engine | None = None
        self.status, self.received, self.announced_bytes = 0, 0, 0
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                self.announced_bytes = int(value[:18])
        self.request_id = request_id_of(scope["headers"])
        scope.setdefault("state", {})["request_id"] = self.request_id

    def too_large(self) -> ServiceError:
        """Return the error of a body over the limit."""
        return ServiceError(Kind.TOO_LARGE, f"The body is over {self._max_bytes} bytes.")

    async def receive(self) -> Message:
        """Return the next part of the body, within its limits of size and time."""
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise ServiceError(Kind.TIMEOUT, "The body took too long to come.") from None
        if message["type"] == "http.disconnect":
            self.hung_up = True
            raise asyncio.CancelledError
        self.received += len(message.get("body", b""))
        if self.received > self._max_bytes:
            raise self.too_large()
        if not message.get("more_body"):
            loop = asyncio.get_running_loop()
            task = asyncio.current_task()
            assert task is not None
            self._timer = loop.call_later(WATCH_AFTER, self._watch, task)
        return message

    def _watch(self, task: "asyncio.Task[Any]") -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._wait_for_end(task))

    async def _wait_for_end(self, task: "asyncio.Task[Any]") -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.status:  # after a reply the server says disconnect as well
            self.hung_up = True
            task.cancel()

    async def send(self, message: Message) -> None:
        """Pass a part of the reply on; its head gets the headers that every reply carries."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            more = every_reply(self.request_id, headers)
            message = {**message, "headers": headers + more}
        await self._send(message)

    def end(self) -> None:
        """Watch no more."""
        if self._timer:
            self._timer.cancel()
        if self._watcher:
            self._watcher.cancel()


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the id that a request brings, if it is one, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return value.decode()
    return new_id()


def every_reply(request_id: str, headers: Headers) -> Headers:
    """Return the headers that a reply with `headers` carries besides."""
    more = [*SECURITY, (b"x-request-id", request_id.encode())]
    return more if any(name == CSP[0] for name, _ in headers) else [*more, CSP]


def dialect_of(dialects: Mapping[str, Dialect], path: str) -> Dialect:
    """Return how the clients of a path speak."""
    return dialects.get(path, NATIVE)


def refusal(error: ServiceError, dialect: Dialect) -> tuple[int, Headers, bytes]:
    """Return status, headers and body that tell of an error."""
    status, content = dialect.envelope(error)
    body = orjson.dumps(content)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
    ]
    return status, headers, body


def _name(key: ApiKey, scope: Scope) -> str | None:
    """Return who asks: a key's name, else the address."""
    if key.name:
        return key.name
    client = scope.get("client")
    return neighbourhood(client[0]) if client else None


def _place(error: BaseException) -> str:
    """Return where an exception was raised."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None:
        return "nowhere"
    code = trace.tb_frame.f_code
    return f"{code.co_filename}:{trace.tb_lineno} in {code.co_qualname}"
