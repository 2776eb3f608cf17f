"""The load generators against a small server: what they send, count and time."""

import asyncio
import itertools
import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from benchmarks import wrk
from benchmarks.serving.open_loop import OpenLoop, arrivals, post, status_of

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
REFUSED = b"HTTP/1.1 429 Too Many\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


@contextmanager
def server(
    replies: dict[int, bytes], stall_s: float = 0.0, received: list[bytes] | None = None
) -> Iterator[int]:
    """A server that sends `replies` by the number of the request, else `GOOD`; it stalls once."""
    ready: queue.Queue[tuple[int, Callable[[], object]]] = queue.Queue()
    served = itertools.count(1)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(1 << 16):
            if received is not None:
                received.append(request)
            number = next(served)
            if number == 50:
                time.sleep(stall_s)  # the whole server stops
            reply = replies.get(number, GOOD)
            writer.write(reply)
            if reply is REFUSED:
                break
        writer.close()
        await writer.wait_closed()

    async def run() -> None:
        loop, end = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(handle, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            ready.put((port, lambda: loop.call_soon_threadsafe(end.set)))
            await end.wait()
            while len(asyncio.all_tasks()) > 1:  # connections that the client has closed
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    port, end = ready.get(timeout=10)
    try:
        yield port
    finally:
        end()
        thread.join(20)
    assert not thread.is_alive()


@needs_wrk
def test_wrk_sends_every_body_and_counts_error_replies() -> None:
    bodies = [{"texts": [f"né 🙂\n{i}"]} for i in range(3)]
    received: list[bytes] = []
    with server({10: REFUSED, 20: REFUSED}, received=received) as port:
        result = wrk.closed_loop(port, "/v1/predict", bodies, connections=2, seconds=1)
    assert all(request.startswith(b"POST /v1/predict HTTP/1.1\r\n") for request in received)
    contents = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in received]
    assert sum(contents.count(body) for body in bodies) == len(contents)
    assert min(contents.count(body) for body in bodies) > 5
    assert 20 < result.replies <= len(received)
    assert result.errors == 2
    assert result.successes == result.replies - 2
    assert 0 < result.p50 <= result.p95 <= result.p99 < 1000
    with pytest.raises(wrk.LoadError, match="2 were errors"):
        result.require_success()


@needs_wrk
def test_wrk_without_a_server_is_an_error() -> None:
    with server({}) as port:
        pass
    with pytest.raises(wrk.LoadError, match="wrk"):
        wrk.closed_loop(port, "/", [{}], connections=1, seconds=1)


def test_a_missing_wrk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="apt-get install wrk"):
        wrk.require_wrk()


def test_the_open_loop_does_not_hide_a_stall() -> None:
    """At 200/s, a stall of 0.4 s delays 80 requests. A closed loop would show one a connection."""
    with server({}, stall_s=0.4) as port:
        rows = OpenLoop(port, [post("/", {})], connections=4).run(rate=200, seconds=1.0)
    status, due, _, answered = np.array(rows).T
    assert (status == 200).all()
    assert len(rows) == 200
    assert (answered - due > 0.1).sum() >= 40
    assert np.percentile(answered - due, 99) >= 0.3


def test_the_open_loop_connects_again_after_a_close_and_reports_it() -> None:
    with server({5: REFUSED, 9: REFUSED}) as port:
        rows = OpenLoop(port, [post("/", {})], connections=1).run(rate=200, seconds=0.5)
    statuses = [int(row[0]) for row in rows]
    assert statuses.count(429) == 2
    assert statuses.count(0) == 2  # sent on the connection that the server had closed
    assert statuses.count(200) == len(statuses) - 4 > 40


def test_arrivals_have_the_rate_and_are_the_same_each_time() -> None:
    moments = arrivals(1000, 10)
    assert list(moments) == sorted(moments) == list(arrivals(1000, 10))
    assert len(moments) == 10_000
    assert moments[-1] == pytest.approx(10, abs=0.5)  # five standard deviations


@pytest.mark.parametrize("size", range(len(GOOD)))
def test_an_incomplete_reply_has_no_status(size: int) -> None:
    assert status_of(GOOD[:size]) is None


def test_a_reply_without_a_length_is_an_error() -> None:
    assert status_of(GOOD) == 200
    with pytest.raises(ValueError, match="chunked"):
        status_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")


def test_a_request_counts_bytes_not_characters() -> None:
    head, _, body = post("/v1/predict", {"texts": ["né 🙂"]}).partition(b"\r\n\r\n")
    assert json.loads(body) == {"texts": ["né 🙂"]}
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
