"""Google's batch requests: several calls in one `POST /batch`, as multipart/mixed.

    body -> parts -> an inner request each -> the app -> an inner reply each -> body

google-api-python-client's `new_batch_http_request()` sends them. Each inner request goes through
the whole app, so it has its own key, limits, error and log record. An inner request takes over the
headers of the outer one that it does not have itself.
"""

import asyncio
import re
from collections.abc import Sequence
from email.message import Message
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from starlette.types import ASGIApp
from starlette.types import Message as ASGIMessage
from starlette.types import Scope as ASGIScope

from serving.compat.perspective.errors import ERROR_FORMAT
from serving.errors import ErrorCode, ServiceError
from serving.ids import new_id
from serving.middleware.request import Headers, error_reply

PREFIX = "/v1alpha1/"  # of the calls that can be in a batch
CONCURRENT_CALLS = 8  # enough for full micro-batches; more would only fill the queue
REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) +(\S{1,4000})(?: +HTTP/\d(?:\.\d)?)?")
# Headers that belong to the outer request alone.
OUTER_ONLY = re.compile(rb"content-.*|transfer-encoding|expect|connection|origin|x-request-id|te")


class Call(NamedTuple):
    """One part of a batch; `error` says why it cannot be called."""

    content_id: str | None
    method: str = ""
    path: str = ""
    query: bytes = b""
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    error: ServiceError | None = None


class Reply(NamedTuple):
    """The reply to one call."""

    status: int
    headers: Headers
    body: bytes


def parse(content_type: str, body: bytes, limit: int) -> list[Call]:
    """Return the calls of a batch.

    Args:
        content_type: the header, with the boundary.
        body: of the batch.
        limit: the largest number of calls.

    Raises:
        ServiceError: it is not a batch, it is empty, or it has too many calls.
    """
    header = Message()
    header["content-type"] = content_type
    try:
        boundary = header.get_boundary()
    except UnicodeError:  # of an encoded parameter, RFC 2231
        boundary = None
    if header.get_content_type() != "multipart/mixed" or not boundary:
        text = "Content-Type must be multipart/mixed with a boundary"
        raise ServiceError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, text)
    parts = _split(body, boundary.encode("latin-1", "replace"))
    if len(parts) > limit:
        text = f"{len(parts)} calls are too many; the limit of a batch is {limit}"
        raise ServiceError(ErrorCode.TOO_LARGE, text)
    return [_call(part) for part in parts]


def _split(body: bytes, boundary: bytes) -> list[bytes]:
    """Return the parts of a multipart body; ServiceError if it has none, or no end.

    Not `email`: that reads parts within parts, thousands of them if a caller likes.
    """
    delimiter = rb"(?:\A|\r?\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\r?\n|\Z)"
    parts, start = [], None
    for match in re.finditer(delimiter, body):
        if start is not None:
            parts.append(re.sub(rb"\A\r?\n", b"", body[start : match.start()]))
        if match[1]:
            break
        start = match.end()
    else:
        raise ServiceError(ErrorCode.BAD_REQUEST, "The batch has no end: the last boundary misses")
    if not parts:
        raise ServiceError(ErrorCode.BAD_REQUEST, "The batch has no parts")
    return parts


def _call(part: bytes) -> Call:
    """Return the call of a part."""
    lines, payload = _split_head(part)
    own = dict(_headers(lines))
    name = own.get(b"content-id", b"").decode("ascii", "ignore")
    content_id = re.sub(r"[^ -~]", "", name)[:200] or None
    lines, body = _split_head(payload)
    content_type = own.get(b"content-type", b"").partition(b";")[0].strip().lower()
    match = REQUEST_LINE.fullmatch(lines[0].strip())
    if content_type != b"application/http" or match is None:
        text = "A part of a batch must be an HTTP request of the type application/http"
        return Call(content_id, error=ServiceError(ErrorCode.BAD_REQUEST, text))
    try:
        url = urlsplit(match[2].decode("ascii"))
    except ValueError:
        text = "The URL of a part cannot be read"
        return Call(content_id, error=ServiceError(ErrorCode.BAD_REQUEST, text))
    path = unquote(url.path)
    if not path.startswith(PREFIX):
        text = f"A batch can only have calls of {PREFIX}"
        return Call(content_id, error=ServiceError(ErrorCode.NOT_FOUND, text))
    return Call(content_id, match[1].decode(), path, url.query.encode(), _headers(lines[1:]), body)


