"""The faults, one scenario each. After each one the service has ended and its outbox is left."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from serving.prediction_log.outbox import Outbox
from serving.prediction_log.records import RecordType
from tests.chaos.load import Load
from tests.chaos.proxy import Proxy
from tests.chaos.service import Service, empty, rows
from tests.support.mongodb import MongoServer

Act = Callable[[Service], None]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    answers: int  # between two events of a scenario
    kills: int
    outage: float  # seconds
    backlog: int


FULL = Size(answers=700, kills=10, outage=60.0, backlog=50_000)
SHORT = Size(answers=200, kills=2, outage=4.0, backlog=2_000)


@dataclass(slots=True)
class World:
    """What a scenario uses."""

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

    @asynccontextmanager
    async def service(self, **settings: str) -> AsyncIterator[Service]:
        """A started service; it is stopped in the end, if it still runs."""
        service = Service(self.folder, self.bundle, **settings)
        await service.start()
        try:
            yield service
        finally:
            if service.running:
                await service.stop()

    def callers(self, service: Service) -> Load:
        self.load = Load(service.port, self.name)
        return self.load


async def killed(world: World) -> None:
    """kill -9 under load and restart."""
    async with world.service(MONGODB_URI=world.uri) as service:
        async with world.callers(service) as load:
            for _ in range(world.size.kills):
                await load.answers(world.size.answers)
                await service.kill()
                await service.start()
            await load.answers(world.size.answers)
        await empty(world.outbox)
    world.note = f"{world.size.kills} kills"


async def killed_alone(world: World) -> None:
    """The same without MongoDB: the outbox is the log."""
    async with world.service() as service, world.callers(service) as load:
        for _ in range(max(2, world.size.kills // 2)):
            await load.answers(world.size.answers)
            await service.kill()
            await service.start()
        await load.answers(world.size.answers)


async def mongo_stopped(world: World) -> None:
    """MongoDB goes, stays away, and comes back."""
    async with world.service(MONGODB_URI=world.uri) as service:
        async with world.callers(service) as load:
            await load.answers(world.size.answers)
            world.mongo.stop()
            before = len(load.told.texts)
            async with asyncio.timeout(60):
                while b'"degraded"' not in await service.get("/readyz"):
                    await asyncio.sleep(0.2)
            await asyncio.sleep(world.size.outage)
            during = len(load.told.texts) - before
            await asyncio.to_thread(world.mongo.start)
            await load.answers(world.size.answers)
        await empty(world.outbox)
    assert during > 0
    assert load.told.failed == load.told.broken == 0
    world.note = f"away {world.size.outage:.0f} s, {during} answered meanwhile, no request failed"


async def mongo_hangs(world: World) -> None:
    """MongoDB accepts connections and says nothing."""
    async with world.service(MONGODB_URI=world.uri) as service:
        async with world.callers(service) as load:
            await load.answers(world.size.answers)
            world.mongo.freeze()
            try:
                await asyncio.sleep(max(15.0, world.size.outage / 2))
                await load.answers(world.size.answers)
            finally:
                world.mongo.thaw()
            await load.answers(world.size.answers)
        await empty(world.outbox)
    assert load.told.failed == load.told.broken == 0
    world.note = "no request failed"


async def connection_cut(world: World) -> None:
    """The connection to MongoDB is cut in the middle of bulk writes and of their replies."""
    async with Proxy(world.mongo.port) as proxy:
        uri = world.uri.replace(str(world.mongo.port), str(proxy.port), 1)
        # Else the driver follows the address that the server gives of itself, around the proxy.
        async with world.service(MONGODB_URI=f"{uri}?directConnection=true") as service:
            async with world.callers(service) as load:
                await load.answers(world.size.answers)
                proxy.cutting = True
                await load.answers(world.size.answers)
                await asyncio.sleep(min(10.0, world.size.outage))
                proxy.cutting = False
            await empty(world.outbox)
    assert sum(proxy.cuts.values()) > 2
    assert load.told.failed == load.told.broken == 0
    world.note = f"{proxy.cuts['request']} requests and {proxy.cuts['reply']} replies cut"


async def disk_full(world: World) -> None:
    """The outbox's disk is full for a while, and MongoDB is away."""
    async with _small_disk(world) as (fill, room, how):
        world.mongo.stop()
        async with world.service(MONGODB_URI=world.uri) as service:
            async with world.callers(service) as load:
                await load.answers(world.size.answers)
                fill(service)
                await load.refusals()
                ready = await service.ready()
                await asyncio.sleep(1)
                room(service)
                refused = load.told.failed
                await load.answers(world.size.answers)
                await asyncio.to_thread(world.mongo.start)
            await empty(world.outbox)
        assert not ready
        assert load.told.broken == 0
        assert set(load.told.statuses) == {200, 503}
        world.note = f"{how}; {refused} requests refused meanwhile"


