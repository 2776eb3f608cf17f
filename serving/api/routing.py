"""How routes are defined: what they need is declared on them, and their bodies are read once.

    @router.post("/v1/predict", …)       a router with route_class=FastRoute
    @requires("predict")                 the scope and, for other services' APIs, the error format
    async def predict(request, body): …

`route_table` derives from the routes what the middleware has to know of each path.
"""

import asyncio
import json
import zlib
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar

import orjson
from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.routing import Route, Router
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from serving.auth import Scope
from serving.classifier import Caller, Classifier
from serving.errors import NATIVE, ErrorCode, ErrorFormat, ServiceError, invalid_request
from serving.middleware.route_table import RouteRule, RouteTable

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"  # the beginning of its data
CHARSETS = {"utf-8", "utf8", "us-ascii"}  # JSON is always UTF-8
CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's `wbits` of each
RAW_DEFLATE = -15  # what some clients send as deflate
MAX_GZIP_MEMBERS = 16  # each of them costs, even if it is empty

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def requires(
    scope: Scope | None, *, error_format: ErrorFormat = NATIVE
) -> Callable[[Endpoint], Endpoint]:
    """Declare what a route needs; without this it is open and reports errors in our own format.

    Args:
        scope: that a caller's key must have; None: the route is open.
        error_format: of the errors that its callers get.
    """

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.rule = (scope, error_format)  # type: ignore[attr-defined]
        return endpoint

    return declare


def route_table(routers: Iterable[Router]) -> RouteTable:
    """Return what the middleware has to know of each path.

    Args:
        routers: whose own routes are read: those that an app includes, and the app's.
    """
    exact: dict[str, RouteRule] = {}
    patterns = []
    for route in (route for router in routers for route in router.routes):
        if not isinstance(route, Route):
            continue
        scope, error_format = getattr(route.endpoint, "rule", (None, NATIVE))
        # Only FastAPI's routing finds the parameters of a path.
        is_fast = isinstance(route, FastRoute) and route.body_field and not route.param_convertors
        fast_path = route.fast_path if isinstance(route, FastRoute) and is_fast else None
        rule = RouteRule(route.path, scope, error_format, fast_path)
        if route.param_convertors:
            patterns.append((route.path_regex, rule))
        else:
            exact[route.path] = rule
    return RouteTable(exact, patterns)


class Json(Response):
    """A JSON reply, from bytes or from what orjson can serialise."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return content if isinstance(content, bytes) else orjson.dumps(content)


class FastRoute(APIRoute):
    """A route whose endpoint takes `(request, body)` and the parameters of its path, if it has any:
    pydantic reads the body once, from bytes.

    FastAPI's own way costs 35 µs more a request; the OpenAPI document is the same.
    """

    async def fast_path(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer a POST for this path without FastAPI's routers and exception handlers.

        Their ten coroutines take a third of the event loop's time and do nothing for these routes.
        """
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the coroutine function that answers a request."""
        if self.body_field is None:
            return super().get_route_handler()
        adapter: TypeAdapter[Any] = TypeAdapter(self.body_field.field_info.annotation or Any)
        schema = adapter.json_schema()
        endpoint = self.dependant.call
        assert endpoint is not None

        async def answer(request: Request) -> Response:
            _check_content_type(request.headers.get("content-type") or "application/json")
            content = (await read_body(request)).removeprefix(BYTE_ORDER_MARK)
            try:
                body = adapter.validate_json(content)
            except ValidationError as error:
                _check_utf8(content)
                raise invalid_request(error, schema) from None
            _check_keys(content)
            reply = await endpoint(request, body, **request.path_params)
            return reply if isinstance(reply, Response) else Json(reply)

        self._answer = answer
        return answer


def _check_content_type(header: str) -> None:
    """Raise ServiceError if a body is not JSON in UTF-8."""
    media_type, *parameters = (part.strip().lower() for part in header.split(";"))
    if media_type != "application/json":
        message = "Content-Type must be application/json"
        raise ServiceError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)
    charsets = [
        value.removeprefix("charset=").strip('"')
        for value in parameters
        if value.startswith("charset=")
    ]
    if not CHARSETS.issuperset(charsets):
        message = "The charset of the request body must be utf-8"
        raise ServiceError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)


def _check_utf8(content: bytes) -> None:
    """Raise ServiceError if a body is not UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        message = f"The request body is not UTF-8: its byte {error.start + 1} cannot be read"
        if content.startswith(GZIP):
            message = "The request body is compressed: send the header Content-Encoding: gzip"
        raise ServiceError(ErrorCode.BAD_REQUEST, message) from None


