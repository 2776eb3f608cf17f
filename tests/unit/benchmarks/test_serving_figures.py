"""The serving benchmark's figures: what is counted, and when a limit is met."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.serving.figures import (
    LOADS,
    Check,
    Explanations,
    Measure,
    Overload,
    Result,
    checks,
    growth,
    measure_of,
    medians,
    overload_of,
)
from benchmarks.wrk import ClosedLoop, LoadError

MEASURE = Measure(
    requests_per_s=900, tweets_per_s=900, p50=1.5, p95=2, p99=3, cpu_s_per_1000=2,
    refused=0, generator_cpu=0.02, of_bare=0.9,
)  # fmt: skip
OVERLOAD = Overload(
    seconds=60, capacity=900, offered=4500, accepted=890, refused=3610, other=0, p50=300, p99=600,
    refused_p99=20, late_p99=2, generator_cpu=0.1, memory_mb=[200.0] * 60, least_second=850,
)  # fmt: skip
EXPLANATIONS = Explanations(p50_s=1.0, quiet_p99_ms=2.0, beside_p99_ms=5.0)
CLOSED = ClosedLoop(
    seconds=2, replies=110, errors=10, broken=0, p50=1, p95=2, p99=3, cpu=0.02
)  # fmt: skip


def results(ours: float, peer: float) -> dict[str, Result]:
    def result(rate: float) -> Result:
        rows = [replace(MEASURE, requests_per_s=rate)]
        return Result(
            "server", "model", start_s=[1.5], peak_rss_mb=[250.0], pss_mb=[240.0],
            loads={"single1": rows, "single64": rows, "lists": rows}, single_ratio=[1.4],
        )  # fmt: skip

    return {"ours": result(ours), "infinity": result(peer)}


def test_rates_count_successes_only() -> None:
    lists = LOADS[3]
    measure = measure_of(CLOSED, lists, cpu_s=6.4, bare_tweets_per_s=3200)
    assert measure.requests_per_s == 50
    assert measure.tweets_per_s == 50 * 32
    assert measure.cpu_s_per_1000 == pytest.approx(2)
    assert measure.of_bare == pytest.approx(0.5)
    assert measure.refused == pytest.approx(10 / 110)


def test_a_load_without_a_success_is_an_error() -> None:
    with pytest.raises(LoadError, match="lists of 32"):
        measure_of(replace(CLOSED, errors=110), LOADS[3], 1, 1)


def test_all_limits_are_met_by_good_figures() -> None:
    compared = checks(results(900, 300), OVERLOAD, EXPLANATIONS)
    assert len(compared) == 12
    assert all(check.passed for check in compared)


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        ({"accepted": 800.0}, "overload: accepted, of the capacity"),
        ({"p99": 1001.0}, "overload: p99 of the accepted, ms"),
        ({"p99": float("nan")}, "overload: p99 of the accepted, ms"),
        ({"other": 1.0}, "overload: neither 200 nor 429, of the offered"),
        ({"memory_mb": [200.0] * 30 + [230.0] * 30}, "overload: growth of memory"),
    ],
)
def test_a_worse_figure_misses_its_limit(worse: dict[str, float], missed: str) -> None:
    compared = checks(results(900, 300), replace(OVERLOAD, **worse), EXPLANATIONS)
    assert [check.what for check in compared if not check.passed] == [missed]


def test_slow_explanations_miss_their_limits() -> None:
    slow = replace(EXPLANATIONS, p50_s=1.3, beside_p99_ms=6.1)
    assert sum(not check.passed for check in checks(results(900, 300), None, slow)) == 2


def test_the_best_peer_sets_the_comparison() -> None:
    compared = checks(results(900, 400), None, None)
    assert [c.what for c in compared if not c.passed] == ["64 connections, over the best peer"]


def test_the_figures_of_rounds_are_their_medians() -> None:
    rounds = [replace(MEASURE, p50=p50, p99=p99) for p50, p99 in [(1, 9), (2, 7), (3, 8)]]
    assert (medians(rounds).p50, medians(rounds).p99) == (2, 8)


def test_the_growth_of_memory_leaves_out_the_start() -> None:
    assert growth([100.0] * 5 + [200.0] * 55) == pytest.approx(0)
    assert growth([200.0] * 20 + [300.0] * 40) == pytest.approx(0.5)


def test_a_figure_that_is_missing_misses_its_limit() -> None:
    assert not Check("x", float("nan"), 1, at_least=True).passed
    assert not Check("x", float("nan"), 1, at_least=False).passed


def test_the_overload_counts_replies_in_time_and_every_unusual_end() -> None:
    nan = float("nan")
    rows = np.array([
        (200, 0.0, 0.1, 0.4), (200, 1.0, 1.0, 1.2), (200, 1.5, 1.5, 1.9),
        (429, 1.0, 1.0, 1.1), (429, 2.9, 2.9, 3.1), (500, 0.5, 0.5, 0.6),
        (0, 0.7, 0.7, nan), (0, 0.8, nan, nan),
    ])  # fmt: skip
    load = overload_of(rows, 2, capacity=2, generator_cpu=0.1, memory_mb=[1.0])
    assert (load.offered, load.accepted, load.refused, load.other) == (4, 1.5, 0.5, 1.5)
    assert load.p50 == pytest.approx(400)  # from the moment that it was due
    assert load.refused_p99 == pytest.approx(100)
    assert load.late_p99 == pytest.approx(94, abs=5)
    assert load.least_second == 2
