"""The service: what every door's answer goes through, whatever shape it is asked in.

Checks the operator's limits on texts, asks the engine, notes what was answered. It knows no HTTP:
routes and dialects translate.

A new model takes over between two requests: each keeps the engine that it began with, and an old
engine is closed once nobody has it any more.
"""

import asyncio
import gc
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from serving.batcher import Capacity, Priority
from serving.bundle import MANIFEST, Bundle, BundleError, Manifest, read_manifest
from serving.engine import Engine, Prediction
from serving.errors import Kind, ServiceError
from serving.ids import new_ids
from serving.metrics import Metrics
from serving.policy import Policy, PolicyError
from serving.prediction_log import PredictionLog
from serving.settings import Settings

PAPERS = ("MODEL_CARD.md", "metrics.json")
COLLECT_AFTER = 20_000  # new objects; at Python's 700 it is the requests that wait, never garbage
Door = Literal["native", "perspective", "openai", "huggingface"]

log = logging.getLogger("serving.service")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, through which door, and the engine that answers the whole of the request."""

    engine: Engine
    request_id: str
    client: str | None
    door: Door


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said, by which model; `ids` and `predictions` are parallel to the texts."""

    manifest: Manifest
    policy: str
    ids: list[str]
    predictions: list[Prediction]


class Service:
    """The engine that answers now, and what surrounds it."""

    def __init__(self, settings: Settings, *, threads: int, log: PredictionLog) -> None:
        """Make a service; `start` loads the model.

        Args:
            settings: the operator's.
            threads: inference threads of this process.
            log: keeps what is answered.
        """
        self.settings, self._threads, self.log = settings, threads, log
        self.metrics = Metrics()
        self.folder = bundle_folder(settings.bundle)  # of the bundle that answers
        self._engine: Engine | None = None
        self._seen: tuple[int, int] | None = None  # the manifest that was read last
        self._users: dict[Engine, int] = {}  # requests that have an engine
        self._reloading = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def engine(self) -> Engine:
        """The engine that answers new requests; ServiceError before the start."""
        if self._engine is None:
            raise ServiceError(Kind.UNAVAILABLE, "It is starting.", retry_after=1)
        return self._engine

    @property
    def active(self) -> int:
        """How many requests are in work."""
        return sum(self._users.values())

    @property
    def not_ready(self) -> str | None:
        """Why it does not answer; None if it does."""
        return "it is starting" if self._engine is None else self._engine.not_ready

    @property
    def alive(self) -> bool:
        """Whether it works, or will; if not, only a new process helps."""
        return self._engine is None or self._engine.alive

    def check_room(self, coming: int = 0) -> None:
        """Raise ServiceError or QueueFullError if a request that came now had better not wait.

        `coming` others have been let in and have not been entered yet.
        """
        if self.active + coming >= self.settings.max_requests:
            message = "Too many requests are in work already."
            raise ServiceError(Kind.OVERLOADED, message, retry_after=1)
        self.engine.check(coming=coming)

    def enter(self) -> Engine:
        """Count a request in; return the engine that it keeps until `leave`."""
        engine = self.engine
        self._users[engine] = self._users.get(engine, 0) + 1
        self.metrics.active.set(self.active)
        return engine

    def leave(self, engine: Engine) -> None:
        """Count a request out."""
        self._users[engine] -= 1
        if not self._users[engine]:
            del self._users[engine]
        self.metrics.active.set(self.active)

    async def papers(self) -> dict[str, Any]:
        """Return what answers: manifest and policy, and the card and figures that the pipeline
        writes beside the bundle, after it; None where none of this version lie there.
        """
        engine, folder = self.engine, self.folder
        manifest = engine.bundle.manifest
        card, figures = await asyncio.to_thread(
            lambda: [_paper(folder / name, manifest.version) for name in PAPERS]
        )
        return {
            "manifest": manifest.model_dump(),
            "policy": engine.policy.model_dump(),
            "card": card,
            "metrics": json.loads(figures) if figures else None,
        }

    async def start(self) -> None:
        """Load bundle and policy and replay the golden scores; BundleError, PolicyError."""
        folder = self._look()
        self._take_over(await self._load(folder), folder)
        # What is alive now stays. Else the collector walks through all of it again and again: a
        # twentieth of the throughput.
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)

    async def reload(self) -> Manifest:
        """Let the bundle and the policy that lie there now answer; return what answers then.

        Raises:
            ServiceError: they cannot; what answered before goes on.
        """
        async with self._reloading:
            old, folder = self.engine, self._look()
            try:
                same = read_manifest(folder).version == old.bundle.manifest.version
                if same and Policy.load(self.settings.policy) == old.policy:
                    return old.bundle.manifest
                engine = await self._load(folder)
            except (BundleError, PolicyError) as error:
                raise self._refused(str(error)) from None
            if why := engine.not_ready:
                await engine.close()
                raise self._refused(f"{folder}: {why}")
            self._take_over(engine, folder)
            self._retiring.add(task := asyncio.create_task(self._retire(old)))
            task.add_done_callback(self._retiring.discard)
            self.metrics.swap("done")
            log.info("now serving %s", engine.bundle.manifest.version)
            return engine.bundle.manifest

    def _refused(self, why: str) -> ServiceError:
        self.metrics.swap("refused")
        log.error("a new model is refused, the old one goes on: %s", why)
        return ServiceError(Kind.CONFLICT, f"The old model goes on: {why}.")

    async def watch(self) -> None:
        """Reload whenever the bundle's folder holds another one, until cancelled."""
        while self.settings.watch_seconds:
            await asyncio.sleep(self.settings.watch_seconds)
            found = _identity(bundle_folder(self.settings.bundle))
            if found not in (None, self._seen):  # none: it is just being exchanged
                with suppress(ServiceError):  # `reload` has logged it
                    await self.reload()

    async def close(self) -> None:
        """Finish what was accepted."""
        for engine in {*self._users, *([self._engine] if self._engine else [])}:
            await engine.close()

    def _look(self) -> Path:
        folder = bundle_folder(self.settings.bundle)
        self._seen = _identity(folder)  # before it is read: what comes meanwhile is new
        return folder.resolve()  # of a link, all of one bundle

    async def _load(self, folder: Path) -> Engine:
        policy = Policy.load(self.settings.policy)
        # Each inference thread computes alone, so that two batches at a time wait for no one; a
        # batch that is the only one has all of them.
        bundle = await asyncio.to_thread(Bundle.load, folder, threads=1, wide=self._threads)
        engine = Engine(
            bundle,
            policy,
            self.metrics,
            Capacity(self._threads, self.settings.batch_tokens, self.settings.queue_seconds),
            cache_size=self.settings.cache_size,
        )
        await engine.start()
        return engine

    def _take_over(self, engine: Engine, folder: Path) -> None:
        self._engine, self.folder = engine, folder
        ready = engine.not_ready is None
        self.metrics.model(engine.bundle.manifest, engine.policy.version, ready=ready)

    async def _retire(self, engine: Engine) -> None:
        while engine in self._users:
            await asyncio.sleep(0.05)
        await engine.close()

    async def answer(
        self,
        texts: Sequence[str],
        caller: Caller,
        *,
        store: bool = True,
        priority: Priority | None = None,
        field: Callable[[int], str] = "texts[{}]".format,
    ) -> Answer:
        """Judge texts.

        Args:
            texts: of one request.
            caller: for the prediction log; its engine judges.
            store: whether the log keeps them.
            priority: unset, few texts go before many.
            field: names the nth text in an error.

        Raises:
            ServiceError: a text cannot be judged; none of them is.
            QueueFullError, BatcherDeadError: see `Engine.score`.
            LogError: the answer could not be kept, and so is not given.
        """
        self.check_texts(texts, field)
        engine = caller.engine
        began = perf_counter()
        predictions = await engine.predict(texts, priority)
        judged = perf_counter()
        ids = new_ids(len(predictions))
        if store:
            common = {
                "request_id": caller.request_id,
                "ts": datetime.now(UTC),
                "model_version": engine.bundle.manifest.version,
                "policy_version": engine.policy.version,
                "latency_ms": round((judged - began) * 1000, 3),
                "client": caller.client,
                "door": caller.door,
            }
            await self.log.append(
                [
                    {
                        "_id": one,
                        "text": text,
                        "scores": row.scores,
                        "label": row.label,
                        "toxicity": row.toxicity,
                        "action": row.action,
                        **common,
                    }
                    for one, text, row in zip(ids, texts, predictions, strict=True)
                ]
            )
            self.metrics.stored(perf_counter() - judged)
        self.metrics.predicted(predictions, caller.door)
        return Answer(engine.bundle.manifest, engine.policy.version, ids, predictions)

    def check_texts(self, texts: Sequence[str], field: Callable[[int], str]) -> None:
        """Raise ServiceError if a request has no text, too many, or one that cannot be judged."""
        most, longest = self.settings.max_texts, self.settings.max_chars
        whole = field(0).partition("[")[0]
        if not texts:
            raise ServiceError(Kind.INVALID, "There is no text.", field=whole)
        if len(texts) > most:
            message = f"{len(texts)} texts are too many; at most {most}."
            raise ServiceError(Kind.TOO_LARGE, message, field=whole)
        for at, text in enumerate(texts):
            if len(text) > longest:
                message = f"{len(text)} characters are too many; at most {longest}."
                raise ServiceError(Kind.TOO_LARGE, message, field=field(at))
            if not text or text.isspace():
                raise ServiceError(Kind.INVALID, "The text is blank.", field=field(at))


def bundle_folder(wanted: Path | None) -> Path:
    """Return the folder to serve from: the wanted one, else production, else candidate."""
    if wanted:
        return wanted
    production = Path("models/production")
    return production if (production / "bundle.json").exists() else Path("models/candidate")


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells a bundle's manifest from another in its place; None if there is none."""
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _paper(path: Path, version: str) -> str | None:
    """Return what is written about a bundle; each paper names the version that it is about."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return text if version in text else None
