"""What happens to replicas, one scenario each: a function of a `Setup` that is in `SCENARIOS`.

A scenario asserts what must hold beside the comparison of acknowledged and stored predictions,
which `__main__` makes after each one. After it all replicas have ended and MongoDB has every row.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from pymongo import MongoClient

from serving.prediction_log.records import Document
from tests.chaos.load import Load
from tests.chaos.service import Service, texts_in, wait_until_sent
from tests.replicas.haproxy import HAProxy
from tests.replicas.manifests import Manifests
from tests.support.bundles import variant, version
from tests.support.mlflow import MODEL, MlflowServer, Releases, checkout_of
from tests.support.mongodb import MongoServer
from tests.support.redis import RedisServer
from tests.support.service import START_SECONDS

REPLICAS = 3
PRODUCTION = f"models:/{MODEL}@production"
SECOND_TEMPERATURE = 2.0  # of the model that is promoted: its scores differ


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a scenario: predictions between two events, clients, and rounds of restarts."""

    predictions: int
    clients: int
    rounds: int


FULL = Size(predictions=2_000, clients=24, rounds=3)
SHORT = Size(predictions=200, clients=8, rounds=1)


@dataclass(slots=True)
class Setup:
    """What a scenario works with; `note` is printed beside its counts."""

    name: str
    folder: Path
    bundle: Path
    mongo: MongoServer
    manifests: Manifests
    size: Size
    load: Load | None = None
    note: str = ""
    outboxes: list[Path] = field(default_factory=list)

    @property
    def database(self) -> str:
        return self.name.replace(" ", "_").replace("-", "")

    @asynccontextmanager
    async def replicas(self, **settings: str) -> AsyncIterator["Replicas"]:
        """Start the replicas, with these settings too, and HAProxy; stop them at the end."""
        uri = f"{self.mongo.uri}{self.database}"
        settings = {**self.manifests.settings, "MONGODB_URI": uri, "THREADS": "1", **settings}
        services = []
        for i in range(REPLICAS):
            (folder := self.folder / str(i)).mkdir()
            services.append(Service(folder, self.bundle, **settings))
        self.outboxes = [service.outbox for service in services]
        ports = [service.port for service in services]
        proxy = HAProxy(self.folder, ports, self.manifests.probe)
        async with _running(services), proxy:
            await proxy.wait_until_up(ports)
            yield Replicas(services, proxy)

    def clients(self, replicas: "Replicas", number: int = 0) -> Load:
        """Return clients that send their requests to HAProxy, half of them to each of its ports."""
        proxy, number = replicas.proxy, number or self.size.clients
        self.load = Load(proxy.port, self.name, clients=number, second_port=proxy.tcp_port)
        return self.load

    @property
    def failed(self) -> int:
        """Requests that got another status than 200, or no reply."""
        assert self.load
        return self.load.replies.errors + self.load.replies.unanswered

    def assert_none_failed(self) -> None:
        assert self.load
        replies = self.load.replies
        assert self.failed == 0, f"{replies.statuses}, {replies.unanswered} without a reply"

    def stored_models(self) -> Counter[str]:
        """Return the number of predictions in MongoDB by the model that gave them."""
        with MongoClient[Document](self.mongo.uri) as client:
            documents = client[self.database]["predictions"].find({}, {"model_version": 1})
            return Counter(document["model_version"] for document in documents)

    async def all_sent(self) -> None:
        """Wait until every outbox is empty."""
        for outbox in self.outboxes:
            await wait_until_sent(outbox)


@dataclass(frozen=True, slots=True)
class Replicas:
    """The running replicas, and HAProxy in front of them."""

    services: list[Service]
    proxy: HAProxy

    async def start(self, service: Service) -> None:
        """Start one again, and wait until requests reach it."""
        await service.start()
        await self.proxy.wait_until_up([service.port])

    async def wait_for_model(self, expected: str) -> None:
        """Wait until each replica serves a model."""
        async with asyncio.timeout(START_SECONDS), httpx.AsyncClient() as client:
            for service in self.services:
                url = f"http://127.0.0.1:{service.port}/v1/model"
                while (await client.get(url)).json()["manifest"]["version"] != expected:
                    await asyncio.sleep(0.2)


@asynccontextmanager
async def _running(services: list[Service]) -> AsyncIterator[None]:
    """Start services at the same time; stop those that have started at the same time, too."""
    started = []

    async def start(service: Service) -> None:
        await service.start()
        started.append(service)

    try:
        results = await asyncio.gather(*map(start, services), return_exceptions=True)
        for error in filter(None, results):
            raise error
        yield
    finally:
        await asyncio.gather(*(service.stop() for service in started))


