"""The load shedder's replies, without a server."""

import asyncio

import pytest

from serving.inference.batcher import QueueFullError
from serving.middleware import load_shedding
from serving.middleware.load_shedding import MAX_PAUSE_S, LoadShedder
from serving.middleware.route_table import RouteRule, RouteTable
from serving.observability.metrics import Metrics

HEADERS = [(b"host", b"x")]


class CapacityForTwo:
    """A model manager that admits two requests."""

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

    asyncio.run(scenario())
    assert pauses == [MAX_PAUSE_S] * 2


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
