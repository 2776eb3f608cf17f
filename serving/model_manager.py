"""The model manager: which engine answers, and how a new model takes over.

    start -> engine -> reload (watch, SIGHUP, POST /v1/model/reload) -> new engine
                                                                     -> old engine: retired

A request keeps the engine that it entered with; a replaced engine is closed once no request has it
any more. This module also knows how many requests are active, and so whether another one may enter.
"""

import asyncio
import gc
import json
import logging
import sys
from pathlib import Path
from typing import Any

from serving.bundle import MANIFEST, Bundle, BundleError, Manifest, read_manifest
from serving.errors import ErrorCode, ServiceError
from serving.inference import language
from serving.inference.batcher import Capacity
from serving.inference.engine import Engine
from serving.inference.policy import Policy
from serving.observability.metrics import Metrics
from serving.remote_bundle import remote_bundle
from serving.settings import SHIPPED_BUNDLE, Settings, SettingsError, shipped

DOCUMENTS = ("MODEL_CARD.md", "metrics.json")
# New objects before a garbage collection. At Python's 700, requests wait for collections that find
# no garbage.
COLLECT_AFTER = 20_000
SWITCH_S = 0.0005  # how long a thread may keep the interpreter from others that wait for it

log = logging.getLogger("serving.model")


class ModelManager:
    """Loads, replaces and closes engines, and counts the requests that use them."""

    def __init__(self, settings: Settings, metrics: Metrics, *, threads: int) -> None:
        """Create a manager; `start` loads the model.

        Args:
            settings: bundle, policy and limits.
            metrics: the app's.
            threads: inference threads of this process.
        """
        self._settings, self._metrics, self._threads = settings, metrics, threads
        self._remote = remote_bundle(settings)
        self.folder = Path()  # of the bundle that answers
        self._watched = self.folder  # the same, before links are followed
        self._engine: Engine | None = None
        self._seen: tuple[int, int] | None = None  # identity of the manifest that was read last
        self._users: dict[Engine, int] = {}  # active requests of each engine
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[Manifest]] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self.stopping = False  # SIGTERM came: clients shall use another replica

    @property
    def engine(self) -> Engine:
        """The engine for new requests; ServiceError before the start."""
        if self._engine is None:
            raise ServiceError(ErrorCode.UNAVAILABLE, "Starting, retry later", retry_after=1)
        return self._engine

    @property
    def active(self) -> int:
        """Number of active requests."""
        return sum(self._users.values())

    @property
    def not_ready(self) -> str | None:
        """Why no request can be answered; None if requests can."""
        return "the model is loading" if self._engine is None else self._engine.not_ready

    @property
    def alive(self) -> bool:
        """Whether the process works or is still starting; if not, restart it."""
        return self._engine is None or self._engine.alive

    def check_capacity(self, pending: int = 0) -> None:
        """Raise ServiceError or QueueFullError if a new request would wait too long.

        `pending` requests have been admitted before it and have not entered yet.
        """
        if self.active + pending >= self._settings.max_concurrent_requests:
            message = "Too many concurrent requests, retry later"
            raise ServiceError(ErrorCode.OVERLOADED, message, retry_after=1)
        self.engine.check_capacity(pending=pending)

    def enter(self) -> Engine:
        """Count a request in; return the engine that it uses until `leave`."""
        engine = self.engine
        self._users[engine] = self._users.get(engine, 0) + 1
        self._metrics.active.set(self.active)
        return engine

    def leave(self, engine: Engine) -> None:
        """Count a request out."""
        self._users[engine] -= 1
        if not self._users[engine]:
            del self._users[engine]
        self._metrics.active.set(self.active)

    async def model_info(self) -> dict[str, Any]:
        """Return the description of the model that answers; see `describe`."""
        engine = self.engine
        return await asyncio.to_thread(describe, self.folder, engine.bundle.manifest, engine.policy)

    async def start(self) -> None:
        """Load bundle and policy and replay the golden scores; BundleError, SettingsError."""
        folder = await self._locate_first()
        reachable = self._remote is None or self._remote.is_reachable
        self._metrics.bundle_source(reachable=reachable)
        engine, _ = await asyncio.gather(self._load(folder), asyncio.to_thread(language.load))
        self._activate(engine, folder)
        # Objects that are alive now stay alive. Without this the collector walks through all of
        # them again and again: a twentieth of the throughput.
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)
        # An inference thread waits for the event loop, and the loop for it, up to this long. With
        # Python's 5 ms an overloaded service answers a twentieth less; see docs/experiments.md.
        sys.setswitchinterval(SWITCH_S)

    async def reload(self) -> Manifest:
        """Serve the bundle and the policy that are on the disk now; return the active manifest.

        It goes on if the caller is cancelled: the bundle counts as seen, and `watch` would not load
        it later.

        Raises:
            ServiceError: they cannot be served; the old model stays active.
        """
        self._reloads.add(task := asyncio.create_task(self._reload()))
        task.add_done_callback(self._finish_reload)
        return await asyncio.shield(task)

    def _finish_reload(self, task: asyncio.Task[Manifest]) -> None:
        self._reloads.discard(task)
        error = None if task.cancelled() else task.exception()
        if error and not isinstance(error, ServiceError):  # which has been logged
            log.error("a reload failed: %s", type(error).__name__)  # perhaps nobody waits for it

    async def _reload(self) -> Manifest:
        async with self._reloading:
            old = self.engine
            try:
                folder = await self._locate()
                same = read_manifest(folder).version == old.bundle.manifest.version
                if same and Policy.load(self._settings.policy) == old.policy:
                    return old.bundle.manifest
                engine = await self._load(folder)
            except (BundleError, SettingsError) as error:
                raise self._refused(str(error)) from None
            if reason := engine.not_ready:
                await engine.close()
                raise self._refused(f"{folder}: {reason}")
            self._activate(engine, folder)
            self._retiring.add(task := asyncio.create_task(self._retire(old)))
            task.add_done_callback(self._retiring.discard)
            self._metrics.model_reloaded("done")
            log.info("serving model %s now", engine.bundle.manifest.version)
            return engine.bundle.manifest

    def _refused(self, reason: str) -> ServiceError:
        self._metrics.model_reloaded("refused")
        log.error("new model refused, the old one stays active: %s", reason)
        return ServiceError(ErrorCode.CONFLICT, f"The old model stays active: {reason}")

    async def watch(self) -> None:
        """Reload whenever the bundle's folder holds another bundle, until cancelled."""
        while self._settings.watch_seconds:
            await asyncio.sleep(self._settings.watch_seconds)
            try:
                if await self._has_changed():
                    await self.reload()
            except ServiceError:
                pass  # `reload` has logged it
            except Exception as error:  # if the task ended, no new model would be served
                log.exception("watching the bundle failed with %s", type(error).__name__)

    async def _has_changed(self) -> bool:
        if self._remote:
            has_changed = await asyncio.to_thread(self._remote.has_changed)
            self._metrics.bundle_source(reachable=self._remote.is_reachable)
            return has_changed
        if _identity(self._watched) is None:  # it is being replaced right now
            return False
        return _identity(local_folder(self._settings)) not in (None, self._seen)

    async def close(self) -> None:
        """Finish the accepted requests and stop all engines."""
        for task in self._reloads:
            task.cancel()
        await asyncio.gather(*self._reloads, return_exceptions=True)
        if self._remote:
            self._remote.close()
        for engine in {*self._users, *([self._engine] if self._engine else [])}:
            await engine.close()

    async def _locate_first(self) -> Path:
        if self._remote:
            return await asyncio.to_thread(self._remote.newest_or_cached)
        return await self._locate()

    async def _locate(self) -> Path:
        if self._remote:
            return await asyncio.to_thread(self._remote.newest)
        folder = self._watched = local_folder(self._settings)
        self._seen = _identity(folder)  # before it is read: a later change is a new bundle
        return folder.resolve()  # behind a link, all files come from one bundle

    async def _load(self, folder: Path) -> Engine:
        policy = Policy.load(self._settings.policy)
        # Each inference thread computes alone, so that two batches at a time do not wait for each
        # other; a batch that is the only one uses all threads.
        bundle = await asyncio.to_thread(
            Bundle.load, folder, threads=1, parallel_threads=self._threads
        )
        settings = self._settings
        engine = Engine(
            bundle,
            policy,
            self._metrics,
            Capacity(self._threads, settings.batch_tokens, settings.max_queue_seconds),
            cache_size=settings.cache_size,
            trace=self._metrics.tracing.context if self._metrics.tracing else None,
        )
        try:
            await engine.start()
        except BaseException:  # its threads run already
            await engine.close()
            raise
        return engine

    def _activate(self, engine: Engine, folder: Path) -> None:
        self._engine, self.folder = engine, folder
        ready = engine.not_ready is None
        self._metrics.model(engine.bundle.manifest, engine.policy.version, ready=ready)
        if self._remote and ready:
            self._remote.keep(folder)

    async def _retire(self, engine: Engine) -> None:
        while engine in self._users:
            await asyncio.sleep(0.05)
        await engine.close()


