"""One run of the benchmark: when each server starts, and what is recorded.

    round: bare loop ─> each target: start ─> warm up ─> compare labels ─> each load ─> stop
    then, for this service only: explanations, overload

Each round starts every server anew and in another order, and ratios are taken within a round, so a
change in the machine's speed affects all of them. One server runs at a time, on 127.0.0.1, for a
limited time. A target that fails is left out, and the report says why.
"""

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks import tweets
from benchmarks.serving.figures import (
    LOADS,
    Bare,
    Explanations,
    Load,
    Overload,
    Result,
    measure_of,
    overload_of,
)
from benchmarks.serving.process import Server, ServerError
from benchmarks.serving.targets import OURS, ROOT, WORK, Models, Target, TargetError, install
from benchmarks.serving.targets import versions as versions_of
from benchmarks.wrk import ClosedLoop, LoadError, closed_loop, run_measured
from serving.bundle import LABELS, Bundle
from tests.support.mongodb import free_port

TEXTS = WORK / "tweets.json"
SINGLE1, _, SINGLE64, LISTS = LOADS
WARM_S = 1
CAPACITY_S = 8
OVERLOAD = 5  # times the capacity
OVERLOAD_CONNECTIONS = 1024  # at most; the service's default limit of concurrent requests
COMPARED = 128  # texts whose labels are compared with the bundle's
EXPLAINED_WORDS = 20
EXPLAIN_S = 15


