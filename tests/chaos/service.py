"""The service, to be killed and started again, and the content of its outbox."""

import asyncio
import contextlib
import resource
import sqlite3
from pathlib import Path

import httpx

from tests.support.mongodb import free_port
from tests.support.service import START_SECONDS, Served


class Service:
    """A service that keeps its port and its outbox when it is started again."""

    def __init__(self, folder: Path, bundle: Path, **settings: str) -> None:
        self.port = free_port()
        self.outbox = folder / "outbox" / "outbox.db"
        self._folder = folder
        self._settings = {
            "PORT": str(self.port),
            "OUTBOX": str(self.outbox),
            "MAX_QUEUE_SECONDS": "20",  # no 429 on a busy machine
            **settings,
        }
        self._bundle = bundle.resolve()
        self._served: Served | None = None

    @property
    def pid(self) -> int:
        assert self._served
        return self._served.process.pid

    async def start(self) -> None:
        """Start, and wait until it is ready."""
        self._served = await asyncio.to_thread(Served, self._bundle, self._folder, **self._settings)
        async with asyncio.timeout(START_SECONDS):
            while not await self.ready():
                await asyncio.sleep(0.05)

    async def ready(self) -> bool:
        return await self.status() in ("ok", "degraded")

    async def status(self) -> str:
        """Return the status in /readyz: `ok`, `degraded` or `failing`; empty without a reply."""
        assert self._served
        with contextlib.suppress(httpx.TransportError):
            reply = await asyncio.to_thread(self._served.http.get, "/readyz", timeout=2)
            return str(reply.json()["status"])
        return ""

    async def wait_for(self, metric: str, expected: float) -> None:
        """Wait until a metric has the expected value."""
        assert self._served
        await asyncio.to_thread(self._served.wait_for, metric, expected)

    async def kill(self) -> None:
        """Send SIGKILL."""
        assert self._served
        self._served.process.kill()
        await asyncio.to_thread(self._served.stop)

    async def stop(self) -> tuple[int, float]:
        """Send SIGTERM, unless it has ended; return the exit status and the seconds it took."""
        assert self._served
        seconds = await asyncio.to_thread(self._served.stop)
        return self._served.process.returncode, seconds

    def workers(self) -> list[int]:
        """Return the process ids of its worker processes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [
            int(child)
            for child in children
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    def limit_file_size(self, size: int) -> None:
        """Limit the size of every file that it writes, in bytes; -1 removes the limit."""
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, hard))


def texts_in(outbox: Path) -> dict[str, str]:
    """Return the texts of the predictions in an outbox, by id."""
    with contextlib.closing(sqlite3.connect(outbox, timeout=30)) as db:
        sql = "SELECT id, json_extract(body, '$.text') FROM log WHERE kind = 0"
        return dict(db.execute(sql).fetchall())


async def wait_until_sent(outbox: Path, *, prefix: str = "", seconds: float = 240) -> None:
    """Wait until an outbox holds no prediction, or none whose id starts with `prefix`."""
    async with asyncio.timeout(seconds):
        while any(id_.startswith(prefix) for id_ in await asyncio.to_thread(texts_in, outbox)):
            await asyncio.sleep(0.2)
