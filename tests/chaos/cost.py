"""What the prediction log costs: answers a second at 64 connections, with it and without.

    python -m tests.chaos.cost --bundle FOLDER [--rounds 5] [--seconds 4]

Within a round the same service is asked the same with `do_not_store` (nothing is logged) and
without, one tweet a request, in turn; the figure is the median of the rounds' ratios, so that a
machine's moods cancel out. Beside it stands the processor time that the service itself took for an
answer, which other work on the machine touches less. The cache is off: every answer is inferred.
A MongoDB on the same cores would be measured as well: its own work is told apart by stopping it.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench import tweets
from tests.bench.wire import post
from tests.chaos.service import ROOT, Service
from tests.support.mongodb import MongoServer

CONNECTIONS = 64


async def rate(
    service: Service, texts: list[str], seconds: float, *, store: bool
) -> tuple[float, float]:
    """Return answers a second and processor milliseconds an answer; all must have been a 200."""
    requests = [
        post("/v1/predict", {"texts": [text], "do_not_store": not store}, "127.0.0.1").decode()
        for text in texts
    ]
    order = {
        "port": service.port,
        "requests": requests,
        "connections": CONNECTIONS,
        "seconds": seconds,
    }
    before = cpu_ms(service.pid)
    load = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.load", cwd=ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await load.communicate(json.dumps(order).encode())
    found = json.loads(out)
    assert set(found["statuses"]) == {"200"}, found["statuses"]
    answers = found["statuses"]["200"]
    return answers / seconds, (cpu_ms(service.pid) - before) / (answers + found["drained"])


def cpu_ms(pid: int) -> float:
    """Return the processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


async def compare(
    name: str, service: Service, texts: list[str], rounds: int, seconds: float
) -> float:
    """Print and return the median ratio of on to off."""
    pairs = []
    await rate(service, texts, seconds, store=True)  # to warm up
    for number in range(rounds):
        first = number % 2 == 0  # neither always follows the other
        one = await rate(service, texts, seconds, store=first)
        two = await rate(service, texts, seconds, store=not first)
        pairs.append((one, two) if first else (two, one))
    ratios = sorted(on[0] / off[0] for on, off in pairs)
    ratio = statistics.median(ratios)
    on, off = (
        [statistics.median(each) for each in zip(*side, strict=True)]
        for side in zip(*pairs, strict=True)
    )
    print(
        f"{name:25} on {on[0]:5.0f}/s {on[1]:.2f} ms   off {off[0]:5.0f}/s {off[1]:.2f} ms   "
        f"ratio {ratio:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
        flush=True,
    )
    return ratio


@asynccontextmanager
async def started(folder: Path, bundle: Path, **settings: str) -> AsyncIterator[Service]:
    """A service without a cache, which is ended in any case."""
    folder.mkdir()
    service = Service(folder, bundle, CACHE_SIZE="0", **settings)
    try:
        await service.start()
        yield service
    finally:
        if service.running:
            await service.kill()


async def measure(bundle: Path, rounds: int, seconds: float) -> int:
    """Measure without MongoDB, with one, and with one that went away."""
    texts, description = tweets.load()
    print(
        f"{description}; one a request, {CONNECTIONS} connections, {rounds} rounds of {seconds} s"
    )
    with tempfile.TemporaryDirectory(prefix="cost-") as work:
        folder = Path(work)
        async with started(folder / "alone", bundle) as alone:
            ratio = await compare("no MongoDB", alone, texts, rounds, seconds)
        with MongoServer(folder / "mongo") as mongo:
            async with started(folder / "both", bundle, MONGODB_URI=mongo.uri) as both:
                await compare("MongoDB on the same cores", both, texts, rounds, seconds)
                mongo.stop()
                await compare("MongoDB stopped", both, texts, rounds, seconds)
    return 0 if ratio >= 0.9 else 1


def main() -> int:
    """Measure; the exit status is 1 if the log costs more than a tenth."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    return asyncio.run(measure(options.bundle, options.rounds, options.seconds))


if __name__ == "__main__":
    sys.exit(main())