def open_loop(
    server: Server, path: str, bodies: list[Any], rate: float, seconds: int
) -> tuple[np.ndarray, float]:
    """Run the open loop in a process of its own; return its rows and its share of one core."""
    order = {
        "port": server.port, "path": path, "bodies": bodies, "rate": rate, "seconds": seconds,
        "connections": OVERLOAD_CONNECTIONS,
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.serving.open_loop"]
    output, cpu_s = run_measured(command, seconds + 60, json.dumps(order).encode())
    return np.load(io.BytesIO(output)), cpu_s / seconds


class Benchmark:
    """All measurements of one run."""

    def __init__(
        self,
        models: Models,
        targets: list[Target],
        *,
        rounds: int,
        seconds: int,
        overload_seconds: int,
    ) -> None:
        self.models, self.targets = models, targets
        self.seconds, self.rounds, self.overload_seconds = seconds, rounds, overload_seconds
        self.texts, self.description = tweets.load()
        TEXTS.parent.mkdir(exist_ok=True)
        TEXTS.write_text(json.dumps(self.texts), encoding="utf-8")
        bundle = Bundle.load(models.bundle)
        self.version = bundle.manifest.version
        lengths = [len(encoding.ids) for encoding in bundle.encode(self.texts)]
        self.description += (
            f"; {np.mean(lengths):.0f} tokens on average, "
            f"95 % have at most {np.percentile(lengths, 95):.0f}"
        )
        scores = bundle.score(self.texts[:COMPARED]).labels
        self.expected = [LABELS[i] for i in scores.argmax(axis=1)]
        self.bare = Bare()
        self.results = {each.name: Result(each.title, each.model) for each in targets}
        self.overload: Overload | None = None
        self.explanations: Explanations | None = None

    def run(self) -> None:
        for target in self.targets:
            self.attempt(target, self.install)
        for i in range(self.rounds):
            print(f"round {i + 1} of {self.rounds}", flush=True)
            self.measure_bare()
            for target in self.targets[i:] + self.targets[:i]:  # another order each round
                self.attempt(target, self.measure)
        if OURS.name in self.results:
            print("explanations", flush=True)
            self.attempt(OURS, self.measure_explanations)
            if self.overload_seconds:
                print(f"{OVERLOAD} × the capacity for {self.overload_seconds} s", flush=True)
                self.attempt(OURS, self.measure_overload)

    def attempt(self, target: Target, step: Callable[[Target, Result], None]) -> None:
        """Run a step for a target, unless one has failed; record why it fails."""
        result = self.results[target.name]
        if result.failed:
            return
        try:
            step(target, result)
        except (
            TargetError, ServerError, LoadError, OSError, ValueError, subprocess.TimeoutExpired,
        ) as error:  # fmt: skip
            result.failed = f"{type(error).__name__}: {error}"
            print(f"  {target.title}: {result.failed}", flush=True)

    def install(self, target: Target, result: Result) -> None:
        """Install a target's environment and convert the model for it."""
        if target.own_environment:
            install(target.name)
        target.prepare(self.models)
        result.versions = versions_of(target)

    def measure_bare(self) -> None:
        """Measure one round of the bare loop."""
        command = [
            sys.executable, "-m", "benchmarks.serving.bare",
            str(self.models.bundle), str(TEXTS), str(self.seconds),
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True,
            timeout=60 + 4 * self.seconds,
        )  # fmt: skip
        for name, value in json.loads(done.stdout).items():
            getattr(self.bare, name).append(value)
        print(f"  bare loop: {self.bare.tweets_per_s[-1]:,.0f} tweets/s", flush=True)

    def measure(self, target: Target, result: Result) -> None:
        """Measure one round of one server."""
        with self.started(target, result) as server:
            scores = target.score(server, self.texts[:COMPARED])
            # Some peers also give the attributes' scores.
            labels = [max(row.keys() & set(LABELS), key=row.__getitem__) for row in scores]
            same = sum(map(str.__eq__, labels, self.expected))
            result.same_label = f"{same} of {COMPARED}"
            for load in LOADS:
                before = server.cpu_s()
                seen = self.load(server, target, load, self.seconds)
                cpu_s = server.cpu_s() - before
                measure = measure_of(seen, load, cpu_s, self.bare.tweets_per_s[-1])
                result.loads.setdefault(load.name, []).append(measure)
            p50 = result.loads[SINGLE1.name][-1].p50
            result.single_ratio.append(p50 / self.bare.single_ms[-1]["p50"])
            result.peak_rss_mb.append(server.peak_rss_mb())
            result.pss_mb.append(server.pss_mb())
        rates = [f"{measures[-1].tweets_per_s:,.0f}" for measures in result.loads.values()]
        print(f"  {target.title}: {', '.join(rates)} tweets/s", flush=True)

    @contextlib.contextmanager
    def started(self, target: Target, result: Result) -> Iterator[Server]:
        """Yield a target's server, ready and warm."""
        with target.start(self.models, free_port()) as server:
            first = target.body(self.texts[:1])
            result.start_s.append(server.wait_ready(target.path, first, target.start_timeout))
            for load in (SINGLE64, LISTS):
                self.load(server, target, load, WARM_S)
            yield server

    def load(self, server: Server, target: Target, load: Load, seconds: int) -> ClosedLoop:
        """Run a load on a server."""
        bodies = self.bodies(target, load)
        return closed_loop(server.port, target.path, bodies, load.connections, seconds)

    def bodies(self, target: Target, load: Load) -> list[Any]:
        """Return all tweets as the JSON documents of requests."""
        starts = range(0, len(self.texts) - load.texts + 1, load.texts)
        return [target.body(self.texts[i : i + load.texts]) for i in starts]

    def measure_explanations(self, target: Target, result: Result) -> None:
        """Measure explanations; then single tweets, without and beside two explanations."""
        words = [text.split() for text in self.texts]
        long = [" ".join(each[:EXPLAINED_WORDS]) for each in words if len(each) >= EXPLAINED_WORDS]
        bodies = [{"text": text, "num_samples": 1000} for text in long]
        third = len(bodies) // 3  # no text twice: the service keeps the scores of masked texts
        with self.started(target, result) as server:

            def explain(chosen: list[Any], connections: int, seconds: int) -> ClosedLoop:
                return closed_loop(server.port, "/v1/explain", chosen, connections, seconds)

            explain(bodies[:2], 1, 1)  # the first one loads LIME
            alone = explain(bodies[2:third], 1, EXPLAIN_S)
            quiet = self.load(server, target, SINGLE1, EXPLAIN_S)
            with ThreadPoolExecutor(1) as pool:
                two = pool.submit(explain, bodies[third:], 2, EXPLAIN_S + 4)
                time.sleep(2)
                beside = self.load(server, target, SINGLE1, EXPLAIN_S)
                for each in (alone, quiet, beside, two.result()):
                    each.require_success()
        self.explanations = Explanations(alone.p50 / 1000, quiet.p99, beside.p99)

    def measure_overload(self, target: Target, result: Result) -> None:
        """Offer a fresh server more than its capacity."""
        with self.started(target, result) as server:

            def capacity() -> float:
                seen = self.load(server, target, SINGLE64, CAPACITY_S)
                return seen.successes / seen.seconds

            before, memory = capacity(), []
            bodies, rate = self.bodies(target, SINGLE64), OVERLOAD * before
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(
                    open_loop, server, target.path, bodies, rate, self.overload_seconds
                )
                while not running.done():
                    memory.append(server.rss_mb())
                    time.sleep(1)
            rows, cpu = running.result()
            mean = (before + capacity()) / 2
            result.peak_rss_mb.append(server.peak_rss_mb())
        self.overload = overload_of(rows, self.overload_seconds, mean, cpu, memory)