def _headers(lines: Sequence[bytes]) -> Headers:
    pairs = (line.partition(b":") for line in lines)
    return [(name.strip().lower(), value.strip()) for name, _, value in pairs]


def _split_head(payload: bytes) -> tuple[list[bytes], bytes]:
    """Return the lines before the first empty line, and what follows that."""
    end = re.search(rb"(?:\A|\r?\n)\r?\n|\Z", payload)
    assert end is not None
    head = re.sub(rb"\r?\n[ \t]+", b" ", payload[: end.start()])  # a long header is folded
    return head.split(b"\n"), payload[end.end() :]


async def answer(app: ASGIApp, outer: ASGIScope, calls: Sequence[Call]) -> list[Reply]:
    """Return the reply to each call, in order.

    Args:
        app: that answers a call.
        outer: scope of the batch.
        calls: of the batch.
    """
    free = asyncio.Semaphore(CONCURRENT_CALLS)

    async def one(call: Call) -> Reply:
        if call.error:
            return Reply(*error_reply(call.error, ERROR_FORMAT))
        async with free:
            return await _answer(app, outer, call)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(call)) for call in calls]
    return [task.result() for task in tasks]


async def _answer(app: ASGIApp, outer: ASGIScope, call: Call) -> Reply:
    own = {name for name, _ in call.headers}
    inherited = [
        (name, value)
        for name, value in outer["headers"]
        if name not in own and not OUTER_ONLY.fullmatch(name)
    ]
    headers = [row for row in call.headers if row[0] not in {b"content-length", b"origin"}]
    scope = {
        key: outer[key]
        for key in ("type", "asgi", "http_version", "scheme", "root_path", "client", "server")
        if key in outer
    }
    scope |= {
        "method": call.method,
        "path": call.path,
        "raw_path": call.path.encode(),
        "query_string": call.query,
        "headers": [*headers, *inherited, (b"content-length", str(len(call.body)).encode())],
        "state": {},
    }
    unread = [call.body]
    status = 500
    reply_headers: Headers = []
    chunks: list[bytes] = []

    async def receive() -> ASGIMessage:
        if not unread:  # the client waits for the reply to the whole batch
            await asyncio.Event().wait()
        return {"type": "http.request", "body": unread.pop()}

    async def send(message: ASGIMessage) -> None:
        nonlocal status, reply_headers
        if message["type"] == "http.response.start":
            status, reply_headers = message["status"], list(message["headers"])
        else:
            chunks.append(message.get("body", b""))

    await app(scope, receive, send)
    return Reply(status, reply_headers, b"".join(chunks))


def render(calls: Sequence[Call], replies: Sequence[Reply]) -> tuple[str, bytes]:
    """Return Content-Type and body of the reply to a batch."""
    boundary = f"batch_{new_id()}"
    lines = []
    for call, reply in zip(calls, replies, strict=True):
        lines += [f"--{boundary}".encode(), b"Content-Type: application/http"]
        if call.content_id:
            name = call.content_id.removeprefix("<")
            lines.append(f"Content-ID: {'<' * (name != call.content_id)}response-{name}".encode())
        phrase = HTTPStatus(reply.status).phrase
        lines += [b"", f"HTTP/1.1 {reply.status} {phrase}".encode()]
        lines += [name + b": " + value for name, value in reply.headers]
        lines += [b"", reply.body]
    lines += [f"--{boundary}--".encode(), b""]
    return f"multipart/mixed; boundary={boundary}", b"\r\n".join(lines)
