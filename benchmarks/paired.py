"""Compares kinds of request on one running service, at 64 connections.

    each round: every kind in turn, forwards or backwards ─> ratio to the reference in that round
                                                          ─> median ratio, lowest, highest

The kinds take turns, so a change in the machine's speed affects all of them. The processor time
that the service takes for a request is given too: other work on the machine affects it less.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil

from benchmarks.wrk import closed_loop
from tests.support.service import Served

CONNECTIONS = 64
SETTINGS = {"CACHE_SIZE": "0", "MAX_QUEUE_SECONDS": "30"}  # each text is inferred, none is refused
HEAD = ["requests", "requests/s", "CPU ms for a request", "ratio", "lowest", "highest"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request: where it goes, and its body for a text."""

    path: str
    body: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Rate:
    """One kind in one round."""

    requests_per_s: float
    cpu_ms: float  # of the service, for a request


@dataclass(frozen=True, slots=True)
class Comparison:
    """One kind over all rounds."""

    rates: list[Rate]
    ratios: list[float]  # to the reference, a round each

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    def row(self, name: str) -> list[str]:
        """Return the row of a table with the head `HEAD`."""
        return [
            name,
            f"{median(rate.requests_per_s for rate in self.rates):,.0f}",
            f"{median(rate.cpu_ms for rate in self.rates):.2f}",
            *(f"{ratio:.3f}" for ratio in (self.ratio, min(self.ratios), max(self.ratios))),
        ]


def measure(service: Served, kind: Kind, texts: list[str], seconds: int) -> Rate:
    """Send one text per request.

    Raises:
        LoadError: a reply was not a success.
    """
    process = psutil.Process(service.process.pid)
    before = sum(process.cpu_times()[:2])
    result = closed_loop(
        service.port, kind.path, [kind.body(text) for text in texts], CONNECTIONS, seconds
    )
    result.require_success()
    cpu_s = sum(process.cpu_times()[:2]) - before
    return Rate(result.replies / result.seconds, cpu_s / result.replies * 1000)


def compare(
    service: Served, kinds: Mapping[str, Kind], texts: list[str], rounds: int, seconds: int
) -> dict[str, Comparison]:
    """Measure every kind in each round; the first kind is the reference."""
    for kind in kinds.values():  # to warm up
        measure(service, kind, texts, seconds)
    names = list(kinds)
    measured: list[dict[str, Rate]] = []
    for i in range(rounds):
        order = names if i % 2 == 0 else names[::-1]
        measured.append({name: measure(service, kinds[name], texts, seconds) for name in order})
    return {
        name: Comparison(
            [rates[name] for rates in measured],
            [rates[name].requests_per_s / rates[names[0]].requests_per_s for rates in measured],
        )
        for name in names
    }
