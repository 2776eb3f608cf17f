"""`tweet-tagger score --ray` on two nodes, one of which is killed in the middle."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from ray.cluster_utils import Cluster

from tests.integration.test_bulk import command, environment, run, sample, write_csv
from tests.support.service import ROOT

ROWS = int(os.environ.get("ROWS") or 20_000)
# Three: an actor takes a whole CPU, and Ray needs some for itself. See docs/bulk.md.
NODE = {"num_cpus": 3, "object_store_memory": 100 << 20, "include_dashboard": False}
WAIT_S = 300
PARTS = 40


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    # The nodes' workers import this checkout.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    started = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        started.add_node(**{name: NODE[name] for name in ("num_cpus", "object_store_memory")})
        yield started
    finally:
        started.shutdown()


def parts(out: Path) -> dict[str, int]:
    """The part files, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}


def ids(table: pa.Table) -> list[str]:
    return sorted(table["id"].to_pylist())


def test_a_node_that_is_killed_costs_no_row_and_doubles_none(
    cluster: Cluster, tmp_path: Path
) -> None:
    rows, files = sample(ROWS), 4
    for i in range(files):
        write_csv(tmp_path / f"in-{i}.csv", [("id", "text"), *rows[i::files]])
    given, out = tmp_path / "in-*.csv", tmp_path / "out"
    options = ("score", given, "--id", "id", "--part-rows", max(1, ROWS // PARTS))
    on_ray = (*options, "--out", out, "--ray", cluster.address)
    victim = next(iter(cluster.worker_nodes))
    with subprocess.Popen(
        command(*on_ray), cwd=ROOT, env=environment(), stderr=subprocess.PIPE
    ) as process:
        end = time.monotonic() + WAIT_S
        while len(parts(out)) < 3 and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        before = len(parts(out))
        cluster.remove_node(victim, allow_graceful=False)
        _, errors = process.communicate(timeout=WAIT_S)
    assert 3 <= before < PARTS, "the node was not killed in the middle"
    assert process.returncode == 0, errors.decode()
    table = pq.read_table(out)
    assert ids(table) == sorted(str(i) for i in range(ROWS))

    assert run(*options, "--out", tmp_path / "here").exit_code == 0
    assert table == pq.read_table(tmp_path / "here")

    written = parts(out)
    again = run(*on_ray, "--resume")
    assert again.exit_code == 0
    assert " 0 of them in this run" in again.stderr
    assert parts(out) == written
    sys.stdout.write(
        f"\n{ROWS:,} rows on two nodes; one killed after {before} of {len(written)} parts; "
        f"{table.num_rows:,} rows in the output, {len(set(ids(table))):,} different; "
        "equal to those of one process; 0 scored again with --resume\n"
    )