async def rolling_restart(setup: Setup) -> None:
    """Each replica in turn gets SIGTERM, ends, and is started again: no request fails."""
    slowest = 0.0
    async with setup.replicas() as replicas:
        async with setup.clients(replicas) as load:
            await load.predictions(setup.size.predictions)
            for service in replicas.services * setup.size.rounds:
                _, seconds = await service.stop()
                slowest = max(slowest, seconds)
                await replicas.start(service)
                await load.predictions(setup.size.predictions)
        await setup.all_sent()
    assert slowest < setup.manifests.grace, f"it ended {slowest:.0f} s after SIGTERM: killed"
    setup.assert_none_failed()
    setup.note = (
        f"{REPLICAS * setup.size.rounds} restarts, the slowest stop {slowest:.1f} s, "
        f"{load.replies.broken} connections sent elsewhere"
    )


async def replica_killed(setup: Setup) -> None:
    """A replica is killed (SIGKILL) while its outbox has rows: they arrive after its restart."""
    async with setup.replicas() as replicas:
        victim = replicas.services[0]
        async with setup.clients(replicas) as load:
            await load.predictions(setup.size.predictions)
            setup.mongo.freeze()  # so that there are predictions that only the outbox has
            try:
                await load.predictions(setup.size.predictions)
                await victim.kill()
                rows = texts_in(victim.outbox)
                await load.predictions(setup.size.predictions)
            finally:
                setup.mongo.thaw()
            await replicas.start(victim)
            await load.predictions(setup.size.predictions)
        await setup.all_sent()
    assert rows, "the outbox of the killed replica was empty"
    setup.note = f"{len(rows)} rows in the outbox of the killed replica, all delivered"


async def redis_stopped(setup: Setup) -> None:
    """Redis, which counts the rate limit, goes and comes back: no request fails."""
    with RedisServer(setup.folder) as redis:
        limit = {"REQUESTS_PER_MINUTE": "10000000", "RATE_LIMIT_STORAGE": redis.url}
        async with setup.replicas(**limit) as replicas:
            async with setup.clients(replicas) as load:
                await load.predictions(setup.size.predictions)
                redis.kill()
                for service in replicas.services:
                    await service.wait_for("tagger_rate_limit_local", 1)
                before = len(load.replies.texts)
                await load.predictions(setup.size.predictions)
                during = len(load.replies.texts) - before
                await asyncio.to_thread(redis.start)
                for service in replicas.services:
                    await service.wait_for("tagger_rate_limit_local", 0)
                await load.predictions(setup.size.predictions)
            await setup.all_sent()
    setup.assert_none_failed()
    setup.note = f"{during} predictions without Redis, then all three counted there again"


async def promotion(setup: Setup) -> None:
    """A promotion and a rollback reach all replicas through a real MLflow server.

    Each reply names the model that gave it, and so does the stored document.
    """
    second = variant(setup.bundle, setup.folder / "second", SECOND_TEMPERATURE)
    one, two = version(setup.bundle), version(second)
    with MlflowServer(setup.folder / "mlflow") as server:
        checkout = checkout_of(setup.bundle, setup.folder / "trained")
        releases = Releases(checkout, setup.folder / "checkout", server)
        for bundle in (setup.bundle, second):
            await asyncio.to_thread(releases.register, bundle)
        await asyncio.to_thread(releases.promote, setup.bundle)
        registry = {"BUNDLE": PRODUCTION, "MLFLOW_TRACKING_URI": server.url}
        async with setup.replicas(**registry) as replicas:
            # Few clients: the promotion needs a processor, too.
            async with setup.clients(replicas, 2) as load:
                await load.predictions(setup.size.predictions)
                assert set(load.replies.models) == {one}
                for move, expected in (
                    (lambda: releases.promote(second), two),
                    (releases.roll_back, one),
                ):
                    await asyncio.to_thread(move)
                    await replicas.wait_for_model(expected)
                    await load.predictions(setup.size.predictions)
            await setup.all_sent()
    setup.assert_none_failed()
    assert load.replies.models == setup.stored_models()
    setup.note = (
        f"{load.replies.models[one]} predictions of {one}, {load.replies.models[two]} of {two}"
    )


Scenario = Callable[[Setup], Coroutine[None, None, None]]
SCENARIOS: dict[str, Scenario] = {
    "rolling restart": rolling_restart,
    "kill -9": replica_killed,
    "Redis stopped": redis_stopped,
    "promotion": promotion,
}
