"""A server as a child process: its start, what its whole process tree costs, its end.

Figures come from /proc. The end is by process id, checked against the start time, so that nobody
else's process can be meant.
"""

import os
import platform
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.bench.wire import Reply, ReplyError, first_reply

TICK = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")
END_S = 15.0


class ServerError(Exception):
    """A server did not start, or did not answer as it should; the text ends with its last words."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat says."""

    parent: int
    cpu_s: float  # its own and that of children it has buried
    started: int


def stat(pid: int) -> Stat | None:
    """Return a process's figures, or None if it is gone or a zombie."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before may hold spaces and brackets
    if fields[0] == "Z":
        return None
    return Stat(int(fields[1]), sum(map(int, fields[11:15])) / TICK, int(fields[19]))


def tree(root: int) -> dict[int, Stat]:
    """Return the living processes of which `root` is the ancestor, itself included."""
    everyone = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (each := stat(int(entry.name))):
            everyone[int(entry.name)] = each
    found, front = {}, [root]
    while front:
        pid = front.pop()
        if pid in everyone:
            found[pid] = everyone[pid]
            front += [child for child, each in everyone.items() if each.parent == pid]
    return found


def _kilobytes(path: Path, key: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(key)), 0)


def exchange(port: int, request: bytes, timeout: float = 30.0) -> tuple[Reply, bytes]:
    """Send one request on a connection of its own; return the reply and its body."""
    with socket.create_connection(("127.0.0.1", port), timeout) as opened:
        opened.sendall(request)
        buffer = b""
        while (reply := first_reply(buffer)) is None:
            data = opened.recv(1 << 16)
            if not data:
                raise ReplyError(f"hung up after {buffer[:80]!r}")
            buffer += data
    return reply, buffer[reply.begin : reply.end]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A running server."""

    def __init__(
        self, command: list[str], env: dict[str, str], folder: Path, log: Path, port: int
    ) -> None:
        self.port = port
        self.log = log
        self._known: dict[int, Stat] = {}
        self._begin = time.perf_counter()
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                command, env={**os.environ, **env}, cwd=folder,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait_ready(self, request: bytes, timeout: float) -> float:
        """Return the seconds from the process's start to its first good answer to `request`."""
        while time.perf_counter() - self._begin < timeout:
            if self._child.poll() is not None:
                raise ServerError(f"ended with {self._child.returncode}: {self.last_words()}")
            try:
                reply, _ = exchange(self.port, request)
            except (OSError, ReplyError):
                pass  # not listening yet, or not ready to speak
            else:
                if reply.status == 200:
                    return time.perf_counter() - self._begin
            time.sleep(0.02)
        raise ServerError(f"not ready within {timeout:.0f} s: {self.last_words()}")

    def last_words(self) -> str:
        """Return the end of what it wrote."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-600:].strip()

    def cpu_s(self) -> float:
        """Return the CPU seconds that its tree has used."""
        self._known |= (now := tree(self._child.pid))
        return sum(each.cpu_s for each in now.values())

    def memory_mb(self, *, peak: bool = False) -> float:
        """Return the tree's resident memory, now or the sum of each process's highest.

        Pages that its processes share count once for each of them.
        """
        key = "VmHWM" if peak else "VmRSS"
        pids = tree(self._child.pid)
        return sum(_kilobytes(PROC / str(pid) / "status", key) for pid in pids) / 1024

    def pss_mb(self) -> float:
        """Return the tree's resident memory now, shared pages counted once."""
        pids = tree(self._child.pid)
        return sum(_kilobytes(PROC / str(pid) / "smaps_rollup", "Pss:") for pid in pids) / 1024

    def stop(self) -> None:
        """End the tree: ask the root, wait, then end by force what is left of it."""
        self._known |= tree(self._child.pid)
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(END_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        for pid, known in self._known.items():
            now = stat(pid)
            if now and now.started == known.started:
                os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def machine() -> str:
    """Return the machine in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if flag in flags]
    cores = sum(line.startswith("processor") for line in lines)
    load = Path("/proc/loadavg").read_text().split()[0]
    return (
        f"{cores} cores of {name} ({', '.join(known)}), Linux {platform.release()}, "
        f"Python {platform.python_version()}, ONNX Runtime {version('onnxruntime')}; "
        f"load average at the end {load}"
    )
