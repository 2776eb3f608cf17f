"""Measures this service, a bare ONNX Runtime loop and the servers that people use instead.

    python -m tests.bench --bundle FOLDER [--only ours,infinity] [--rounds 3]

Every round starts each server anew, asks it in each way and ends it, so that a machine's moods meet
all alike; ratios are taken within a round, and figures are medians over the rounds. One server runs
at a time. Everything is on the loopback, bounded in time, and ended by process id. Writes
reports/bench.md.
"""

import argparse
import contextlib
import datetime
import json
import platform
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from serving.bundle import LABELS, Bundle
from tests.bench import report, tweets
from tests.bench.process import Server, ServerError
from tests.bench.report import LOADS, Bare, Load, Outcome, Overload, measured
from tests.bench.targets import (
    OURS, ROOT, TARGETS, WORK, Models, Target, TargetError, install, versions,
)  # fmt: skip
from tests.bench.wire import post

REPORT = ROOT / "reports" / "bench.md"
TEXTS = WORK / "tweets.json"
WARM_S = 1.0
CAPACITY_S = 8.0
OVERLOAD = 5
OVERLOAD_CONNECTIONS = 1024  # at most; the service's default limit of concurrent requests
AGREEMENT = 128


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def generate(
    server: Server, requests: list[bytes], connections: int, seconds: float, rate: float = 0
) -> subprocess.Popen[str]:
    """Start the load generator on a running server."""
    order = {
        "port": server.port, "requests": [request.decode() for request in requests],
        "connections": connections, "seconds": seconds, "rate": rate,
    }  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.load"], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin
    child.stdin.write(json.dumps(order))
    child.stdin.close()
    return child


