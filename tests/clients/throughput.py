"""Requests a second through each door at 64 connections, against `/v1/predict` in the same run.

    python -m tests.clients.throughput [--bundle FOLDER] [--seconds 4] [--rounds 6]

The doors take turns, so that what else the machine does hits all of them alike; a door's figure is
the median over the rounds of its ratio to `/v1/predict`. The service keeps no scores, so each
request is inferred. Its processor time a request is given beside it: on a busy machine that is the
figure to trust.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from serving.classifier import bundle_folder
from tests.bench import tweets, wire
from tests.bench.process import stat
from tests.support.service import ROOT, Served

CONNECTIONS = 64
DOORS = {
    "/v1/predict": lambda text: {"texts": [text]},
    "/v1alpha1/comments:analyze": lambda text: {
        "comment": {"text": text},
        "languages": ["en"],
        "requestedAttributes": {"TOXICITY": {}},
    },
    "/v1/moderations": lambda text: {"input": text, "model": "omni-moderation-latest"},
    "/predict": lambda text: {"inputs": text, "parameters": {}},
}


def rate(service: Served, path: str, texts: list[str], seconds: float) -> tuple[float, float]:
    """Answered requests a second, and the service's milliseconds of processor time for each."""
    port = service.port
    host = f"127.0.0.1:{port}"
    requests = [wire.post(path, DOORS[path](text), host).decode() for text in texts]
    order = {"port": port, "requests": requests, "connections": CONNECTIONS, "seconds": seconds}
    before = stat(service.process.pid)
    run = subprocess.run(
        [sys.executable, "-m", "tests.bench.load"],
        cwd=ROOT,
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(run.stdout)
    assert set(found["statuses"]) == {"200"}, found["statuses"]
    after = stat(service.process.pid)
    assert before
    assert after
    answered = found["statuses"]["200"]
    used = (after.cpu_s - before.cpu_s) / (answered + found["drained"])
    return answered / seconds, used * 1000


def main() -> None:
    """Measure, and print a line for each door."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=6)
    asked = parser.parse_args()
    texts, words = tweets.load()
    print(f"{words}; {CONNECTIONS} connections, {asked.rounds} rounds of {asked.seconds:g} s")
    with tempfile.TemporaryDirectory() as scratch:
        settings = {"CACHE_SIZE": "0", "MAX_QUEUE_SECONDS": "30"}
        service = Served(bundle_folder(asked.bundle).resolve(), Path(scratch), **settings)
        try:
            for path in DOORS:
                rate(service, path, texts, asked.seconds)  # warm
            rounds = [
                {path: rate(service, path, texts, asked.seconds) for path in DOORS}
                for _ in range(asked.rounds)
            ]
        finally:
            service.stop()
    for path in DOORS:
        ratios = [row[path][0] / row["/v1/predict"][0] for row in rounds]
        print(
            f"{path:<28} {statistics.median(row[path][0] for row in rounds):7.0f}/s   "
            f"{statistics.median(ratios):.2f} of /v1/predict "
            f"({min(ratios):.2f} to {max(ratios):.2f})   "
            f"{statistics.median(row[path][1] for row in rounds):.3f} ms"
        )


if __name__ == "__main__":
    main()
