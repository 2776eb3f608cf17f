"""What was measured as figures, and the limits that they must meet. No clocks and no processes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks.wrk import ClosedLoop, LoadError

LIMITS = {
    "lists": 0.85,  # of the bare loop's tweets per second
    "single64": 0.60,
    "single1_p50": 2.0,  # times the bare loop's single tweet
    "best_peer": 2.5,
    "memory_mb": 400,
    "start_s": 3.0,
    "overload": 0.90,  # of the capacity
    "overload_p99_ms": 1000,
    "overload_growth": 0.05,  # of memory, from the first third to the last
    "explain_p50_s": 1.2,  # 20 words, 1,000 samples, nothing else running
    "beside_explanations": 3.0,  # single-tweet p99 while two explanations run, to that without
}
PEERS = ("infinity", "mlflow", "pipeline", "mlserver")


class Load(NamedTuple):
    """One kind of closed-loop load."""

    name: str
    title: str
    connections: int
    texts: int  # of a request


LOADS = (
    Load("single1", "one tweet, 1 connection", 1, 1),
    Load("single16", "one tweet, 16 connections", 16, 1),
    Load("single64", "one tweet, 64 connections", 64, 1),
    Load("lists", "lists of 32, 4 connections", 4, 32),
)


@dataclass(frozen=True, slots=True)
class Measure:
    """One load on one server; latencies in milliseconds."""

    requests_per_s: float
    tweets_per_s: float
    p50: float
    p95: float
    p99: float
    cpu_s_per_1000: float  # processor seconds of the server's process tree for 1,000 tweets
    refused: float  # the share of replies that were errors
    generator_cpu: float  # the load generator's share of one core
    of_bare: float  # tweets per second over the bare loop's, in the same round


def measure_of(result: ClosedLoop, load: Load, cpu_s: float, bare_tweets_per_s: float) -> Measure:
    """Combine what the load generator saw, the server's processor time and the bare loop's rate.

    Raises:
        LoadError: no reply was a success.
    """
    if not result.successes:
        raise LoadError(f"{load.title}: got {result}, wanted successes")
    rate = result.successes / result.seconds
    return Measure(
        rate, rate * load.texts, result.p50, result.p95, result.p99,
        cpu_s / (result.successes * load.texts) * 1000, result.errors / result.replies, result.cpu,
        rate * load.texts / bare_tweets_per_s,
    )  # fmt: skip


def medians(measures: Sequence[Measure]) -> Measure:
    """Return the median of each figure over the rounds."""
    return Measure(*(median(getattr(m, each.name) for m in measures) for each in fields(Measure)))


@dataclass(slots=True)
class Bare:
    """The bare loop's rounds."""

    tweets_per_s: list[float] = field(default_factory=list)
    cpu_s_per_1000: list[float] = field(default_factory=list)
    single_ms: list[dict[str, float]] = field(default_factory=list)
    peak_rss_mb: list[float] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Result:
    """One target's rounds."""

    title: str
    model: str
    versions: str = ""
    failed: str = ""
    same_label: str = ""
    start_s: list[float] = field(default_factory=list)
    peak_rss_mb: list[float] = field(default_factory=list)
    pss_mb: list[float] = field(default_factory=list)
    loads: dict[str, list[Measure]] = field(default_factory=dict)
    single_ratio: list[float] = field(default_factory=list)  # p50 at 1 connection over bare single


@dataclass(frozen=True, slots=True)
class Explanations:
    """The time of an explanation, and the p99 of single tweets without and beside two of them."""

    p50_s: float
    quiet_p99_ms: float
    beside_p99_ms: float


@dataclass(frozen=True, slots=True)
class Overload:
    """A multiple of the capacity, offered at a fixed rate; latencies in milliseconds."""

    seconds: int
    capacity: float  # requests/s at 64 connections, mean of just before and just after
    offered: float
    accepted: float
    refused: float  # 429
    other: float  # neither 200 nor 429, or no reply; should be 0
    p50: float  # of the accepted
    p99: float
    refused_p99: float
    late_p99: float  # from due to sent: the delay of the generator and its connections
    generator_cpu: float  # share of one core
    memory_mb: list[float]  # each second
    least_second: float  # the fewest accepted in one second after the first


