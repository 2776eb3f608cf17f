"""Debian's Redis, as a process of its own."""

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.support.mongodb import free_port

START_SECONDS = 30.0


class RedisServer:
    """A server that can be killed, suspended, and started again on the same port.

    It stores nothing on the disk: after a start it has counted nothing.
    """

    def __init__(self, folder: Path, *flags: str) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is missing: apt-get install redis-server"
        self.port = free_port()
        self._log = folder / "redis.log"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command = [program, *options, "--save", "", "--daemonize", "no", *flags]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, self._log.read_text()
                time.sleep(0.02)
            else:
                return
        raise TimeoutError(self._log.read_text())

    def kill(self) -> None:
        """Kill it, also if it is suspended; connections break."""
        if self._process:
            self._process.kill()
            self._process.wait(START_SECONDS)

    def freeze(self) -> None:
        """Suspend it: it accepts connections and does not answer."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume it."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> "RedisServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
