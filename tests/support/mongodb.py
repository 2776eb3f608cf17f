"""A MongoDB server for tests and local use: secantusdb from PyPI, as a process of its own.

python -m tests.support.mongodb --port 27017 --folder .mongo      what `make mongo` runs
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

START_S = 60.0
END_S = 20.0


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def command(port: int, folder: Path, *flags: str) -> list[str]:
    """Return the command line of a server."""
    program = Path(sys.executable).with_name("secantusd-py")
    # An empty configuration: one in somebody's home folder shall not matter.
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "empty.toml"
    config.touch()
    where = ["--host", "127.0.0.1", "--port", str(port), "--storage-path", str(folder / "data")]
    return [str(program), "--config", str(config), *where, "--log-level", "WARNING", *flags]


class MongoServer:
    """A server that can be stopped, killed, frozen and started again on the same port and data."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.port = free_port()
        self.folder = folder
        self.flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *flags: str) -> None:
        """Start, and wait until it accepts."""
        with (self.folder / "server.log").open("ab") as out:
            line = command(self.port, self.folder, *self.flags, *flags)
            self._process = subprocess.Popen(line, stdout=out, stderr=out)
        limit = time.monotonic() + START_S
        while time.monotonic() < limit:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.05)
            else:
                return
        raise TimeoutError((self.folder / "server.log").read_text())

    def stop(self) -> None:
        """Stop as a service manager does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop as a cut of power does, as far as the server sees."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it hang: its port still accepts."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        assert self._process.poll() is None
        os.kill(self._process.pid, number)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self.thaw()
            self._signal(number)
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait(END_S)
        self._process = None

    def __enter__(self) -> "MongoServer":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=27017)
    parser.add_argument("--folder", type=Path, default=Path(".mongo"))
    options = parser.parse_args()
    line = command(options.port, options.folder, "--sync-on-commit")
    print(f"MONGODB_URI=mongodb://127.0.0.1:{options.port}/", flush=True)
    os.execv(line[0], line)