async def outbox_at_its_limit(world: World) -> None:
    """MongoDB is away for longer than OUTBOX_MB lasts."""
    world.mongo.stop()
    async with world.service(MONGODB_URI=world.uri, OUTBOX_MB="1") as service:
        async with world.callers(service) as load:
            await load.refusals()
            answered = len(load.told.texts)
            await asyncio.to_thread(world.mongo.start)
            await load.answers(world.size.answers)
        await empty(world.outbox)
    assert load.told.broken == 0
    assert set(load.told.statuses) == {200, 503}
    world.note = f"1 MB was full after {answered} answers"


async def terminated(world: World) -> None:
    """SIGTERM under load."""
    async with world.service(MONGODB_URI=world.uri) as service:
        async with world.callers(service) as load:
            await load.answers(world.size.answers * 2)
            status, seconds = await service.stop()
        assert status in (0, -signal.SIGTERM)
        assert load.told.failed == 0
    left = len(await asyncio.to_thread(rows, world.outbox))
    world.note = f"ended in {seconds:.1f} s, {left} rows left in the outbox"
    if left:
        async with world.service(MONGODB_URI=world.uri):
            await empty(world.outbox)


async def two_workers(world: World) -> None:
    """Two worker processes share the outbox; one, then the other is killed."""
    async with world.service(MONGODB_URI=world.uri, WORKERS="2") as service:
        async with world.callers(service) as load:
            for _ in range(2):
                await load.answers(world.size.answers)
                victim = service.workers()[0]
                os.kill(victim, signal.SIGKILL)
                async with asyncio.timeout(60):
                    while victim in service.workers() or len(service.workers()) < 2:
                        await asyncio.sleep(0.05)
            await load.answers(world.size.answers)
        await empty(world.outbox)
    world.note = "each killed once"


async def backlog(world: World) -> None:
    """A long backlog is relayed while requests are answered."""
    box = Outbox(world.outbox, max_bytes=1 << 30, ring=False)
    await box.start()
    for start in range(0, world.size.backlog, 1000):
        old = [
            {"_id": f"old{n:09}", "ts": 1_700_000_000_000 + n, "text": f"old {n}"}
            for n in range(start, start + 1000)
        ]
        await box.append(RecordType.PREDICTION, old)
    await box.close()
    async with world.service(MONGODB_URI=world.uri) as service:
        clock = asyncio.get_running_loop().time
        began = clock()
        async with world.callers(service) as load:
            await empty(world.outbox, 600, of="old")
            seconds = clock() - began
        await empty(world.outbox)
    assert load.told.failed == load.told.broken == 0
    rate = len(load.told.texts) / seconds
    world.note = f"{world.size.backlog} rows in {seconds:.0f} s beside {rate:.0f} answers/s"


@asynccontextmanager
async def _small_disk(world: World) -> AsyncIterator[tuple[Act, Act, str]]:
    """A disk for the outbox that can be filled, and how: a tmpfs where we may mount one, else a
    limit on how far the service may write into any file.
    """
    folder = world.outbox.parent
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "chaos", str(folder)]
    quiet = subprocess.DEVNULL
    if os.geteuid() or subprocess.run(mount, check=False, stderr=quiet).returncode:
        yield (
            lambda service: service.limit_files(64 * 1024),
            lambda service: service.limit_files(-1),
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


Scenario = Callable[[World], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {
    "kill -9": killed,
    "kill -9, no MongoDB": killed_alone,
    "MongoDB stopped": mongo_stopped,
    "MongoDB hangs": mongo_hangs,
    "connection cut": connection_cut,
    "disk full": disk_full,
    "outbox at its limit": outbox_at_its_limit,
    "SIGTERM": terminated,
    "two workers": two_workers,
    "backlog": backlog,
}
