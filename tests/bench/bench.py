"""One run of the benchmark: who is started when, and what is noted.

Every round starts each server anew, asks it in each way and ends it, so that a machine's moods meet
all alike; ratios are taken within a round. One server runs at a time, on the loopback, for a while
that is bounded. A target that fails is left out and the report says why.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.bundle import LABELS, Bundle
from tests.bench import tweets
from tests.bench.figures import LOADS, Bare, Explaining, Load, Outcome, Overload, measured
from tests.bench.process import Server, ServerError, free_port
from tests.bench.targets import OURS, ROOT, WORK, Models, Target, TargetError, install, versions
from tests.bench.wire import post

TEXTS = WORK / "tweets.json"
WARM_S = 1.0
CAPACITY_S = 8.0
OVERLOAD = 5
OVERLOAD_CONNECTIONS = 1024  # at most; the service's default limit of concurrent requests
AGREEMENT = 128
EXPLAINED_WORDS = 20
EXPLAIN_S = 15.0


def generate(
    server: Server, requests: list[bytes], connections: int, seconds: float, rate: float = 0
) -> dict[str, Any]:
    """Run the load generator, in a process of its own, and return what it saw."""
    order = {
        "port": server.port, "requests": [request.decode() for request in requests],
        "connections": connections, "seconds": seconds, "rate": rate,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load"], cwd=ROOT, input=json.dumps(order),
        capture_output=True, text=True, check=False, timeout=seconds + 60,
    )  # fmt: skip
    if done.returncode:
        raise TargetError(f"the load generator: {done.stderr[-600:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextlib.contextmanager
def memory_each_second(server: Server) -> Iterator[list[float]]:
    """Yield a list that grows by the server's resident megabytes once a second."""
    taken: list[float] = []
    end = threading.Event()

    def take() -> None:
        while not end.wait(1):
            taken.append(server.memory_mb())

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield taken
    finally:
        end.set()
        thread.join()


