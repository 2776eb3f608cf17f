"""The load generator: a process of its own that sends requests and times the replies.

It is told what to do in one JSON object on standard input and answers with one on standard output.
Requests are whole bytes before the clock starts; one thread asks epoll and reads of a reply its
status and length. It knows neither what it asks nor whom. Two loads:

    closed   every connection sends its next request when the reply to the last is in
    open     requests fall due at random moments at a given rate, whether or not the server keeps
             up; latency counts from the moment that a request was due, so a server that stalls
             cannot hide it

`seconds` after the start nothing more is sent and nothing more is counted; what is then under way
is waited for, so that the server's work and the replies match.
"""

import json
import random
import select
import socket
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.bench.wire import first_reply

DRAIN_S = 15.0
TICK_S = 0.003  # of the open load: waking for each reply would take from the server's processors


@dataclass(slots=True)
class Connection:
    """A socket and the request that is under way on it."""

    socket: socket.socket
    due: float = 0.0
    received: bytearray = field(default_factory=bytearray)


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield the moments, in seconds from the start, of random (Poisson) arrivals at `rate`/s."""
    draw = random.Random(seed)
    moment = draw.expovariate(rate)
    while moment < seconds:
        yield moment
        moment += draw.expovariate(rate)


def percentile(ordered: list[float], share: float) -> float:
    """Return the smallest of the ascending values that `share` of them do not exceed."""
    if not ordered:
        return float("nan")
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def summary(latencies: "array[float]") -> dict[str, float]:
    """Return the percentiles, in milliseconds, of latencies in seconds."""
    ordered = sorted(latencies)
    return {
        name: percentile(ordered, share) * 1000
        for name, share in {"p50": 0.5, "p95": 0.95, "p99": 0.99}.items()
    }


class Load:
    """One run of one load against one server."""

    def __init__(self, port: int, requests: list[bytes], connections: int, seconds: float) -> None:
        self.address = ("127.0.0.1", port)
        self.requests = requests
        self.seconds = seconds
        self.sent = 0
        self.drained = 0
        self.reconnects = 0
        self.latencies: dict[int, array[float]] = {}  # by status
        self.late = array("d")  # from due to sent
        self.each_second = [0] * max(1, int(seconds))  # replies of status 200
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._idle = [self._open() for _ in range(connections)]

    def _open(self) -> Connection:
        opened = socket.create_connection(self.address)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.settimeout(0)
        connection = self._connections[opened.fileno()] = Connection(opened)
        self._poll.register(opened.fileno(), select.EPOLLIN)
        return connection

    def _reopen(self, connection: Connection) -> Connection:
        del self._connections[connection.socket.fileno()]
        connection.socket.close()  # epoll forgets it
        self.reconnects += 1
        return self._open()

    def _send(self, connection: Connection, due: float) -> None:
        request = self.requests[self.sent % len(self.requests)]
        self.sent += 1
        connection.due = due
        # A request is smaller than a socket's buffer and has it for itself.
        if connection.socket.send(request) != len(request):
            raise BufferError(f"a request of {len(request)} bytes did not fit the socket's buffer")

    def _receive(self, descriptor: int, begin: float) -> Connection | None:
        """Read what came; return the connection if its reply is now whole."""
        connection = self._connections[descriptor]
        data: bytes | bytearray = connection.socket.recv(1 << 18)
        now = time.perf_counter()
        closed = not data
        if closed:
            status, closes = 0, True  # hung up in the middle of a reply
        else:
            if connection.received:
                connection.received += data
                data = connection.received
            reply = first_reply(data)
            if reply is None:
                if data is not connection.received:
                    connection.received += data
                return None
            connection.received.clear()
            status, closes = reply.status, reply.closes
        if now - begin <= self.seconds:
            self.latencies.setdefault(status, array("d")).append(now - connection.due)
            if status == 200:
                self.each_second[min(int(now - begin), len(self.each_second) - 1)] += 1
        else:
            self.drained += 1
        return self._reopen(connection) if closes else connection

    def closed(self) -> dict[str, Any]:
        """Run the closed load."""
        begin, busy = self._start(), len(self._idle)
        for connection in self._idle:
            self._send(connection, time.perf_counter())
        while busy:
            ready = self._poll.poll(DRAIN_S)
            if not ready:
                break
            for descriptor, _ in ready:
                free = self._receive(descriptor, begin)
                if free is None:
                    continue
                now = time.perf_counter()
                if now - begin < self.seconds:
                    self._send(free, now)
                else:
                    busy -= 1
        return self._result(begin, unanswered=busy)

    def open(self, rate: float, seed: int) -> dict[str, Any]:
        """Run the open load; what is due and finds no idle connection waits for one."""
        schedule = arrivals(rate, self.seconds, seed)
        waiting: deque[float] = deque()
        begin, connections = self._start(), len(self._idle)
        coming: float | None = next(schedule, None)
        while True:
            now = time.perf_counter() - begin
            while coming is not None and coming <= now < self.seconds:
                waiting.append(coming)
                coming = next(schedule, None)
            while waiting and self._idle and now < self.seconds:
                due = begin + waiting.popleft()
                self._send(self._idle.pop(), due)
                self.late.append(time.perf_counter() - due)
            if now >= self.seconds and len(self._idle) == connections:
                break
            if now >= self.seconds + DRAIN_S:
                break
            time.sleep(TICK_S)
            for descriptor, _ in self._poll.poll(0):
                connection = self._receive(descriptor, begin)
                if connection is not None:
                    self._idle.append(connection)
        unsent = len(waiting)
        return self._result(begin, connections - len(self._idle)) | {
            "offered": self.sent + unsent,
            "unsent": unsent,
            "late_p99": percentile(sorted(self.late), 0.99) * 1000,
        }

    def _start(self) -> float:
        self._cpu = time.process_time()
        return time.perf_counter()

    def _result(self, begin: float, unanswered: int) -> dict[str, Any]:
        wall, cpu = time.perf_counter() - begin, time.process_time() - self._cpu
        for connection in self._connections.values():
            connection.socket.close()
        self._poll.close()
        return {
            "seconds": self.seconds,
            "sent": self.sent,
            "drained": self.drained,
            "unanswered": unanswered,
            "reconnects": self.reconnects,
            "statuses": {status: len(each) for status, each in self.latencies.items()},
            "latency_ms": {status: summary(each) for status, each in self.latencies.items()},
            "each_second": self.each_second,
            "own_cpu_share": cpu / wall,
        }


def main() -> None:
    """Do what standard input says."""
    order = json.load(sys.stdin)
    requests = [request.encode() for request in order["requests"]]
    load = Load(order["port"], requests, order["connections"], order["seconds"])
    rate = order.get("rate")
    result = load.open(rate, order.get("seed", 0)) if rate else load.closed()
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