def bundle_folder(settings: Settings) -> Path:
    """Return the folder to serve from; a bundle that is elsewhere is fetched into the cache.

    Raises:
        BundleError: it can neither be fetched nor is it in the cache.
        SettingsError: a package or an address that fetching needs is missing.
    """
    remote = remote_bundle(settings)
    return remote.newest_or_cached() if remote else local_folder(settings)


def local_folder(settings: Settings) -> Path:
    """Return the folder that is configured, else production or the candidate in the working
    directory, else the model that the project ships.
    """
    if isinstance(settings.bundle, Path):
        return settings.bundle
    made = (Path("models/production"), Path("models/candidate"))
    here = [folder for folder in made if (folder / MANIFEST).exists()]
    return here[0] if here else shipped(SHIPPED_BUNDLE)


def describe(folder: Path, manifest: Manifest, policy: Policy) -> dict[str, Any]:
    """Return manifest, policy, model card and metrics of a bundle.

    The pipeline writes card and metrics after the bundle: each is None if the file is missing or is
    about another version.
    """
    card, metrics = (_document(folder / name, manifest.version) for name in DOCUMENTS)
    return {
        "manifest": manifest.model_dump(),
        "policy": policy.model_dump(),
        "card": card,
        "metrics": json.loads(metrics) if metrics else None,
    }


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells a bundle's manifest from its successor in the same place."""
    try:
        status = (folder / MANIFEST).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _document(path: Path, version: str) -> str | None:
    """Return a document about a bundle; each one names the version that it is about."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return text if version in text else None
