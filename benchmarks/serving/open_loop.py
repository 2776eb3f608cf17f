"""The load generator of the overload: POST requests at random moments, however the server keeps up.

    python -m benchmarks.serving.open_loop < order.json > rows.npy

    rate ─> Poisson arrivals ─> idle connections ─> (status, due, sent, answered) of each request

A latency counts from the moment that a request was due, so a server that stalls cannot hide it.

wrk could do this with a script's `delay()`, but takes 33 µs of processor time for a request; this
takes 19 (both at 4,400 requests/s on the two cores of the server). The difference is 3 % of the two
cores, which is more than the result's distance from its limit.
"""

import itertools
import json
import math
import re
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

CONTENT_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
TICK_S = 0.003  # waking up for each reply would take processor time from the server
WAIT_S = 15.0  # after the last request was due, for late sends and replies
Row = tuple[int, float, float, float]  # status (0: no reply), when due, when sent, when answered


def arrivals(rate: float, seconds: float) -> deque[float]:
    """Return the moments of Poisson arrivals, the same ones each time."""
    gaps = np.random.default_rng(0).exponential(1 / rate, round(rate * seconds))
    return deque(np.cumsum(gaps).tolist())


def post(path: str, body: object) -> bytes:
    """Return a POST request with a JSON body."""
    content = json.dumps(body, ensure_ascii=False).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    ).encode() + content


def status_of(reply: bytes) -> int | None:
    """Return the status of a reply, or None while it is incomplete."""
    head, end, body = reply.partition(b"\r\n\r\n")
    if not end:
        return None
    length = CONTENT_LENGTH.search(head)
    if length is None:
        raise ValueError(f"got a reply without Content-Length: {head!r}")
    return int(head[9:12]) if len(body) >= int(length[1]) else None


@dataclass(slots=True)
class Connection:
    """A socket and the request that is under way on it."""

    socket: socket.socket
    due: float = 0.0
    sent: float = 0.0
    received: bytes = b""


class OpenLoop:
    """One run against a server on 127.0.0.1. Times are seconds from the start."""

    def __init__(self, port: int, requests: list[bytes], connections: int) -> None:
        self._port, self._requests = port, itertools.cycle(requests)
        self._rows: list[Row] = []
        self._poll = select.epoll()
        self._busy: dict[int, Connection] = {}
        self._idle = deque(self._connect() for _ in range(connections))

    def run(self, rate: float, seconds: float) -> list[Row]:
        """Send all requests, wait for their replies, and return a row for each."""
        moments = arrivals(rate, seconds)
        begin = time.perf_counter()
        while (moments or self._busy) and (now := time.perf_counter() - begin) < seconds + WAIT_S:
            while self._idle and moments and moments[0] <= now:
                self._send(moments.popleft(), time.perf_counter() - begin)
            time.sleep(TICK_S)
            for descriptor, _ in self._poll.poll(0):
                if descriptor in self._busy:
                    self._receive(self._busy[descriptor], begin)
        self._rows += [(0, each.due, each.sent, math.nan) for each in self._busy.values()]
        self._rows += [(0, due, math.nan, math.nan) for due in moments]
        for connection in [*self._busy.values(), *self._idle]:
            connection.socket.close()
        self._poll.close()
        return self._rows

    def _connect(self) -> Connection:
        opened = socket.create_connection(("127.0.0.1", self._port))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        self._poll.register(opened, select.EPOLLIN)
        return Connection(opened)

    def _send(self, due: float, now: float) -> None:
        connection = self._idle.popleft()
        self._busy[connection.socket.fileno()] = connection
        connection.due, connection.sent, connection.received = due, now, b""
        connection.socket.send(next(self._requests))  # it fits into the socket's empty buffer

    def _receive(self, connection: Connection, begin: float) -> None:
        data = connection.socket.recv(1 << 16)
        connection.received += data
        status = status_of(connection.received) if data else 0
        if status is None:
            return
        self._rows.append((status, connection.due, connection.sent, time.perf_counter() - begin))
        del self._busy[connection.socket.fileno()]
        if not data:  # the server closed the connection
            connection.socket.close()
            connection = self._connect()
        self._idle.append(connection)


def main() -> None:
    """Run one order from standard input; the rows go to standard output."""
    order = json.load(sys.stdin)
    requests = [post(order["path"], body) for body in order["bodies"]]
    loop = OpenLoop(order["port"], requests, order["connections"])
    np.save(sys.stdout.buffer, np.array(loop.run(order["rate"], order["seconds"])))


if __name__ == "__main__":
    main()
