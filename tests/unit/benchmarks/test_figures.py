"""The benchmark's own parts: what it reads, what it counts, how it judges."""

import asyncio
import itertools
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.figures import (
    Check,
    Explaining,
    Measure,
    Outcome,
    Overload,
    checks,
    growth,
    middle,
)
from tests.bench.load import Load, arrivals, percentile
from tests.bench.process import stat, tree
from tests.bench.wire import ReplyError, first_reply, post

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
REFUSED = b"HTTP/1.1 429 Too Many\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@given(st.integers(0, len(GOOD) - 1))
def test_a_reply_that_is_not_whole_is_waited_for(cut: int) -> None:
    assert first_reply(GOOD[:cut]) is None


def test_a_reply_ends_where_its_length_says() -> None:
    reply = first_reply(GOOD + REFUSED)
    assert reply is not None
    assert (reply.status, reply.end, reply.closes) == (200, len(GOOD), False)
    assert GOOD[reply.begin : reply.end] == b"[]"
    refused = first_reply(REFUSED)
    assert refused is not None
    assert (refused.status, refused.closes) == (429, True)


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
    ids=["another protocol", "chunked"],
)
def test_what_cannot_be_read_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(ReplyError):
        first_reply(data)


def test_a_request_counts_bytes_not_characters() -> None:
    head, _, body = post("/v1/predict", {"texts": ["né 🙂"]}, "127.0.0.1:1").partition(b"\r\n\r\n")
    assert body.decode() == '{"texts": ["né 🙂"]}'
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")


def test_arrivals_are_as_many_as_the_rate_says_and_the_same_each_time() -> None:
    moments = list(arrivals(1000, 10, seed=3))
    assert moments == sorted(moments) == list(arrivals(1000, 10, seed=3))
    assert moments[0] > 0
    assert moments[-1] < 10
    assert abs(len(moments) - 10_000) < 5 * 100  # five standard deviations


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_a_value_that_the_share_does_not_exceed(
    values: list[float], share: float
) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered)
    assert sum(value < found for value in ordered) < share * len(ordered)


@contextmanager
def server(answers: dict[int, bytes], stall_s: float = 0.0) -> Iterator[int]:
    """A server that gives `answers` by the number of the request, else `GOOD`, and stalls once."""
    ready: queue.Queue[tuple[int, Callable[[], object]]] = queue.Queue()
    served = itertools.count(1)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            number = next(served)
            if number == 50:
                time.sleep(stall_s)  # the whole server stands still
            reply = answers.get(number, GOOD)
            writer.write(reply)
            if reply is REFUSED:
                break
        writer.close()
        await writer.wait_closed()

    async def run() -> None:
        loop, end = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
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


def test_the_closed_load_counts_each_reply_once_and_comes_back_after_a_close() -> None:
    with server({5: REFUSED, 9: REFUSED}) as port:
        result = Load(port, [b"GET / HTTP/1.1\r\n\r\n"], connections=3, seconds=0.5).closed()
    counted = sum(result["statuses"].values()) + result["drained"]
    assert counted == result["sent"] > 20
    assert result["statuses"][429] == 2 == result["reconnects"]
    assert result["unanswered"] == 0
    assert sum(result["each_second"]) == result["statuses"][200]


def test_the_open_load_does_not_hide_a_stall() -> None:
    """At 200/s, 0.4 s of standing still delays 80 requests; a closed load would show one a
    connection.
    """
    with server({}, stall_s=0.4) as port:
        load = Load(port, [b"GET / HTTP/1.1\r\n\r\n"], connections=4, seconds=1.0)
        result = load.open(rate=200, seed=1)
    late = sum(latency > 0.1 for latency in load.latencies[200])
    assert late >= 40
    assert result["latency_ms"][200]["p99"] >= 300
    assert result["offered"] == result["sent"] + result["unsent"]


def test_a_tree_holds_the_grandchildren() -> None:
    inner = "import time; time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    child = subprocess.Popen([sys.executable, "-c", outer])
    try:
        deadline = time.monotonic() + 20
        while len(found := tree(child.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(found) == 2
        assert child.pid in found
    finally:
        child.kill()
        child.wait()
        for pid in found.keys() - {child.pid}:
            subprocess.run(["kill", "-9", str(pid)], check=True)
    assert stat(child.pid) is None


MEASURE = Measure(
    requests_per_s=900, tweets_per_s=900, p50=1.5, p95=2, p99=3, cpu_s_per_1000=2,
    refused=0, generator_cpu=0.02, of_bare=0.9,
)  # fmt: skip
OVERLOAD = Overload(
    capacity=900, offered=4500, accepted=890, refused=3610, other=0, p50=300, p99=600,
    refused_p99=20, late_p99=2, generator_cpu=0.1, memory_mb=[200.0] * 60, least_second=850,
)  # fmt: skip
EXPLAINING = Explaining(p50_s=1.0, quiet_p99_ms=2.0, beside_p99_ms=5.0)


def outcomes(ours: float, peer: float) -> dict[str, Outcome]:
    def outcome(rate: float) -> Outcome:
        rows = [replace(MEASURE, requests_per_s=rate)]
        return Outcome(
            "server", "model", start_s=[1.5], peak_rss_mb=[250.0], pss_mb=[240.0],
            loads={"single1": rows, "single64": rows, "lists": rows}, single_ratio=[1.4],
        )  # fmt: skip

    return {"ours": outcome(ours), "infinity": outcome(peer)}


def test_every_bar_is_met_by_figures_that_meet_it() -> None:
    found = checks(outcomes(900, 300), OVERLOAD, EXPLAINING)
    assert len(found) == 12
    assert all(check.passed for check in found)


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        ({"accepted": 800.0}, "overload: accepted, of capacity"),
        ({"p99": 1001.0}, "overload: p99 of accepted, ms"),
        ({"p99": float("nan")}, "overload: p99 of accepted, ms"),
        ({"other": 1.0}, "overload: neither 200 nor 429, of offered"),
        ({"memory_mb": [200.0] * 30 + [230.0] * 30}, "overload: growth of memory"),
    ],
)
def test_a_bar_that_is_not_met_is_missed(worse: dict[str, float], missed: str) -> None:
    found = checks(outcomes(900, 300), replace(OVERLOAD, **worse), EXPLAINING)
    assert [check.what for check in found if not check.passed] == [missed]


def test_slow_explanations_are_missed() -> None:
    slow = replace(EXPLAINING, p50_s=1.3, beside_p99_ms=6.1)
    assert sum(not check.passed for check in checks(outcomes(900, 300), None, slow)) == 2


def test_the_best_peer_is_the_one_to_beat() -> None:
    found = checks(outcomes(900, 400), None, None)
    assert [c.what for c in found if not c.passed] == ["64 connections, over the best peer"]


def test_figures_of_rounds_are_their_medians() -> None:
    rounds = [replace(MEASURE, p50=p50, p99=p99) for p50, p99 in [(1, 9), (2, 7), (3, 8)]]
    assert (middle(rounds).p50, middle(rounds).p99) == (2, 8)


def test_growth_leaves_out_the_start() -> None:
    assert growth([100.0] * 5 + [200.0] * 55) == pytest.approx(0)
    assert growth([200.0] * 20 + [300.0] * 40) == pytest.approx(0.5)


def test_a_check_that_was_not_measured_is_missed() -> None:
    assert not Check("x", float("nan"), 1, at_least=True).passed
    assert not Check("x", float("nan"), 1, at_least=False).passed
