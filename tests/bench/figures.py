"""What was measured, as figures, and held against the bars. Pure: no clocks, no processes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from statistics import median
from typing import Any, NamedTuple

BARS = {
    "lists": 0.85,  # of the bare loop's tweets a second
    "single64": 0.60,
    "single1_p50": 2.0,  # times the bare loop's single tweet
    "best_peer": 2.5,
    "memory_mb": 400,
    "start_s": 3.0,
    "overload": 0.90,  # of capacity
    "overload_p99_ms": 1000,
    "explain_p50_s": 1.2,  # twenty words, a thousand samples, alone
    "beside_explanations": 3.0,  # single-tweet p99 while two explanations run, to its quiet value
    "overload_growth": 0.05,  # of memory, from the first third to the last
}
PEERS = ("infinity", "mlflow", "pipeline", "mlserver")


class Load(NamedTuple):
    """One way to ask."""

    name: str
    title: str
    connections: int
    texts: int  # a request


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
    cpu_s_per_1000: float  # of the server's process tree, a thousand tweets
    refused: float  # the share of replies that were not 200
    generator_cpu: float  # the load generator's share of one core
    of_bare: float  # tweets a second over the bare loop's, in the same round


def measured(result: dict[str, Any], load: Load, cpu_s: float, bare: float) -> Measure:
    """Return what the load generator saw, the server's CPU and the bare loop's rate as one."""
    good = result["statuses"].get("200", 0)
    replies = sum(result["statuses"].values())
    if not good:
        raise ValueError(f"{load.title}: no good reply in {replies}: {result['statuses']}")
    rate, latency = good / result["seconds"], result["latency_ms"]["200"]
    worked = (good + result["drained"]) * load.texts
    return Measure(
        rate, rate * load.texts, latency["p50"], latency["p95"], latency["p99"],
        cpu_s / worked * 1000, (replies - good) / replies, result["own_cpu_share"],
        rate * load.texts / bare,
    )  # fmt: skip


def middle(measures: Sequence[Measure]) -> Measure:
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
class Outcome:
    """One server's rounds."""

    title: str
    model: str
    versions: str = ""
    failed: str = ""
    agreement: str = ""
    start_s: list[float] = field(default_factory=list)
    peak_rss_mb: list[float] = field(default_factory=list)
    pss_mb: list[float] = field(default_factory=list)
    loads: dict[str, list[Measure]] = field(default_factory=dict)
    single_ratio: list[float] = field(default_factory=list)  # p50 at 1 connection over bare single


@dataclass(frozen=True, slots=True)
class Explaining:
    """What an explanation takes, in seconds, and single tweets' p99 without and beside two."""

    p50_s: float
    quiet_p99_ms: float
    beside_p99_ms: float


@dataclass(frozen=True, slots=True)
class Overload:
    """Five times the capacity, offered whether or not it is taken; latencies in milliseconds."""

    capacity: float  # requests/s, closed load at 64 connections, mean of just before and just after
    offered: float
    accepted: float
    refused: float  # 429
    other: float  # neither 200 nor 429, or no answer; should be none
    p50: float
    p99: float
    refused_p99: float
    late_p99: float  # from due to sent: the generator's and the connections' own delay
    generator_cpu: float
    memory_mb: list[float]  # each second
    least_second: float  # the fewest accepted in one second


def growth(memory: Sequence[float]) -> float:
    """Return how much the last third's mean exceeds that of the first third, less its start."""
    third = max(1, len(memory) // 3)
    first, last = memory[third // 2 : third] or memory[:1], memory[-third:]
    return sum(last) / len(last) / (sum(first) / len(first)) - 1


class Check(NamedTuple):
    """A bar and what was found."""

    what: str
    found: float
    bar: float
    at_least: bool

    @property
    def passed(self) -> bool:
        """Whether it is met; what was not measured is not."""
        return self.found >= self.bar if self.at_least else self.found <= self.bar


def checks(
    outcomes: dict[str, Outcome], overload: Overload | None, explaining: Explaining | None
) -> list[Check]:
    """Return the bars for this service, as far as their figures were taken."""
    ours = outcomes.get("ours")
    if ours is None or ours.failed:
        return []
    rows = {name: middle(measures) for name, measures in ours.loads.items()}
    found = [
        Check("lists of 32, of the bare loop", rows["lists"].of_bare, BARS["lists"], True),
        Check("64 connections, of the bare loop", rows["single64"].of_bare, BARS["single64"], True),
        Check(
            "1 connection, p50 over the bare single tweet",
            median(ours.single_ratio), BARS["single1_p50"], False,
        ),
        Check("peak memory (RSS), MB", max(ours.peak_rss_mb), BARS["memory_mb"], False),
        Check("start to first answer, s", median(ours.start_s), BARS["start_s"], False),
    ]  # fmt: skip
    peers = [outcomes[name] for name in PEERS if name in outcomes and not outcomes[name].failed]
    if peers:
        ratios = [  # of the same round
            min(mine.requests_per_s / peer.loads["single64"][at].requests_per_s for peer in peers)
            for at, mine in enumerate(ours.loads["single64"])
        ]
        found.append(
            Check("64 connections, over the best peer", median(ratios), BARS["best_peer"], True)
        )
    if explaining:
        beside = explaining.beside_p99_ms / explaining.quiet_p99_ms
        found += [
            Check("explanation of 20 words, 1,000 samples: p50, s", explaining.p50_s,
                  BARS["explain_p50_s"], False),
            Check("single-tweet p99 beside two explanations, to quiet", beside,
                  BARS["beside_explanations"], False),
        ]  # fmt: skip
    if overload:
        found += [
            Check("overload: accepted, of capacity", overload.accepted / overload.capacity,
                  BARS["overload"], True),
            Check("overload: p99 of accepted, ms", overload.p99, BARS["overload_p99_ms"], False),
            Check("overload: neither 200 nor 429, of offered", overload.other / overload.offered,
                  0.0, False),
            Check("overload: growth of memory", growth(overload.memory_mb),
                  BARS["overload_growth"], False),
        ]  # fmt: skip
    return found
