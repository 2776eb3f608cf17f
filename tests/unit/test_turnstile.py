"""The turnstile's refusals, without a server."""

import asyncio

import pytest

from serving import turnstile
from serving.batcher import QueueFullError
from serving.metrics import Metrics
from serving.turnstile import REST, Refuser

HEADERS = [(b"host", b"x")]


class TwoPlaces:
    """A service that has room for two."""

    def __init__(self) -> None:
        self.metrics = Metrics()

    def check_room(self, coming: int) -> None:
        if coming >= 2:
            raise QueueFullError(1.5)


def test_who_is_let_in_counts_before_it_waits() -> None:
    service = TwoPlaces()
    refuser = Refuser(service, {"/v1/predict"}, {})  # type: ignore[arg-type]

    async def body() -> None:
        for _ in range(3):
            # The event loop reads from all sockets before any of their requests begins.
            said = [refuser("/v1/predict", HEADERS) for _ in range(4)]
            assert [parts is None for parts in said] == [True, True, False, False]
            await asyncio.sleep(0)

    asyncio.run(body())
    counted = service.metrics.render().decode()
    assert 'tagger_refusals_total{kind="overloaded"} 6.0' in counted


def test_the_event_loop_rests_once_a_turn_while_it_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(turnstile, "sleep", rests.append)
    refuser = Refuser(TwoPlaces(), {"/v1/predict"}, {})  # type: ignore[arg-type]

    async def body() -> None:
        for requests, rested in ((2, 0), (5, 1), (1, 1), (3, 2)):
            for _ in range(requests):
                refuser("/v1/predict", HEADERS)
            await asyncio.sleep(0)
            assert len(rests) == rested

    asyncio.run(body())
    assert rests == [REST] * 2


def test_a_stranger_makes_no_metrics() -> None:
    service = TwoPlaces()
    refuser = Refuser(service, {"/v1/predict"}, {})  # type: ignore[arg-type]

    async def body() -> None:
        refuser("/v1/predict", HEADERS)
        refuser("/v1/predict", HEADERS)
        assert refuser("/v1/predict", HEADERS) is not None
        assert all(refuser(f"/v1/predictions/{n}", HEADERS) is None for n in range(9))

    asyncio.run(body())
    assert "/v1/predictions" not in service.metrics.render().decode()