def _check_keys(content: bytes) -> None:
    """Raise ServiceError if an object of a JSON body has a key twice.

    pydantic would take the last one without a word. This costs 1 to 2 µs for a tweet.
    """
    with suppress(ValueError, RecursionError):  # what pydantic has taken is no error
        _json.decode(content.decode())


def _unique(pairs: list[tuple[str, object]]) -> None:
    if len(pairs) > 1 and len({name for name, _ in pairs}) < len(pairs):
        names = [name for name, _ in pairs]
        # The caller's own text: it may be long, and hold what UTF-8 cannot.
        twice = max(names, key=names.count)[:100].encode("utf-8", "replace").decode()
        message = f"The request body has the key `{twice}` twice in one object"
        raise ServiceError(ErrorCode.INVALID, message)


_json = json.JSONDecoder(object_pairs_hook=_unique)


async def read_body(request: Request) -> bytes:
    """Return the body of a request, decompressed.

    Raises:
        ServiceError: its Content-Encoding is unknown, its data are damaged, or it is larger than
            MAX_BYTES, compressed or not.
    """
    if "content-encoding" not in request.headers:
        return await request.body()
    header = ",".join(request.headers.getlist("content-encoding")).lower()
    codings = [part.strip() for part in header.split(",") if part.strip() not in {"", "identity"}]
    if not codings:
        return await request.body()
    if len(codings) > 1 or codings[0] not in CODINGS:
        message = "Content-Encoding must be gzip or deflate"
        headers = {"accept-encoding": "gzip, deflate"}  # as RFC 7694 wants it
        raise ServiceError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message, headers=headers)
    limit = classifier_of(request).settings.max_bytes
    return await asyncio.to_thread(decompress, await request.body(), codings[0], limit)


def decompress(data: bytes, coding: str, limit: int) -> bytes:
    """Return decompressed data; never more than `limit` bytes are in memory.

    Raises:
        ServiceError: the data are damaged, or more than that.
    """
    wbits = CODINGS[coding]
    # A zlib header is a multiple of 31, and the method is in its first four bits.
    head = int.from_bytes(data[:2], "big")
    if coding == "deflate" and (head % 31 or head >> 8 & 15 != zlib.DEFLATED):
        wbits = RAW_DEFLATE
    result = b""
    for _ in range(MAX_GZIP_MEMBERS):
        decompressor = zlib.decompressobj(wbits)
        try:
            result += decompressor.decompress(data, limit + 1 - len(result))
        except zlib.error:
            break
        if len(result) > limit:
            message = f"The request body must not exceed {limit} bytes, decompressed"
            raise ServiceError(ErrorCode.TOO_LARGE, message)
        if not decompressor.eof:
            break
        # Tapes, and what copies whole blocks, add zeros at the end; gzip(1) ignores them too.
        data = decompressor.unused_data.lstrip(b"\0")
        if not data:
            return result
    raise ServiceError(ErrorCode.BAD_REQUEST, f"The request body is not valid {coding} data")


def truncation_headers(truncated: Iterable[bool], name: str = "inputs") -> dict[str, str]:
    """Return the header that says of which texts the model did not read the end.

    `X-Truncated-Inputs: 0, 2` names the first and the third; without such texts there is none.
    For replies that have no field for it.
    """
    places = [str(i) for i, cut in enumerate(truncated) if cut]
    return {f"x-truncated-{name}": ", ".join(places)} if places else {}


def classifier_of(request: Request) -> Classifier:
    """Return the app's classifier."""
    classifier: Classifier = request.app.state.classifier
    return classifier


def caller_of(request: Request, api: str) -> Caller:
    """Return the caller of a request; `api` is the API's name in the prediction log."""
    state = request.scope["state"]
    client, deadline = state.get("client"), state.get("deadline")
    return Caller(state["engine"], state["request_id"], client, api, deadline)
