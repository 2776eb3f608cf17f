"""A benchmarked server as a process tree: it is measured as a whole and ended as a whole."""

import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.serving.process import Server, ServerError

CHILD = "import time; time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def start(code: str, folder: Path) -> Server:
    return Server([sys.executable, "-c", code], {}, folder, folder / "log", port=1)


def test_the_tree_has_the_grandchildren_and_ends_with_the_server(tmp_path: Path) -> None:
    with start(PARENT, tmp_path) as server:
        deadline = time.monotonic() + 20
        while len(server.processes()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        processes = server.processes()
        assert len(processes) == 2
        assert server.pss_mb() > 1
        rss_mb = server.rss_mb()
        assert server.peak_rss_mb() >= rss_mb > 10
        assert server.cpu_s() > 0
    _, alive = psutil.wait_procs(processes, 10)
    assert not alive


def test_a_server_that_ends_early_reports_the_end_of_its_log(tmp_path: Path) -> None:
    with (
        start("import sys; sys.exit('no model')", tmp_path) as server,
        pytest.raises(ServerError, match="ended with 1: no model"),
    ):
        server.wait_ready("/", {}, timeout=20)
