"""Measures what a capacity plan needs, and computes the plan for three loads.

    python -m benchmarks.capacity --bundle FOLDER [--seconds 8] [--write docs/capacity.md]

    the service under load, MongoDB beside it  ->  Inputs  ->  plan  ->  two tables

`docs/capacity.md` explains the formulas, which are the properties of `Inputs`.
"""

import argparse
import json
import math
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bson
from pymongo import MongoClient

from benchmarks import tweets
from benchmarks.markdown import publish, table
from benchmarks.paired import CONNECTIONS, SETTINGS
from benchmarks.serving.process import machine, peak_rss_kb
from benchmarks.wrk import closed_loop, require_wrk
from tests.support.mongodb import MongoServer
from tests.support.service import Served, without_settings

LIST = 32  # texts of a request in lists
REPLICA_CORES = 2  # of a replica in the plan, like a free Space
UTILISATION = 0.6  # share of its capacity at which a replica is run
OUTAGE_HOURS = 24  # that the outbox must hold while MongoDB is away
RATES = (100, 6000)  # texts/s
ARCHIVE_ROWS = 10**9
ARCHIVE_HOURS = 24  # in which the archive must be scored
BULK_ROWS = 20_000
RELAYED = 8_192  # predictions that wait for MongoDB
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was measured, with the log on.

    single, lists: texts/s in requests of one text and of LIST.
    bulk: rows/s of `tweet-tagger score`, its start not counted.
    relay: rows/s from the outbox into MongoDB while nothing else runs.
    outbox_bytes, document_bytes: of a prediction in the outbox's file, and as BSON.
    output_bytes: of a row that `tweet-tagger score` writes (Parquet).
    memory_mb, bulk_memory_mb: highest resident memory of the service and of `tweet-tagger score`.
    cores: of the machine.
    """

    single: float
    lists: float
    bulk: float
    relay: float
    outbox_bytes: float
    document_bytes: float
    output_bytes: float
    memory_mb: float
    bulk_memory_mb: float
    cores: int

    def core_seconds(self, rate: float) -> float:
        """Return the processor seconds for a million texts at a measured rate."""
        return self.cores * 1e6 / rate

    def replicas(self, texts_per_s: float) -> int:
        """Return how many replicas answer a load of single texts; at least two, so that one can
        fail.
        """
        capacity = self.single / self.cores * REPLICA_CORES * UTILISATION
        return max(2, math.ceil(texts_per_s / capacity))


def service_rates(bundle: Path, texts: list[str], seconds: int, folder: Path) -> dict[str, float]:
    """Measure the service without a MongoDB, and the size of its outbox."""
    service = Served(bundle, folder, **SETTINGS)
    try:
        lists = [texts[i : i + LIST] for i in range(0, len(texts) - LIST + 1, LIST)]
        rates = {}
        for name, bodies, connections in (
            ("single", [{"texts": [text]} for text in texts], CONNECTIONS),
            ("lists", [{"texts": group} for group in lists], 4),
        ):
            closed_loop(service.port, "/v1/predict", bodies, connections, 2)  # to warm up
            result = closed_loop(service.port, "/v1/predict", bodies, connections, seconds)
            result.require_success()
            size = LIST if name == "lists" else 1
            rates[name] = result.replies * size / result.seconds
        rates["memory_mb"] = peak_rss_kb(service.process.pid) / 1024
    finally:
        service.stop()
    with sqlite3.connect(folder / "outbox.db") as outbox:
        (rows,) = outbox.execute("SELECT count(*) FROM log").fetchone()
        (pages,) = outbox.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = outbox.execute("PRAGMA page_size").fetchone()
    return rates | {"outbox_bytes": pages * page_bytes / rows}


def relay_rates(bundle: Path, texts: list[str], folder: Path) -> dict[str, float]:
    """Measure how fast the outbox is sent to MongoDB: fill it while MongoDB is away."""
    (folder / "mongo").mkdir()
    mongo = MongoServer(folder / "mongo")
    mongo.start()
    mongo.stop()
    service = Served(bundle, folder, MONGODB_URI=mongo.uri)
    try:
        sent = RELAYED // LIST * LIST
        for i in range(0, sent, LIST):
            group = [texts[j % len(texts)] for j in range(i, i + LIST)]
            service.predict(*group).raise_for_status()
        mongo.start()
        with MongoClient[dict[str, Any]](mongo.uri) as client:
            stored = client["tweet_tagger"]["predictions"]
            # The relay tries again after some seconds: the time until its first batch is no rate.
            while not (first := stored.estimated_document_count()):
                time.sleep(0.01)
            started, count = time.perf_counter(), first
            while count < sent:
                time.sleep(0.05)
                count = stored.estimated_document_count()
            relay = (sent - first) / (time.perf_counter() - started)
            document = stored.find_one()
    finally:
        service.stop()
        mongo.stop()
    return {"relay": relay, "document_bytes": len(bson.encode(document or {}))}


def bulk_rates(bundle: Path, texts: list[str], folder: Path) -> dict[str, float]:
    """Measure `tweet-tagger score`; its start is measured with one row and left out."""
    rows = [texts[i % len(texts)] for i in range(BULK_ROWS)]
    seconds = {}
    for name, part in (("one", rows[:1]), ("all", rows)):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": text}) + "\n" for text in part), encoding="utf-8"
        )
        command = ["score", f"{name}.jsonl", "--out", name, "--text", "text"]
        command += ["--bundle", str(bundle)]
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "serving", *command],
            cwd=folder, env=without_settings() | {"PYTHONPATH": str(Path.cwd())},
            check=True, capture_output=True,
        )  # fmt: skip
        seconds[name] = time.perf_counter() - started
    written = sum(path.stat().st_size for path in (folder / "all").rglob("*.parquet"))
    return {
        "bulk": BULK_ROWS / (seconds["all"] - seconds["one"]),
        "output_bytes": written / BULK_ROWS,
        "bulk_memory_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }


def measured_table(inputs: Inputs) -> str:
    """Return what was measured."""
    per_core = f"on {inputs.cores} cores"
    return table(
        ["measured", "figure"],
        [
            [f"single texts, {CONNECTIONS} connections, {per_core}", f"{inputs.single:,.0f}/s"],
            [f"lists of {LIST}, 4 connections, {per_core}", f"{inputs.lists:,.0f}/s"],
            [f"`tweet-tagger score`, {per_core}", f"{inputs.bulk:,.0f}/s"],
            ["from the outbox into MongoDB, on the same cores", f"{inputs.relay:,.0f}/s"],
            ["a prediction in the outbox", f"{inputs.outbox_bytes:,.0f} bytes"],
            ["a prediction in MongoDB, as BSON", f"{inputs.document_bytes:,.0f} bytes"],
            ["a row of `tweet-tagger score`, as Parquet", f"{inputs.output_bytes:,.0f} bytes"],
            ["memory of the service", f"{inputs.memory_mb:,.0f} MB"],
            ["memory of `tweet-tagger score`", f"{inputs.bulk_memory_mb:,.0f} MB"],
        ],
    )


def plan_table(inputs: Inputs) -> str:
    """Return the plan for each load."""
    names = ["texts"]
    rows = {
        "cores": ["cores"],
        "replicas": [f"replicas of {REPLICA_CORES} cores"],
        "memory": ["memory"],
        "writes": ["writes to MongoDB"],
        "disk": [f"outbox disk of a replica, {OUTAGE_HOURS} h without MongoDB"],
        "stored": ["MongoDB, before its compression"],
        "cost": ["core seconds for a million texts"],
    }
    for rate in RATES:
        names.append(f"{rate:,}/s")
        replicas = inputs.replicas(rate)
        share = rate / replicas * OUTAGE_HOURS * 3600 * inputs.outbox_bytes
        for name, cell in {
            "cores": f"{replicas * REPLICA_CORES}",
            "replicas": f"{replicas}",
            "memory": f"{replicas * inputs.memory_mb / 1024:,.1f} GB",
            "writes": f"{rate:,}/s",
            "disk": f"{share / 1e9:,.1f} GB",
            "stored": f"{rate * DAY_S * inputs.document_bytes / 1e9:,.0f} GB a day",
            "cost": f"{inputs.core_seconds(inputs.single) / UTILISATION:,.0f}",
        }.items():
            rows[name].append(cell)
    names.append(f"{ARCHIVE_ROWS:,} rows in {ARCHIVE_HOURS} h")
    cores = math.ceil(ARCHIVE_ROWS / (ARCHIVE_HOURS * 3600) / (inputs.bulk / inputs.cores))
    actors = math.ceil(cores / REPLICA_CORES)
    for name, cell in {
        "cores": f"{cores}",
        "replicas": f"{actors} actors",
        "memory": f"{actors * inputs.bulk_memory_mb / 1024:,.0f} GB",
        "writes": "none",
        "disk": "none",
        "stored": f"{ARCHIVE_ROWS * inputs.output_bytes / 1e9:,.0f} GB of Parquet",
        "cost": f"{inputs.core_seconds(inputs.bulk):,.0f}",
    }.items():
        rows[name].append(cell)
    return table(names, list(rows.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=8, help="of each load")
    parser.add_argument("--write", type=Path, help="a page with the block `capacity`")
    options = parser.parse_args()
    require_wrk()
    bundle = options.bundle.resolve()
    texts, description = tweets.load()
    with tempfile.TemporaryDirectory(prefix="capacity-") as name:
        folders = [Path(name) / part for part in ("service", "relay", "bulk")]
        for folder in folders:
            folder.mkdir()
        figures = service_rates(bundle, texts, options.seconds, folders[0])
        figures |= relay_rates(bundle, texts, folders[1])
        figures |= bulk_rates(bundle, texts, folders[2])
    inputs = Inputs(**figures, cores=os.cpu_count() or 1)
    text = "\n\n".join(
        [f"{machine()}.\n{description}.", measured_table(inputs), plan_table(inputs)]
    )
    publish(text, "capacity", options.write)


if __name__ == "__main__":
    main()
