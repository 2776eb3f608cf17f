"""`tweet-tagger score` as a process, and its output."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.service import ROOT

RELEASE = ROOT / "models" / "release"
# Ray's workers have niceness 15 by default: beside other work they would be tested for hours.
ENVIRONMENT = {"TAGGER_BUNDLE": str(RELEASE), "RAY_worker_niceness": "0"}
WAIT_S = 300  # for a busy machine


def start(*arguments: str | Path, stdin: int | None = None) -> subprocess.Popen[str]:
    """Start a run."""
    return subprocess.Popen(
        [sys.executable, "-m", "serving", "score", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def score(*arguments: str | Path, stdin: str = "") -> tuple[int, str]:
    """Run to the end; return the exit status and what it said."""
    process = start(*arguments, stdin=subprocess.PIPE)
    out, err = process.communicate(stdin, timeout=WAIT_S * 3)
    assert out == ""
    return process.returncode, err


def wait_for_parts(folder: Path, count: int) -> None:
    """Wait until a run has written some parts."""
    end = time.monotonic() + WAIT_S
    while len(list(folder.glob("part-*.parquet"))) < count:
        assert time.monotonic() < end, f"no {count} parts after {WAIT_S} s"
        time.sleep(0.01)
