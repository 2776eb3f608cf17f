"""A server as a child process: its start, what its process tree costs, its end."""

import contextlib
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil

START_POLL_S = 0.02
END_S = 15.0


class ServerError(Exception):
    """A server did not start; the message ends with the last lines of its log."""


class Server:
    """A running server on a port of 127.0.0.1, with all processes that it starts."""

    def __init__(
        self, command: list[str], env: dict[str, str], folder: Path, log: Path, port: int
    ) -> None:
        self.port, self.log = port, log
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)
        self._known: set[psutil.Process] = set()
        self._begin = time.perf_counter()
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                command, env={**os.environ, **env}, cwd=folder,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._root = psutil.Process(self._child.pid)

    def wait_ready(self, path: str, body: Any, timeout: float) -> float:
        """Return the seconds from the start of the process to its first successful reply.

        Raises:
            ServerError: the server ended, or the time is over.
        """
        while time.perf_counter() - self._begin < timeout:
            if self._child.poll() is not None:
                raise ServerError(f"ended with {self._child.returncode}: {self.log_tail()}")
            try:
                if self.http.post(path, json=body).status_code == 200:
                    return time.perf_counter() - self._begin
            except httpx.TransportError:
                pass  # it does not listen yet
            time.sleep(START_POLL_S)
        raise ServerError(f"not ready within {timeout:.0f} s: {self.log_tail()}")

    def log_tail(self) -> str:
        """Return the end of what the server wrote."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-600:].strip()

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the tree."""
        processes = [self._root, *self._root.children(recursive=True)]
        self._known.update(processes)
        return processes

    def cpu_s(self) -> float:
        """Return the processor seconds of the tree, with those of processes that have ended."""
        return self._sum(lambda process: sum(process.cpu_times()[:4]))

    def rss_mb(self) -> float:
        """Return the resident memory. Pages that processes share count for each of them."""
        return self._sum(lambda process: process.memory_info().rss / 2**20)

    def pss_mb(self) -> float:
        """Return the resident memory, in which shared pages count once."""
        return self._sum(lambda process: process.memory_full_info().pss / 2**20)

    def peak_rss_mb(self) -> float:
        """Return the sum of the highest resident memory of each process."""
        return self._sum(lambda process: peak_rss_kb(process.pid) / 2**10)

    def _sum(self, read: Callable[[psutil.Process], float]) -> float:
        total = 0.0
        for process in self.processes():
            # A process may end in the meantime.
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                total += read(process)
        return total

    def stop(self) -> None:
        """Ask the server to end, then kill what is left of its tree."""
        self.http.close()
        if self._child.poll() is None:
            self.processes()
            self._child.terminate()
            try:
                self._child.wait(END_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        for process in self._known:
            with contextlib.suppress(psutil.NoSuchProcess):  # psutil knows a reused process id
                process.kill()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def peak_rss_kb(pid: int) -> int:
    """Return the highest resident memory of a process, which psutil does not give on Linux."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+)", status)
    return int(found[1]) if found else 0  # a process that has ended has no memory


def machine() -> str:
    """Return the machine in words."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if flag in flags]
    return (
        f"{os.cpu_count()} cores of {name} ({', '.join(known)}), Linux {platform.release()}, "
        f"Python {platform.python_version()}, ONNX Runtime {version('onnxruntime')}; "
        f"load average at the end {os.getloadavg()[0]:.1f}"
    )
