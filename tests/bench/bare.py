"""The limit of the box: the bundle in one process, with no server around it.

    python -m tests.bench.bare BUNDLE TEXTS.json SECONDS THREADS

Prints tweets a second in batches of 32 of like length, tokenising included, and the time of a
single tweet from text to scores.
"""

import json
import resource
import sys
import time
from pathlib import Path

from serving.bundle import Bundle
from tests.bench.load import percentile


def main(folder: str, texts: str, seconds: str, threads: str) -> None:
    """Measure for `seconds` each."""
    begin = time.perf_counter()
    bundle = Bundle.load(Path(folder), threads=int(threads))
    bundle.score(["warm"])
    loaded = time.perf_counter() - begin
    tweets = json.loads(Path(texts).read_text(encoding="utf-8"))
    chunk = tweets[:512]
    bundle.score(chunk)

    # Whole passes over all tweets would take long on a slow machine; lengths are alike in each 512.
    done, cpu, begin = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - begin < float(seconds):
        at = done % len(tweets)
        chunk = tweets[at : at + 512]
        bundle.score(chunk)
        done += len(chunk)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu

    single: list[float] = []
    begin, at = time.perf_counter(), 0
    while time.perf_counter() - begin < float(seconds) / 2:
        start = time.perf_counter()
        bundle.infer(bundle.encode([tweets[at % len(tweets)]]))
        single.append(time.perf_counter() - start)
        at += 1
    single.sort()
    result = {
        "tweets_per_s": done / wall,
        "cpu_s_per_1000": cpu / done * 1000,
        "start_s": loaded,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "single_ms": {f"p{p}": percentile(single, p / 100) * 1000 for p in (50, 95, 99)},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
