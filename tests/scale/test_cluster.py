"""`tweet-tagger score --ray` on two nodes, one of which is killed in the middle."""

import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import parquet as pq
from ray.cluster_utils import Cluster

from tests.support.bulk import score, start, wait_for_parts
from tests.support.service import ROOT

ROWS = int(os.environ.get("ROWS") or 20_000)
# Three: an actor takes a whole CPU, and Ray needs some for itself. See docs/bulk.md.
NODE = {"num_cpus": 3, "object_store_memory": 100 << 20, "include_dashboard": False}
WAIT_S = 300
FILES, PARTS = 4, 40


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    # The nodes' workers import this checkout.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    started = Cluster()
    try:
        started.add_node(**NODE)
        started.add_node(**{name: NODE[name] for name in ("num_cpus", "object_store_memory")})
        yield started
    finally:
        started.shutdown()


def parts(out: Path) -> dict[str, int]:
    """The part files, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}


def write_inputs(folder: Path) -> None:
    """Write ROWS rows in FILES files; Ray reads files side by side."""
    with (ROOT / "data/sample/tweets.csv").open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    for file in range(FILES):
        with (folder / f"in-{file}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("id", "text"))
            writer.writerows((i, texts[i % len(texts)]) for i in range(file, ROWS, FILES))


def test_a_node_that_is_killed_costs_no_row_and_doubles_none(
    cluster: Cluster, tmp_path: Path
) -> None:
    write_inputs(tmp_path)
    out = tmp_path / "out"
    given = (tmp_path / "in-*.csv", "--id", "id", "--part-rows", str(max(1, ROWS // PARTS)))
    on_ray = (*given, "--out", out, "--ray", cluster.address)
    (victim,) = cluster.worker_nodes
    with start(*on_ray) as process:
        wait_for_parts(out, 3)
        before = len(parts(out))
        cluster.remove_node(victim, allow_graceful=False)
        _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, errors
    assert before < PARTS, "the node was not killed in the middle"
    table = pq.read_table(out)
    ids = table["id"].to_pylist()
    assert sorted(map(int, ids)) == list(range(ROWS))

    assert score(*given, "--out", tmp_path / "here")[0] == 0
    assert table == pq.read_table(tmp_path / "here")

    written = parts(out)
    status, said = score(*on_ray, "--resume")
    assert (status, " 0 of them in this run" in said) == (0, True)
    assert parts(out) == written
    sys.stdout.write(
        f"\n{ROWS:,} rows on two nodes; one killed after {before} of {len(written)} parts; "
        f"{len(ids):,} rows in the output, {len(set(ids)):,} different; equal to those of one "
        "process; 0 scored again with --resume\n"
    )
