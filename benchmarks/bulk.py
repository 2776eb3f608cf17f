"""Benchmark `tweet-tagger score`: rows per second, memory, and whether the scores are the same.

    each round: bare loop, default, Ray ─> rows/s between the first part and the last ─> ratios
    short texts, 10^5 and 10^6 rows     ─> peak memory of the process
    parts of the default and of Ray, and each text alone ─> equal to the last bit

The ways take turns, so a change in the machine's speed affects all of them. The exit status is 1 if
the default is below LOWEST_RATIO of the bare loop, takes more than MOST_MB, or scores differ.
"""

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pyarrow import parquet as pq

from benchmarks import tweets
from benchmarks.markdown import publish, table
from serving.bundle import LABELS, Bundle
from tests.support.service import ROOT, without_settings

PART_ROWS = 512
LOWEST_RATIO, MOST_MB = 0.9, 600
ALONE = 256  # texts that are scored one by one, too
WORDS = ("you", "are", "all", "welcome", "here", "good", "day", "what", "a", "game")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. `memory`: rows of the two runs whose memory is compared."""

    rows: int
    rounds: int
    bare_s: int
    memory: tuple[int, int]


FULL = Size(rows=20_000, rounds=3, bare_s=15, memory=(100_000, 1_000_000))
SHORT = Size(rows=3_000, rounds=1, bare_s=4, memory=(2_000, 20_000))


@dataclass(frozen=True, slots=True)
class Run:
    """One run of `score`. peak_mb, cpu_s: of its own process, start included."""

    rows_per_s: float
    peak_mb: float
    cpu_s: float


def write_rows(path: Path, texts: list[str], count: int) -> None:
    """Write a CSV file of `count` rows: id and text, the texts again and again."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("id", "text"))
        writer.writerows((i, texts[i % len(texts)]) for i in range(count))


def score(bundle: Path, given: Path, out: Path, *options: str) -> Run:
    """Run `score` as a process and measure it.

    Raises:
        RuntimeError: it did not end with success.
    """
    command = [sys.executable, "-m", "serving", "score", given, "--out", out, "--id", "id",
               "--bundle", bundle.resolve(), "--overwrite", *options]  # fmt: skip
    with (out.parent / "stderr").open("w+b") as stderr:
        process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env=without_settings(), stderr=stderr
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            stderr.seek(0)
            raise RuntimeError(f"score ended with {process.returncode}: {stderr.read().decode()}")
    return Run(rate(out), usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def rate(out: Path) -> float:
    """Return rows per second between the first part and the last, so without the start."""
    parts = sorted(out.glob("part-*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    seconds = (parts[-1].stat().st_mtime_ns - parts[0].stat().st_mtime_ns) / 1e9
    rows = sum(pq.read_metadata(path).num_rows for path in parts[1:])
    return rows / seconds if seconds else 0.0


def bare(bundle: Path, texts: Path, seconds: int) -> float:
    """Return the rows per second of the bare ONNX Runtime loop."""
    command = [sys.executable, "-m", "benchmarks.serving.bare", bundle.resolve(), texts, seconds]
    ended = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=without_settings(), capture_output=True, check=True
    )
    return float(json.loads(ended.stdout)["tweets_per_s"])


def throughput(bundle: Path, texts: list[str], size: Size, folder: Path) -> list[dict[str, float]]:
    """Measure each way in each round."""
    write_rows(folder / "rows.csv", texts, size.rows)
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    parts = ("--part-rows", str(PART_ROWS))
    ways = {
        "bare": lambda: bare(bundle, folder / "texts.json", size.bare_s),
        "default": lambda: (
            score(bundle, folder / "rows.csv", folder / "default", *parts).rows_per_s
        ),
        "ray": lambda: (
            score(bundle, folder / "rows.csv", folder / "ray", *parts, "--ray", "local").rows_per_s
        ),
    }
    order = list(ways)
    rounds = []
    for i in range(size.rounds):
        rounds.append({name: ways[name]() for name in (order if i % 2 == 0 else order[::-1])})
    return rounds


def different_parts(one: Path, other: Path) -> int:
    """Return how many part files are not equal byte by byte, or are in one folder only."""
    names = {path.name for folder in (one, other) for path in folder.glob("part-*")}
    return sum(
        not ((one / name).is_file() and (other / name).is_file())
        or (one / name).read_bytes() != (other / name).read_bytes()
        for name in names
    )


def different_alone(bundle: Path, out: Path) -> int:
    """Return how many of the first texts have other scores when they are scored one by one."""
    loaded, rows = Bundle.load(bundle, threads=1), pq.read_table(out).slice(0, ALONE).to_pylist()
    count = 0
    for row in rows:
        alone = loaded.score([row["text"]]).labels[0].astype(float).round(6).tolist()
        count += alone != [row[f"score_{label}"] for label in LABELS]
    return count


def memory(bundle: Path, size: Size, folder: Path) -> list[tuple[int, Run]]:
    """Score short texts; return the runs by their number of rows."""
    generator = random.Random(0)
    texts = [" ".join(generator.choices(WORDS, k=generator.randint(1, 5))) for _ in range(5000)]
    runs = []
    for count in size.memory:
        write_rows(folder / "short.csv", texts, count)
        runs.append((count, score(bundle, folder / "short.csv", folder / "short")))
    return runs


def report(bundle: Path, size: Size) -> tuple[str, bool]:
    """Measure; return the results as Markdown, and whether all of them are within the limits."""
    texts, described = tweets.load()
    # A lone surrogate cannot be in a file.
    texts = [text.encode(errors="replace").decode() for text in texts]
    with tempfile.TemporaryDirectory(prefix="bulk-bench-") as name:
        folder = Path(name)
        rounds = throughput(bundle, texts, size, folder)
        parts = different_parts(folder / "default", folder / "ray")
        alone = different_alone(bundle, folder / "default")
        runs = memory(bundle, size, folder)
    named = {"bare": "bare loop", "default": "`score`", "ray": "`score --ray local`"}
    rates = []
    for way, words in named.items():
        ratios = [each[way] / each["bare"] for each in rounds]
        shown = [f"{value:.2f}" for value in (median(ratios), min(ratios), max(ratios))]
        rates.append([words, f"{median(each[way] for each in rounds):,.0f}", *shown])
    peaks = [[f"{count:,}", f"{run.peak_mb:,.0f}"] for count, run in runs]
    ratio = median(each["default"] / each["bare"] for each in rounds)
    is_good = ratio >= LOWEST_RATIO and max(run.peak_mb for _, run in runs) <= MOST_MB
    text = "\n\n".join(
        [
            f"{size.rows:,} rows of {described}; {size.rounds} rounds, {os.cpu_count()} cores.",
            table(["way", "rows/s", "of the bare loop", "lowest", "highest"], rates),
            table(["rows of short texts", "peak memory, MB"], peaks),
            f"Part files that differ between `score` and `score --ray`: {parts}. "
            f"Texts of {ALONE} with other scores when scored alone: {alone}.",
        ]
    )
    return text, is_good and not parts and not alone


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--short", action="store_true", help="few rows, for a test")
    parser.add_argument("--memory-rows", type=int, nargs=2, help="instead of 10^5 and 10^6")
    parser.add_argument("--write", type=Path, help="a page with the block `bulk`")
    given = parser.parse_args()
    size = SHORT if given.short else FULL
    if given.memory_rows:
        size = Size(size.rows, size.rounds, size.bare_s, tuple(given.memory_rows))
    text, is_good = report(given.bundle, size)
    publish(text, "bulk", given.write)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
