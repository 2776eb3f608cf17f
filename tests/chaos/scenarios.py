"""The faults, one scenario each. After each one the service has ended and its outbox is left."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from serving.prediction_log.outbox import Outbox
from serving.prediction_log.records import RecordType
from tests.chaos.load import Load
from tests.chaos.proxy import Proxy
from tests.chaos.service import Service, texts_in, wait_until_sent
from tests.support.mongodb import MongoServer

Action = Callable[[Service], None]


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a scenario.

    predictions: between two events.
    outage: of MongoDB, in seconds.
    backlog: rows in the outbox at the start.
    """

    predictions: int
    kills: int
    outage: float
    backlog: int


FULL = Size(predictions=700, kills=10, outage=60.0, backlog=50_000)
SHORT = Size(predictions=200, kills=2, outage=4.0, backlog=2_000)


@dataclass(slots=True)
class Setup:
    """What a scenario works with; `note` is printed beside its figures."""

    name: str
    folder: Path
    bundle: Path
    mongo: MongoServer
    size: Size
    load: Load | None = None
    note: str = ""

    @property
    def uri(self) -> str:
        return f"{self.mongo.uri}{self.database}"

    @property
    def database(self) -> str:
        return self.name.replace(" ", "_")

    @property
    def outbox(self) -> Path:
        return self.folder / "outbox" / "outbox.db"

    @property
    def outboxes(self) -> list[Path]:
        return [self.outbox]

    @asynccontextmanager
    async def service(self, **settings: str) -> AsyncIterator[Service]:
        """Start a service, and stop it at the end."""
        service = Service(self.folder, self.bundle, **settings)
        await service.start()
        try:
            yield service
        finally:
            await service.stop()

    def clients(self, service: Service) -> Load:
        self.load = Load(service.port, self.name)
        return self.load


async def killed(setup: Setup) -> None:
    """The service is killed (SIGKILL) under load and started again."""
    async with setup.service(MONGODB_URI=setup.uri) as service:
        async with setup.clients(service) as load:
            for _ in range(setup.size.kills):
                await load.predictions(setup.size.predictions)
                await service.kill()
                await service.start()
            await load.predictions(setup.size.predictions)
        await wait_until_sent(setup.outbox)
    setup.note = f"{setup.size.kills} kills"


