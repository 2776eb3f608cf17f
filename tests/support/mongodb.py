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

import psutil

START_SECONDS = 60.0
STOP_SECONDS = 20.0


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def command(port: int, folder: Path, *flags: str) -> list[str]:
    """Return the command line of a server with its data in `folder`."""
    program = Path(sys.executable).with_name("secantusd-py")
    # An empty configuration, so that one in the home folder has no effect.
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "empty.toml"
    config.touch()
    options = ["--host", "127.0.0.1", "--port", str(port), "--storage-path", str(folder / "data")]
    return [str(program), "--config", str(config), *options, "--log-level", "WARNING", *flags]


class MongoServer:
    """A server that can be stopped, suspended, and started again on the same port and data."""

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
        """Start, and wait until it accepts connections."""
        with (self.folder / "server.log").open("ab") as log:
            line = command(self.port, self.folder, *self.flags, *flags)
            self._process = subprocess.Popen(line, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.05)
            else:
                return
        raise TimeoutError((self.folder / "server.log").read_text())

    def stop(self) -> None:
        """Stop it with SIGTERM; kill it if that takes too long."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)

    def freeze(self) -> None:
        """Suspend it: it accepts connections and does not answer."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        # The signal takes effect a little later, and until then it answers.
        while psutil.Process(self._process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.005)

    def thaw(self) -> None:
        """Resume it."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        assert self._process.poll() is None
        self._process.send_signal(number)

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
