"""The load generator: `wrk`, a standard tool, in a closed loop on a server of this machine.

    bodies ─> a file, one JSON document a line ─> wrk with closed_loop.lua ─> ClosedLoop

In a closed loop each connection sends its next request when it has the reply to its last one.
`wrk` stops when the time is over and does not count the requests that are then under way.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("closed_loop.lua")
TIMEOUT_S = 30


class LoadError(Exception):
    """The load generator failed, or the server did not answer as it should."""


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """What wrk measured. Latencies are in milliseconds and include those of error replies."""

    seconds: float
    replies: int
    errors: int  # replies with a status of 400 or more
    broken: int  # connections that failed, and requests without a reply in time
    p50: float
    p95: float
    p99: float
    cpu: float  # wrk's share of one core

    @property
    def successes(self) -> int:
        return self.replies - self.errors

    def require_success(self) -> None:
        """Raise LoadError unless every request was answered with success."""
        if self.errors or self.broken or not self.replies:
            raise LoadError(
                f"got {self.replies} replies of which {self.errors} were errors, and "
                f"{self.broken} broken requests; wanted only successes"
            )


def require_wrk() -> None:
    """End the program with one sentence if wrk is not installed."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; on Debian: apt-get install wrk")


def closed_loop(
    port: int, path: str, bodies: Iterable[Any], connections: int, seconds: int
) -> ClosedLoop:
    """POST the bodies in turn, from the first to the last and again.

    Raises:
        LoadError: wrk failed, for example because it could not connect.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.writelines(json.dumps(body, ensure_ascii=False) + "\n" for body in bodies)
        file.flush()
        output, cpu_s = run_measured(
            [
                "wrk", "--threads", "1", "--connections", str(connections),
                "--duration", f"{seconds}s", "--timeout", f"{TIMEOUT_S}s",
                "--script", str(SCRIPT), f"http://127.0.0.1:{port}{path}", "--", file.name,
            ],
            seconds + TIMEOUT_S,
        )  # fmt: skip
    figures = json.loads(output.splitlines()[-1])
    return ClosedLoop(**figures, cpu=cpu_s / figures["seconds"])


def run_measured(command: list[str], timeout: float, stdin: bytes = b"") -> tuple[bytes, float]:
    """Run a load generator; return its output and the processor seconds that it took.

    Raises:
        LoadError: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=timeout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise LoadError(f"{command[0]}: {(done.stderr or done.stdout).decode()[-600:]}")
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
