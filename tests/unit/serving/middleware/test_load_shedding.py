"""The load shedder's replies, without a server; and the protocol's limits, with a small one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.inference.batcher import QueueFullError
from serving.middleware import load_shedding
from serving.middleware.load_shedding import (
    MAX_HEADER_BYTES,
    MAX_PAUSE_S,
    METRICS,
    STATE,
    LoadShedder,
    LoadSheddingProtocol,
)
from serving.middleware.route_table import RouteRule, RouteTable
from serving.observability.metrics import Metrics

HEADERS = [(b"host", b"x")]


class CapacityForTwo:
    """A model manager that admits two requests."""

    stopping = False

    def check_capacity(self, pending: int) -> None:
        if pending >= 2:
            raise QueueFullError(1.5)


async def _never_called(*_: object) -> None:
    raise AssertionError


def make_shedder(metrics: Metrics) -> LoadShedder:
    rules = {"/v1/predict": RouteRule("/v1/predict", "predict", fast_path=_never_called)}
    return LoadShedder(CapacityForTwo(), metrics, RouteTable(rules, []))  # type: ignore[arg-type]


def test_an_admitted_request_counts_before_it_enters() -> None:
    metrics = Metrics()
    shed = make_shedder(metrics)

    async def scenario() -> None:
        for _ in range(3):
            # The event loop reads from all sockets before any of their requests begins.
            replies = [shed("/v1/predict", HEADERS) for _ in range(4)]
            assert [parts is None for parts in replies] == [True, True, False, False]
            await asyncio.sleep(0)

    asyncio.run(scenario())
    rendered = metrics.render().decode()
    assert 'tagger_refusals_total{kind="overloaded"} 6.0' in rendered


def test_the_event_loop_pauses_once_a_turn_while_requests_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(load_shedding, "sleep", pauses.append)
    shed = make_shedder(Metrics())

    async def scenario() -> None:
        for requests, expected in ((2, 0), (5, 1), (1, 1), (3, 2)):
            for _ in range(requests):
                shed("/v1/predict", HEADERS)
            await asyncio.sleep(0)
            assert len(pauses) == expected

        for _ in range(load_shedding.MANY_REFUSED + 2):  # the loop is behind
            shed("/v1/predict", HEADERS)
        await asyncio.sleep(0)

    asyncio.run(scenario())
    # The more it refused in a turn, the shorter.
    shares = [1 - refused / load_shedding.MANY_REFUSED for refused in (3, 1)]
    assert pauses == pytest.approx([*(MAX_PAUSE_S * share for share in shares), 0])


def test_unknown_paths_get_no_metrics_of_their_own() -> None:
    metrics = Metrics()
    shed = make_shedder(metrics)

    async def scenario() -> None:
        shed("/v1/predict", HEADERS)
        shed("/v1/predict", HEADERS)
        assert shed("/v1/predict", HEADERS) is not None
        assert all(shed(f"/v1/predictions/{n}", HEADERS) is None for n in range(9))

    asyncio.run(scenario())
    assert "/v1/predictions" not in metrics.render().decode()


async def _early(_: object, __: object, send: Callable[[Any], Awaitable[None]]) -> None:
    """An app that answers before it has read the body."""
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


async def _late(_: object, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
    """An app that answers after the body, and a while."""
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(0.5)
    await _early(None, None, send)


Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@asynccontextmanager
async def listening(app: Any, **state: object) -> AsyncIterator[Connect]:
    config = uvicorn.Config(app, log_config=None, timeout_keep_alive=1)
    config.load()
    server_state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: LoadSheddingProtocol(config, server_state, dict(state)), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield lambda: asyncio.open_connection("127.0.0.1", port)


async def received(connect: Connect, *parts: bytes, pause: float = 0.05) -> bytes:
    """Return what a client gets that sends parts until the connection is closed."""
    reader, writer = await connect()

    async def write() -> None:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause)

    task, content = asyncio.create_task(write()), b""
    try:
        async with asyncio.timeout(10):
            while part := await reader.read(65_536):
                content += part
    except ConnectionResetError:  # the server closed while we were still sending
        pass
    finally:
        task.cancel()
        writer.close()
    return content


TRICKLE = [b"E"] * 1000  # for much longer than the limits of time


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (b"GET /", b"HTTP/1.1 408 "),
        (b"GET / HTTP/1.1\r\nhost: ", b"HTTP/1.1 408 "),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 "),
        # The answer is sent, and the body still arrives.
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\n", b"HTTP/1.1 200 "),
    ],
)
def test_a_request_that_arrives_for_ever_is_ended(
    monkeypatch: pytest.MonkeyPatch, first: bytes, status: bytes
) -> None:
    monkeypatch.setattr(load_shedding, "HEADER_SECONDS", 0.4)

    async def scenario() -> None:
        async with listening(_early) as connect:
            begun = asyncio.get_running_loop().time()
            content = await received(connect, first, *TRICKLE)
            assert content.startswith(status)
            assert 0.3 < asyncio.get_running_loop().time() - begun < 5

    asyncio.run(scenario())


def test_the_body_of_a_shed_request_cannot_arrive_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_shedding, "HEADER_SECONDS", 0.4)
    monkeypatch.setattr(load_shedding, "MAX_PAUSE_S", 0)

    async def scenario() -> None:
        shedder = make_shedder(Metrics())
        shedder._pending = 5
        async with listening(_late, **{STATE: shedder}) as connect:
            head = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\n"
            content = await received(connect, head, *TRICKLE)
            assert content.startswith(b"HTTP/1.1 429 ")
            assert content.count(b"HTTP/1.1 ") == 1

    asyncio.run(scenario())


def test_a_connection_that_sends_nothing_is_closed() -> None:
    async def scenario() -> None:
        async with listening(_early) as connect:
            assert await received(connect) == b""

    asyncio.run(scenario())


def test_a_request_that_is_slow_but_in_time_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_shedding, "HEADER_SECONDS", 2)
    head = [b"POST / HTT", b"P/1.1\r\nhost: x\r\nconte", b"nt-length: 9\r\n", b"\r\n"]

    async def scenario() -> None:
        async with listening(_late) as connect:
            content = await received(connect, *head, *[b"x"] * 9, *head, *[b"x"] * 9, pause=0.1)
            assert content.count(b"HTTP/1.1 200 ") == 2

    asyncio.run(scenario())


LONG = b"x" * (MAX_HEADER_BYTES + 1)


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET /" + LONG + b" HTTP/1.1\r\nhost: x\r\n\r\n"],
        [b"GET / HTTP/1.1\r\nhost: x\r\na: " + LONG + b"\r\n\r\n"],
        [b"GET / HTTP/1.1\r\nhost: x\r\na: ", *[b"x" * 10_000] * 1000],
        [b"GET / HTTP/1.1\r\nhost: x\r\n", *[b"a: b\r\n" * 2000] * 1000],
        [b"\r\n" * 10_000] * 4,
    ],
)
def test_headers_have_a_limit(parts: list[bytes]) -> None:
    async def scenario() -> None:
        async with listening(_early) as connect:
            content = await received(connect, *parts, pause=0.001)
            assert content.startswith(b"HTTP/1.1 431 ")
            assert b'"headers_too_large"' in content
            assert b"connection: close" in content

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("part", "kind"),
    [(b"GET / HTTP/1.1\r\nhost: ", "timeout"), (b"a" * 70_000, "headers_too_large")],
)
def test_what_the_parser_refuses_is_counted(
    monkeypatch: pytest.MonkeyPatch, part: bytes, kind: str
) -> None:
    monkeypatch.setattr(load_shedding, "HEADER_SECONDS", 0.2)
    metrics = Metrics()

    async def scenario() -> None:
        async with listening(_early, **{METRICS: metrics}) as connect:
            await received(connect, b"GET / HTTP/1.1\r\nhost: x\r\nb: ", part)

    asyncio.run(scenario())
    labels = {"kind": kind}
    assert metrics.registry.get_sample_value("tagger_refusals_total", labels) == 1


def test_what_follows_a_chunked_body_has_a_limit_too() -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"

    async def scenario() -> None:
        async with listening(_late) as connect:
            begun = asyncio.get_running_loop().time()
            # The request is not complete, so there is nobody to answer it.
            assert await received(connect, head, *[b"a: b\r\n" * 2000] * 1000, pause=0.001) == b""
            assert asyncio.get_running_loop().time() - begun < 5

    asyncio.run(scenario())


def test_a_long_body_is_no_header() -> None:
    body = b"x" * 400_000
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 400000\r\n\r\n"

    async def scenario() -> None:
        async with listening(_late) as connect:
            content = await received(connect, head + body, pause=0)
            assert content.startswith(b"HTTP/1.1 200 ")

    asyncio.run(scenario())
