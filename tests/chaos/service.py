"""The service as its own process, to be killed, and what its outbox holds."""

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from tests.support.mongodb import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
START_S = 90.0
END_S = 40.0


class Service:
    """`python -m serving.app`, again and again, on one port and one outbox."""

    def __init__(self, folder: Path, bundle: Path, **settings: str) -> None:
        self.port = free_port()
        self.outbox = folder / "outbox" / "outbox.db"
        self._errors = folder / "service.log"
        self._environment = {
            **{key: value for key, value in os.environ.items() if key != "MONGODB_URI"},
            "PORT": str(self.port),
            "BUNDLE": str(bundle.resolve()),
            "OUTBOX": str(self.outbox),
            "MAX_QUEUE_SECONDS": "20",  # a busy machine shall not look like a refusal
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> float:
        """Start and wait until it is ready; return how long that took."""
        began = time.monotonic()
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving", "serve"],
                cwd=ROOT,
                env=self._environment,
                stdout=errors,
                stderr=errors,
            )
        while time.monotonic() < began + START_S:
            if self._process.poll() is not None:
                raise RuntimeError(f"the service ended:\n{self._errors.read_text()[-2000:]}")
            if await self.ready():
                return time.monotonic() - began
            await asyncio.sleep(0.05)
        raise TimeoutError(self._errors.read_text()[-2000:])

    async def ready(self) -> bool:
        """Whether it says that it is ready, be it degraded."""
        return (await self.get("/readyz")).startswith(b"HTTP/1.1 200")

    async def get(self, path: str) -> bytes:
        """Return a whole reply; nothing if there is none within two seconds."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(f"GET {path} HTTP/1.0\r\nConnection: close\r\n\r\n".encode())
                    return await reader.read()
                finally:
                    writer.close()
        return b""

    async def kill(self) -> None:
        """kill -9."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> tuple[int, float]:
        """SIGTERM; return the exit status and the seconds that it took."""
        began = time.monotonic()
        return await self._end(signal.SIGTERM), time.monotonic() - began

    def workers(self) -> list[int]:
        """Return the process ids of its worker processes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [
            int(child)
            for child in children
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    def limit_files(self, size: int) -> None:
        """Let no file that it writes grow beyond so many bytes; -1: let them."""
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, hard))

    async def _end(self, number: int) -> int:
        assert self._process is not None
        if self.running:
            self._process.send_signal(number)
        try:
            return await asyncio.to_thread(self._process.wait, END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise


def rows(outbox: Path) -> dict[str, str]:
    """Return what an outbox holds: texts of predictions by id."""
    with contextlib.closing(sqlite3.connect(outbox, timeout=30)) as db:
        sql = "SELECT id, json_extract(body, '$.text') FROM log WHERE kind = 0"
        return dict(db.execute(sql).fetchall())


async def empty(outbox: Path, seconds: float = 240, *, of: str = "") -> None:
    """Wait until an outbox holds no prediction, or none whose id begins so."""
    async with asyncio.timeout(seconds):
        while any(key.startswith(of) for key in await asyncio.to_thread(rows, outbox)):
            await asyncio.sleep(0.2)
