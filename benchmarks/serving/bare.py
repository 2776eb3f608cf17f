"""The limit of the machine: the bundle in one process, without a server.

    python -m benchmarks.serving.bare BUNDLE TEXTS.json SECONDS

Prints as JSON: tweets per second in batches of 32 of similar length, tokenising included, and the
time of a single tweet from text to scores.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from serving.bundle import Bundle

CHUNK = 512  # texts a call; a pass over all texts would take long on a slow machine


def throughput(bundle: Bundle, texts: list[str], seconds: float) -> dict[str, float]:
    """Return tweets per second, and the processor seconds of 1,000 tweets."""
    bundle.score(texts[:CHUNK])
    done, cpu, begin = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        i = done % len(texts)
        done += len(bundle.score(texts[i : i + CHUNK]).labels)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {"tweets_per_s": done / wall, "cpu_s_per_1000": cpu / done * 1000}


def latency(bundle: Bundle, texts: list[str], seconds: float) -> dict[str, float]:
    """Return the percentiles of a single tweet's time, in milliseconds."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        bundle.infer(bundle.encode([texts[len(times) % len(texts)]]))
        times.append((time.perf_counter() - begin) * 1000)
    return {f"p{p}": float(np.percentile(times, p)) for p in (50, 95, 99)}


def main(folder: str, file: str, seconds: str) -> None:
    """Measure the throughput for `seconds`, then the latency for half of that."""
    begin = time.perf_counter()
    bundle = Bundle.load(Path(folder))
    bundle.score(["warm"])
    start_s = time.perf_counter() - begin
    texts = json.loads(Path(file).read_text(encoding="utf-8"))
    result = {
        **throughput(bundle, texts, float(seconds)),
        "single_ms": latency(bundle, texts, float(seconds) / 2),
        "start_s": start_s,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
