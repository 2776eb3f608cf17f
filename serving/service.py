"""The service: what every door's answer goes through, whatever shape it is asked in.

Checks the operator's limits on texts, asks the engine, notes what was answered. It knows no HTTP:
routes and dialects translate. A new model is one assignment to `engine`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Literal

from serving.batcher import Capacity, Priority
from serving.bundle import Bundle, Manifest
from serving.engine import Engine, Prediction
from serving.errors import Kind, ServiceError
from serving.ids import new_ids
from serving.metrics import Metrics
from serving.policy import Policy
from serving.prediction_log import PredictionLog
from serving.settings import Settings

Door = Literal["native", "perspective", "openai", "huggingface"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and through which door."""

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
        self.folder = bundle_folder(settings.bundle)
        self._engine: Engine | None = None
        self.active = 0  # requests in work

    @property
    def engine(self) -> Engine:
        """The engine that answers now; ServiceError before the start."""
        if self._engine is None:
            raise ServiceError(Kind.UNAVAILABLE, "It is starting.", retry_after=1)
        return self._engine

    @engine.setter
    def engine(self, engine: Engine) -> None:
        """Let another, started engine answer from now on."""
        self._engine = engine
        manifest = engine.bundle.manifest
        self.metrics.model(manifest, engine.policy.version, ready=engine.not_ready is None)

    @property
    def not_ready(self) -> str | None:
        """Why it does not answer; None if it does."""
        return "it is starting" if self._engine is None else self._engine.not_ready

    @property
    def alive(self) -> bool:
        """Whether it works, or will; if not, only a new process helps."""
        return self._engine is None or self._engine.alive

    def check_room(self) -> None:
        """Raise ServiceError or QueueFullError if a request that came now had better not wait."""
        if self.active >= self.settings.max_requests:
            message = "Too many requests are in work already."
            raise ServiceError(Kind.OVERLOADED, message, retry_after=1)
        self.engine.check()

    async def start(self) -> None:
        """Load bundle and policy and replay the golden scores; BundleError, PolicyError."""
        policy = Policy.load(self.settings.policy)
        # Each inference thread computes on its own: see batcher's measurements in the README.
        bundle = Bundle.load(self.folder, threads=1)
        engine = Engine(
            bundle,
            policy,
            self.metrics,
            Capacity(self._threads, self.settings.batch_tokens, self.settings.queue_seconds),
            cache_size=self.settings.cache_size,
        )
        await engine.start()
        self.engine = engine

    async def close(self) -> None:
        """Finish what was accepted."""
        if self._engine:
            await self._engine.close()

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
            caller: for the prediction log.
            store: whether the log keeps them.
            priority: unset, few texts go before many.
            field: names the nth text in an error.

        Raises:
            ServiceError: a text cannot be judged; none of them is.
            QueueFullError, BatcherDeadError: see `Engine.score`.
            LogError: the answer could not be kept, and so is not given.
        """
        self.check_texts(texts, field)
        engine = self.engine
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