def overload_of(
    rows: np.ndarray, seconds: int, capacity: float, generator_cpu: float, memory_mb: list[float]
) -> Overload:
    """Count the open loop's rows (status, due, sent, answered).

    Rates and latencies are those of replies that came within `seconds`; a request counts as
    `other` only if its reply, also a later one, is neither 200 nor 429.
    """
    status, due, sent, answered = rows.T
    in_time = answered <= seconds
    accepted, refused = in_time & (status == 200), in_time & (status == 429)

    def percentile(chosen: np.ndarray, values: np.ndarray, p: float) -> float:
        return float(np.percentile(values[chosen], p)) * 1000 if chosen.any() else float("nan")

    each_second = np.bincount(answered[accepted].astype(int), minlength=seconds)
    return Overload(
        seconds=seconds,
        capacity=capacity,
        offered=len(rows) / seconds,
        accepted=accepted.sum() / seconds,
        refused=refused.sum() / seconds,
        other=(~np.isin(status, (200, 429))).sum() / seconds,
        p50=percentile(accepted, answered - due, 50),
        p99=percentile(accepted, answered - due, 99),
        refused_p99=percentile(refused, answered - due, 99),
        late_p99=percentile(np.isfinite(sent), sent - due, 99),
        generator_cpu=generator_cpu,
        memory_mb=memory_mb,
        least_second=float(min(each_second[1:seconds], default=0)),
    )


def growth(memory: Sequence[float]) -> float:
    """Return by how much the last third's mean exceeds that of the first third's second half."""
    third = max(1, len(memory) // 3)
    first, last = memory[third // 2 : third] or memory[:1], memory[-third:]
    return sum(last) / len(last) / (sum(first) / len(first)) - 1


class Check(NamedTuple):
    """A figure and its limit."""

    what: str
    value: float
    limit: float
    at_least: bool

    @property
    def passed(self) -> bool:
        """Whether the limit is met; a figure that is missing (NaN) does not meet it."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def checks(
    results: dict[str, Result], overload: Overload | None, explanations: Explanations | None
) -> list[Check]:
    """Compare this service's figures, as far as they were measured, with their limits."""
    ours = results.get("ours")
    if ours is None or ours.failed:
        return []
    peers = [results[name] for name in PEERS if name in results and not results[name].failed]
    return [
        *_service_checks(ours),
        *(_peer_checks(ours, peers) if peers else []),
        *(_explanation_checks(explanations) if explanations else []),
        *(_overload_checks(overload) if overload else []),
    ]


def _service_checks(ours: Result) -> list[Check]:
    lists, single64 = medians(ours.loads["lists"]), medians(ours.loads["single64"])
    return [
        Check("lists of 32, of the bare loop", lists.of_bare, LIMITS["lists"], True),
        Check("64 connections, of the bare loop", single64.of_bare, LIMITS["single64"], True),
        Check("1 connection, p50 over the bare single tweet",
              median(ours.single_ratio), LIMITS["single1_p50"], False),
        Check("peak memory (RSS), MB", max(ours.peak_rss_mb), LIMITS["memory_mb"], False),
        Check("start to first reply, s", median(ours.start_s), LIMITS["start_s"], False),
    ]  # fmt: skip


def _peer_checks(ours: Result, peers: Sequence[Result]) -> list[Check]:
    ratios = [  # within a round
        min(mine.requests_per_s / peer.loads["single64"][i].requests_per_s for peer in peers)
        for i, mine in enumerate(ours.loads["single64"])
    ]
    return [Check("64 connections, over the best peer", median(ratios), LIMITS["best_peer"], True)]


def _explanation_checks(explanations: Explanations) -> list[Check]:
    ratio = explanations.beside_p99_ms / explanations.quiet_p99_ms
    return [
        Check("explanation of 20 words, 1,000 samples: p50, s",
              explanations.p50_s, LIMITS["explain_p50_s"], False),
        Check("single-tweet p99 beside two explanations, over that without",
              ratio, LIMITS["beside_explanations"], False),
    ]  # fmt: skip


def _overload_checks(load: Overload) -> list[Check]:
    return [
        Check("overload: accepted, of the capacity",
              load.accepted / load.capacity, LIMITS["overload"], True),
        Check("overload: p99 of the accepted, ms", load.p99, LIMITS["overload_p99_ms"], False),
        Check("overload: neither 200 nor 429, of the offered",
              load.other / load.offered, 0.0, False),
        Check("overload: growth of memory",
              growth(load.memory_mb), LIMITS["overload_growth"], False),
    ]  # fmt: skip