async def killed_without_mongodb(setup: Setup) -> None:
    """The same without MongoDB: the outbox is the only store."""
    async with setup.service() as service, setup.clients(service) as load:
        for _ in range(max(2, setup.size.kills // 2)):
            await load.predictions(setup.size.predictions)
            await service.kill()
            await service.start()
        await load.predictions(setup.size.predictions)


async def mongodb_stopped(setup: Setup) -> None:
    """MongoDB stops and is started again later."""
    async with setup.service(MONGODB_URI=setup.uri) as service:
        async with setup.clients(service) as load:
            await load.predictions(setup.size.predictions)
            setup.mongo.stop()
            before = len(load.replies.texts)
            async with asyncio.timeout(60):
                while await service.status() != "degraded":
                    await asyncio.sleep(0.2)
            await asyncio.sleep(setup.size.outage)
            during = len(load.replies.texts) - before
            await asyncio.to_thread(setup.mongo.start)
            await load.predictions(setup.size.predictions)
        await wait_until_sent(setup.outbox)
    assert during > 0
    assert load.replies.errors == load.replies.broken == 0
    setup.note = f"{setup.size.outage:.0f} s outage, {during} answered in it, no request failed"


async def mongodb_hangs(setup: Setup) -> None:
    """MongoDB accepts connections and does not answer."""
    async with setup.service(MONGODB_URI=setup.uri) as service:
        async with setup.clients(service) as load:
            await load.predictions(setup.size.predictions)
            setup.mongo.freeze()
            try:
                await asyncio.sleep(max(15.0, setup.size.outage / 2))
                await load.predictions(setup.size.predictions)
            finally:
                setup.mongo.thaw()
            await load.predictions(setup.size.predictions)
        await wait_until_sent(setup.outbox)
    assert load.replies.errors == load.replies.broken == 0
    setup.note = "no request failed"


async def connection_cut(setup: Setup) -> None:
    """The connection to MongoDB is cut in the middle of bulk writes and of their replies."""
    async with Proxy(setup.mongo.port) as proxy:
        uri = setup.uri.replace(str(setup.mongo.port), str(proxy.port), 1)
        # Without directConnection the driver would use the server's own address, not the proxy's.
        async with setup.service(MONGODB_URI=f"{uri}?directConnection=true") as service:
            async with setup.clients(service) as load:
                await load.predictions(setup.size.predictions)
                proxy.cutting = True
                await load.predictions(setup.size.predictions)
                await asyncio.sleep(min(10.0, setup.size.outage))
                proxy.cutting = False
            await wait_until_sent(setup.outbox)
    assert sum(proxy.cuts.values()) > 2
    assert load.replies.errors == load.replies.broken == 0
    setup.note = f"{proxy.cuts['request']} requests and {proxy.cuts['reply']} replies cut"


async def disk_full(setup: Setup) -> None:
    """The outbox's disk is full for a while, and MongoDB is stopped."""
    async with _small_disk(setup) as (fill, free, method):
        setup.mongo.stop()
        async with setup.service(MONGODB_URI=setup.uri) as service:
            async with setup.clients(service) as load:
                await load.predictions(setup.size.predictions)
                fill(service)
                await load.refusal()
                ready = await service.ready()
                await asyncio.sleep(1)
                free(service)
                refused = load.replies.errors
                await load.predictions(setup.size.predictions)
                await asyncio.to_thread(setup.mongo.start)
            await wait_until_sent(setup.outbox)
        assert not ready
        assert load.replies.broken == 0
        assert set(load.replies.statuses) == {200, 503}
        setup.note = f"{method}; {refused} requests refused"


async def outbox_full(setup: Setup) -> None:
    """MongoDB is stopped for so long that the outbox reaches OUTBOX_MB."""
    setup.mongo.stop()
    async with setup.service(MONGODB_URI=setup.uri, OUTBOX_MB="1") as service:
        async with setup.clients(service) as load:
            await load.refusal()
            answered = len(load.replies.texts)
            await asyncio.to_thread(setup.mongo.start)
            await load.predictions(setup.size.predictions)
        await wait_until_sent(setup.outbox)
    assert load.replies.broken == 0
    assert set(load.replies.statuses) == {200, 503}
    setup.note = f"1 MB was full after {answered} predictions"


async def terminated(setup: Setup) -> None:
    """The service gets SIGTERM under load."""
    async with setup.service(MONGODB_URI=setup.uri) as service:
        async with setup.clients(service) as load:
            await load.predictions(setup.size.predictions * 2)
            status, seconds = await service.stop()
        assert status in (0, -signal.SIGTERM)
        assert load.replies.errors == 0
    remaining = len(await asyncio.to_thread(texts_in, setup.outbox))
    setup.note = f"ended in {seconds:.1f} s, {remaining} rows left in the outbox"
    if remaining:
        async with setup.service(MONGODB_URI=setup.uri):
            await wait_until_sent(setup.outbox)


async def two_workers(setup: Setup) -> None:
    """Two worker processes share the outbox; each is killed once."""
    async with setup.service(MONGODB_URI=setup.uri, WORKERS="2") as service:
        async with setup.clients(service) as load:
            for _ in range(2):
                await load.predictions(setup.size.predictions)
                victim = service.workers()[0]
                os.kill(victim, signal.SIGKILL)
                async with asyncio.timeout(60):
                    while victim in service.workers() or len(service.workers()) < 2:
                        await asyncio.sleep(0.05)
            await load.predictions(setup.size.predictions)
        await wait_until_sent(setup.outbox)
    setup.note = "each killed once"


async def backlog(setup: Setup) -> None:
    """A long backlog is sent while requests are answered."""
    await _fill_outbox(setup.outbox, setup.size.backlog)
    async with setup.service(MONGODB_URI=setup.uri) as service:
        clock = asyncio.get_running_loop().time
        started = clock()
        async with setup.clients(service) as load:
            await wait_until_sent(setup.outbox, prefix="old", seconds=600)
            seconds = clock() - started
        await wait_until_sent(setup.outbox)
    assert load.replies.errors == load.replies.broken == 0
    rate = len(load.replies.texts) / seconds
    setup.note = f"{setup.size.backlog} rows in {seconds:.0f} s, with {rate:.0f} predictions/s"


async def _fill_outbox(path: Path, rows: int) -> None:
    outbox = Outbox(path, max_bytes=1 << 30, ring=False)
    await outbox.start()
    for start in range(0, rows, 1000):
        documents = [
            {"_id": f"old{i:09}", "ts": 1_700_000_000_000 + i, "text": f"old {i}"}
            for i in range(start, start + 1000)
        ]
        await outbox.append(RecordType.PREDICTION, documents)
    await outbox.close()


@asynccontextmanager
async def _small_disk(setup: Setup) -> AsyncIterator[tuple[Action, Action, str]]:
    """Yield functions that fill the outbox's disk and free it again, and the method in words.

    The disk is a tmpfs if this process may mount one. Otherwise a limit on the size of the
    service's files has the same effect.
    """
    folder = setup.outbox.parent
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "chaos", str(folder)]
    quiet = subprocess.DEVNULL
    if os.geteuid() or subprocess.run(mount, check=False, stderr=quiet).returncode:
        yield (
            lambda service: service.limit_file_size(64 * 1024),
            lambda service: service.limit_file_size(-1),
            "RLIMIT_FSIZE of 64 KB",
        )
        return
    filler = folder / "filler"

    def fill(_: Service) -> None:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))

    try:
        yield fill, lambda _: filler.unlink(), "tmpfs of 16 MB, filled"
    finally:
        subprocess.run(["umount", str(folder)], check=True)


Scenario = Callable[[Setup], Coroutine[None, None, None]]
SCENARIOS: dict[str, Scenario] = {
    "kill -9": killed,
    "kill -9, no MongoDB": killed_without_mongodb,
    "MongoDB stopped": mongodb_stopped,
    "MongoDB hangs": mongodb_hangs,
    "connection cut": connection_cut,
    "disk full": disk_full,
    "outbox full": outbox_full,
    "SIGTERM": terminated,
    "two workers": two_workers,
    "backlog": backlog,
}