def outcome_of(child: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    """Wait for a load generator and return what it saw."""
    assert child.stdout
    assert child.stderr
    try:
        child.wait(seconds + 60)
    except BaseException:
        child.kill()
        child.wait()
        raise
    finally:
        output, errors = child.stdout.read(), child.stderr.read()
        child.stdout.close()
        child.stderr.close()
    if child.returncode:
        raise TargetError(f"the load generator: {errors[-600:]}")
    result: dict[str, Any] = json.loads(output)
    return result


class Bench:
    """One run of the whole."""

    def __init__(self, models: Models, targets: list[Target], options: argparse.Namespace) -> None:
        self.models, self.targets = models, targets
        self.seconds, self.rounds = options.seconds, options.rounds
        self.overload_seconds = options.overload
        self.texts, self.texts_are = tweets.load()
        TEXTS.parent.mkdir(exist_ok=True)
        TEXTS.write_text(json.dumps(self.texts), encoding="utf-8")
        bundle = Bundle.load(models.bundle)
        self.version = bundle.manifest.version
        lengths = sorted(len(each.ids) for each in bundle.encode(self.texts))
        self.tokens = sum(lengths) / len(lengths), lengths[int(0.95 * len(lengths))]
        self.expected = bundle.score(self.texts[:AGREEMENT]).argmax(axis=1)
        self.bare = Bare()
        self.outcomes = {each.name: Outcome(each.title, each.model) for each in targets}
        self.ceiling = ""
        self.overload: Overload | None = None

    def run(self) -> None:
        """Measure everything."""
        self.ceiling = self.measure_ceiling()
        print(self.ceiling, flush=True)
        for target in self.targets:
            self.attempt(target, self.make_ready)
        for round_ in range(self.rounds):
            print(f"round {round_ + 1} of {self.rounds}", flush=True)
            self.measure_bare()
            # Another order each round, so that nobody always follows the same neighbour.
            for target in self.targets[round_:] + self.targets[:round_]:
                self.attempt(target, self.measure)
        ours = self.outcomes.get(OURS.name)
        if ours and not ours.failed and self.overload_seconds:
            print(f"{OVERLOAD} times the capacity for {self.overload_seconds:.0f} s", flush=True)
            self.attempt(OURS, self.measure_overload)

    def attempt(self, target: Target, step: Any) -> None:
        """Do a step; a target that fails is left out from then on and the report says why."""
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
                result = outcome_of(generate(server, requests, connections, 2), 2)
                rate = sum(result["statuses"].values()) / 2
                cost = result["own_cpu_share"] / rate * 1e6
                found.append(
                    f"{rate:,.0f} requests/s at {connections} connections ({cost:.0f} µs of CPU each)"
                )
        return f"The load generator against a server that does nothing: {', '.join(found)}."

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
                result = outcome_of(
                    generate(server, requests, load.connections, self.seconds), self.seconds
                )
                found = measured(result, load, server.cpu_s() - before, self.bare.tweets_per_s[-1])
                outcome.loads.setdefault(load.name, []).append(found)
                said.append(f"{found.tweets_per_s:,.0f}")
            p50 = outcome.loads["single1"][-1].p50
            outcome.single_ratio.append(p50 / self.bare.single_ms[-1]["p50"])
            outcome.peak_rss_mb.append(server.memory_mb(peak=True))
            outcome.pss_mb.append(server.pss_mb())
        print(f"  {target.title}: {', '.join(said)} tweets/s", flush=True)

    @contextlib.contextmanager
    def started(self, target: Target, outcome: Outcome) -> Any:
        """Yield a target's server, ready and warm."""
        port = free_port()
        with target.start(self.models, port) as server:
            first = target.request(self.texts[:1], port)
            outcome.start_s.append(server.wait_ready(first, target.start_timeout))
            for load in (LOADS[2], LOADS[3]):
                requests = self.requests(target, port, load)
                outcome_of(generate(server, requests, load.connections, WARM_S), WARM_S)
            yield server

    def requests(self, target: Target, port: int, load: Load) -> list[bytes]:
        """Return all tweets as requests."""
        chunks = range(0, len(self.texts) - load.texts + 1, load.texts)
        return [target.request(self.texts[at : at + load.texts], port) for at in chunks]

    def measure_overload(self, target: Target, outcome: Outcome) -> None:
        """Offer a fresh server more than it can take."""
        load, seconds = LOADS[2], self.overload_seconds
        with self.started(target, outcome) as server:
            requests = self.requests(target, server.port, load)

            def capacity() -> float:
                child = generate(server, requests, load.connections, CAPACITY_S)
                result = outcome_of(child, CAPACITY_S)
                return float(result["statuses"].get("200", 0)) / CAPACITY_S

            before = capacity()
            child = generate(server, requests, OVERLOAD_CONNECTIONS, seconds, OVERLOAD * before)
            memory = []
            deadline = time.monotonic() + seconds + 60
            while child.poll() is None and time.monotonic() < deadline:
                memory.append(server.memory_mb())
                time.sleep(1)
            result = outcome_of(child, 0)
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

    def text(self) -> str:
        """Return the report."""
        parts = [
            "# Benchmark",
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, on {machine()}. Bundle "
            f"{self.version}. {self.texts_are}; {self.tokens[0]:.0f} tokens on average, 95 % have at "
            f"most {self.tokens[1]}. {self.rounds} rounds of {self.seconds:g} s a load, one server "
            "at a time; medians, and ratios to the bare loop of the same round. Caches are off.",
            report.loads_table(self.bare, self.outcomes),
            f"Tweets/s from round to round (64 connections): "
            f"{report.spread(self.bare, self.outcomes)}.",
            self.ceiling + " It shares the cores with the server; its part is in the last column.",
            report.servers_table(self.bare, self.outcomes),
            "Start is from the process's start to the first good answer. Peak RSS is the sum over "
            "the process tree; PSS, after the loads, counts shared pages once. `same label`: the "
            "most probable label, against the bundle's.",
        ]
        parts += [
            f"{each.title} did not run: {each.failed}"
            for each in self.outcomes.values()
            if each.failed
        ]
        if self.overload:
            parts += [
                f"## {OVERLOAD} times the capacity for {self.overload_seconds:.0f} s",
                report.overload_text(self.overload),
            ]
        if found := report.checks(self.outcomes, self.overload):
            parts += ["## The bars", report.checks_table(found)]
        return "\n\n".join(parts) + "\n"


def machine() -> str:
    """Return the machine in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if flag in flags]
    cores = sum(line.startswith("processor") for line in lines)
    load = Path("/proc/loadavg").read_text().split()[0]
    return (
        f"{cores} cores of {name} ({', '.join(known)}), Linux {platform.release()}, "
        f"Python {platform.python_version()}, ONNX Runtime {version('onnxruntime')}; "
        f"load average at the end {load}"
    )


def interrupted(number: int, frame: FrameType | None) -> None:
    """Leave by the way of an exception, so that every child is ended."""
    raise KeyboardInterrupt


def main() -> int:
    """Run; the exit status is 1 if a bar was missed."""
    names = [each.name for each in TARGETS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--finetuned", type=Path, default=Path("models/finetuned"))
    parser.add_argument("--only", default="", help=f"of {', '.join(names)}; all if empty")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="a load")
    parser.add_argument("--overload", type=float, default=60.0, help="seconds; 0: none")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else names
    if unknown := set(wanted) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    signal.signal(signal.SIGTERM, interrupted)
    models = Models(options.bundle.resolve(), options.finetuned.resolve())
    bench = Bench(models, [each for each in TARGETS if each.name in wanted], options)
    bench.run()
    text = bench.text()
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {REPORT.relative_to(ROOT)}")
    return (
        1 if any(not check.passed for check in report.checks(bench.outcomes, bench.overload)) else 0
    )


if __name__ == "__main__":
    sys.exit(main())
