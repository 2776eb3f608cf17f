"""SIGTERM: a load balancer is told first, and every request is answered until the port closes."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.service import ROOT, Served

Start = Callable[..., Served]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Served] = []

    def start(**settings: str) -> Served:
        started.append(Served(ROOT / "models" / "release", tmp_path, **settings))
        return started[-1]

    yield start
    for service in started:
        service.stop()


def wait_until_not_ready(service: Served) -> httpx.Response:
    deadline = time.monotonic() + 60
    while (reply := service.http.get("/readyz")).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return reply


@pytest.mark.parametrize("workers", ["1", "2"])
def test_readyz_fails_while_requests_are_answered_on_connections_that_close(
    start: Start, workers: str
) -> None:
    service = start(WORKERS=workers, SHUTDOWN_DELAY_SECONDS="20")
    before = service.predict("hello")
    assert before.status_code == 200
    assert "connection" not in before.headers
    service.process.terminate()
    refusal = wait_until_not_ready(service)
    assert refusal.json() == {"status": "failing", "reason": "shutting down"}
    assert refusal.headers["connection"] == "close"
    after = service.predict("hello again")
    assert after.status_code == 200
    assert after.headers.get_list("connection") == ["close"]
    assert service.http.get("/healthz").status_code == 200  # the process is as it should be


def test_a_second_sigterm_ends_the_delay(start: Start) -> None:
    service = start(SHUTDOWN_DELAY_SECONDS="600")
    service.process.terminate()
    wait_until_not_ready(service)
    assert service.stop() < 60


def test_without_a_delay_the_port_closes_at_once(start: Start) -> None:
    service = start()
    assert service.predict("hello").status_code == 200
    with httpx.Client() as client:
        started = time.monotonic()
        service.process.terminate()
        # Each try on a connection of its own, while the process may still be ending.
        while True:
            try:
                client.get(f"{service.url}/readyz", headers={"connection": "close"})
            except httpx.TransportError:
                break
        assert time.monotonic() - started < 5
    service.process.wait(60)