class Bench:
    """One run of the whole."""

    def __init__(
        self,
        models: Models,
        targets: list[Target],
        *,
        rounds: int,
        seconds: float,
        overload_seconds: float,
    ) -> None:
        self.models, self.targets = models, targets
        self.seconds, self.rounds, self.overload_seconds = seconds, rounds, overload_seconds
        self.texts, self.texts_are = tweets.load()
        TEXTS.parent.mkdir(exist_ok=True)
        TEXTS.write_text(json.dumps(self.texts), encoding="utf-8")
        bundle = Bundle.load(models.bundle)
        self.version = bundle.manifest.version
        lengths = sorted(len(each.ids) for each in bundle.encode(self.texts))
        self.texts_are += (
            f"; {sum(lengths) / len(lengths):.0f} tokens on average, "
            f"95 % have at most {lengths[int(0.95 * len(lengths))]}"
        )
        self.expected = bundle.score(self.texts[:AGREEMENT]).argmax(axis=1)
        self.bare = Bare()
        self.outcomes = {each.name: Outcome(each.title, each.model) for each in targets}
        self.ceiling = ""
        self.overload: Overload | None = None
        self.explaining: Explaining | None = None

    def run(self) -> None:
        """Measure everything."""
        self.ceiling = self.measure_ceiling()
        print(f"the load generator alone: {self.ceiling}", flush=True)
        for target in self.targets:
            self.attempt(target, self.make_ready)
        for round_ in range(self.rounds):
            print(f"round {round_ + 1} of {self.rounds}", flush=True)
            self.measure_bare()
            # Another order each round, so that nobody always follows the same neighbour.
            for target in self.targets[round_:] + self.targets[:round_]:
                self.attempt(target, self.measure)
        ours = self.outcomes.get(OURS.name)
        if ours and not ours.failed:
            print("explanations", flush=True)
            self.attempt(OURS, self.measure_explanations)
        if ours and not ours.failed and self.overload_seconds:
            print(f"{OVERLOAD} times the capacity for {self.overload_seconds:.0f} s", flush=True)
            self.attempt(OURS, self.measure_overload)

    def attempt(self, target: Target, step: Callable[[Target, Outcome], None]) -> None:
        """Do a step; a target that fails is left out from then on."""
        outcome = self.outcomes[target.name]
        if outcome.failed:
            return
        try:
            step(target, outcome)
        except (TargetError, ServerError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            outcome.failed = f"{type(error).__name__}: {error}"
            print(f"  {target.title}: {outcome.failed}", flush=True)

    def make_ready(self, target: Target, outcome: Outcome) -> None:
        """Install and prepare what a target needs."""
        if target.environment:
            install(target.name)
        target.prepare(self.models)
        outcome.versions = versions(target.name if target.environment else "", target.packages)

    def measure_ceiling(self) -> str:
        """Return what the load generator reaches against a server that does nothing."""
        port = free_port()
        command = [sys.executable, "-m", "tests.bench.fixed", str(port)]
        (WORK / "logs").mkdir(parents=True, exist_ok=True)
        requests = [post("/", {"texts": [text]}, f"127.0.0.1:{port}") for text in self.texts]
        found = []
        with Server(command, {}, ROOT, WORK / "logs" / "fixed.log", port) as server:
            server.wait_ready(requests[0], 20)
            for connections in (1, 64):
                result = generate(server, requests, connections, 2)
                rate = sum(result["statuses"].values()) / 2
                cost = result["own_cpu_share"] / rate * 1e6
                found.append(
                    f"{rate:,.0f} requests/s at {connections} connections ({cost:.0f} µs of CPU a "
                    "request)"
                )
        return ", ".join(found)

    def measure_bare(self) -> None:
        """Take one round of the bare loop."""
        command = [
            sys.executable, "-m", "tests.bench.bare",
            str(self.models.bundle), str(TEXTS), str(self.seconds), "0",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True,
            timeout=60 + 4 * self.seconds,
        )  # fmt: skip
        for name, value in json.loads(done.stdout).items():
            getattr(self.bare, name).append(value)
        print(f"  bare loop: {self.bare.tweets_per_s[-1]:,.0f} tweets/s", flush=True)

    def measure(self, target: Target, outcome: Outcome) -> None:
        """Take one round of one server."""
        with self.started(target, outcome) as server:
            rows = target.score(server, self.texts[:AGREEMENT])
            same = sum(
                max(row, key=lambda label: row[label]) == LABELS[at]
                for row, at in zip(rows, self.expected, strict=True)
            )
            outcome.agreement = f"{same} of {AGREEMENT}"
            said = []
            for load in LOADS:
                requests = self.requests(target, server.port, load)
                before = server.cpu_s()
                result = generate(server, requests, load.connections, self.seconds)
                found = measured(result, load, server.cpu_s() - before, self.bare.tweets_per_s[-1])
                outcome.loads.setdefault(load.name, []).append(found)
                said.append(f"{found.tweets_per_s:,.0f}")
            p50 = outcome.loads["single1"][-1].p50
            outcome.single_ratio.append(p50 / self.bare.single_ms[-1]["p50"])
            outcome.peak_rss_mb.append(server.memory_mb(peak=True))
            outcome.pss_mb.append(server.pss_mb())
        print(f"  {target.title}: {', '.join(said)} tweets/s", flush=True)

    @contextlib.contextmanager
    def started(self, target: Target, outcome: Outcome) -> Iterator[Server]:
        """Yield a target's server, ready and warm."""
        port = free_port()
        with target.start(self.models, port) as server:
            first = target.request(self.texts[:1], port)
            outcome.start_s.append(server.wait_ready(first, target.start_timeout))
            for load in (LOADS[2], LOADS[3]):
                requests = self.requests(target, port, load)
                generate(server, requests, load.connections, WARM_S)
            yield server

    def requests(self, target: Target, port: int, load: Load) -> list[bytes]:
        """Return all tweets as requests."""
        chunks = range(0, len(self.texts) - load.texts + 1, load.texts)
        return [target.request(self.texts[at : at + load.texts], port) for at in chunks]

    def measure_explanations(self, target: Target, outcome: Outcome) -> None:
        """Explain alone; then ask for single tweets, alone and while two explanations run."""
        words = [text.split() for text in self.texts]
        long = [" ".join(each[:EXPLAINED_WORDS]) for each in words if len(each) >= EXPLAINED_WORDS]
        with self.started(target, outcome) as server:
            host = f"127.0.0.1:{server.port}"
            asked = [
                post("/v1/explain", {"text": text, "num_samples": 1000}, host) for text in long
            ]
            third = len(asked) // 3  # none twice: masked scores are kept
            single = self.requests(target, server.port, LOADS[0])
            generate(server, asked[:2], 1, 1)  # LIME is loaded by the first
            alone = generate(server, asked[2:third], 1, EXPLAIN_S)
            quiet = generate(server, single, 1, EXPLAIN_S)
            with ThreadPoolExecutor(1) as pool:
                two = pool.submit(generate, server, asked[third:], 2, EXPLAIN_S + 4)
                time.sleep(2)
                beside = generate(server, single, 1, EXPLAIN_S)
                statuses = two.result()["statuses"]
        if set(statuses) != {"200"} or set(beside["statuses"]) != {"200"}:
            raise TargetError(f"explanations: {statuses}, single tweets: {beside['statuses']}")
        self.explaining = Explaining(
            alone["latency_ms"]["200"]["p50"] / 1000,
            quiet["latency_ms"]["200"]["p99"],
            beside["latency_ms"]["200"]["p99"],
        )

    def measure_overload(self, target: Target, outcome: Outcome) -> None:
        """Offer a fresh server more than it can take."""
        load, seconds = LOADS[2], self.overload_seconds
        with self.started(target, outcome) as server:
            requests = self.requests(target, server.port, load)

            def capacity() -> float:
                result = generate(server, requests, load.connections, CAPACITY_S)
                return float(result["statuses"].get("200", 0)) / CAPACITY_S

            before = capacity()
            with memory_each_second(server) as memory:
                result = generate(
                    server, requests, OVERLOAD_CONNECTIONS, seconds, OVERLOAD * before
                )
            after = capacity()
            outcome.peak_rss_mb.append(server.memory_mb(peak=True))
        statuses, nothing = result["statuses"], {"p50": float("nan"), "p99": float("nan")}
        good, refused = statuses.get("200", 0), statuses.get("429", 0)
        answered = good + refused + result["drained"]
        accepted = result["latency_ms"].get("200", nothing)
        self.overload = Overload(
            capacity=(before + after) / 2,
            offered=result["offered"] / seconds,
            accepted=good / seconds,
            refused=refused / seconds,
            other=(result["offered"] - answered) / seconds,
            p50=accepted["p50"],
            p99=accepted["p99"],
            refused_p99=result["latency_ms"].get("429", nothing)["p99"],
            late_p99=result["late_p99"],
            generator_cpu=result["own_cpu_share"],
            memory_mb=memory,
            least_second=min(result["each_second"][1:]),
        )
