"""The classifier: every API's requests go through here, whatever shape they have.

    texts -> check_texts -> engine.predict -> prediction log (durable) -> Classification

It knows no HTTP: the routes translate. Each prediction becomes one frozen `PredictionRecord`, which
goes through the outbox to MongoDB.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter

from serving.bundle import Manifest
from serving.errors import ErrorCode, ServiceError
from serving.ids import new_ids
from serving.inference.engine import Engine, Prediction
from serving.observability.metrics import Metrics
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.records import PredictionRecord
from serving.settings import Settings


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, through which API, and the engine that answers all of it.

    `deadline` is when an answer is of no use any more, in the event loop's time; None: never.
    """

    engine: Engine
    request_id: str
    client: str | None
    api: str
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Classification:
    """The predictions of a request and their model; `ids` and `predictions` follow the texts."""

    manifest: Manifest
    policy: str
    ids: list[str]
    predictions: list[Prediction]


class Classifier:
    """Classifies texts within the operator's limits, and logs every prediction."""

    def __init__(self, settings: Settings, metrics: Metrics, log: PredictionLog) -> None:
        self.settings, self.metrics, self.log = settings, metrics, log

    async def classify(
        self,
        texts: Sequence[str],
        caller: Caller,
        *,
        store: bool = True,
        field: Callable[[int], str] = "texts[{}]".format,
    ) -> Classification:
        """Classify texts.

        Args:
            texts: of one request.
            caller: its engine classifies; the log keeps its name.
            store: whether the log keeps the predictions.
            field: returns the name of the i-th text in an error.

        Raises:
            ServiceError: a text cannot be classified; none of them is.
            QueueFullError, DeadlineError, BatcherDeadError: see `Engine.score`.
            LogError: the predictions could not be stored, and so are not returned.
        """
        self.check_texts(texts, field)
        engine = caller.engine
        started = perf_counter()
        predictions = await engine.predict(texts, deadline=caller.deadline)
        predicted = perf_counter()
        ids = new_ids(len(predictions))
        if store:
            latency_ms = round((predicted - started) * 1000, 3)
            await self._store(ids, texts, predictions, caller, latency_ms)
            self.metrics.stored(perf_counter() - predicted)
        self.metrics.predicted(predictions, caller.api)
        return Classification(engine.bundle.manifest, engine.policy.version, ids, predictions)

    async def _store(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        predictions: Sequence[Prediction],
        caller: Caller,
        latency_ms: float,
    ) -> None:
        now, engine = datetime.now(UTC), caller.engine
        records = [
            PredictionRecord(
                id=prediction_id,
                request_id=caller.request_id,
                ts=now,
                text=text,
                scores=prediction.scores,
                attributes=prediction.attributes,
                label=prediction.label,
                toxicity=prediction.toxicity,
                action=prediction.action,
                language=prediction.language,
                model_version=engine.bundle.manifest.version,
                policy_version=engine.policy.version,
                latency_ms=latency_ms,
                client=caller.client,
                api=caller.api,
            )
            for prediction_id, text, prediction in zip(ids, texts, predictions, strict=True)
        ]
        await self.log.append(records)

    def check_texts(self, texts: Sequence[str], field: Callable[[int], str]) -> None:
        """Raise ServiceError for no texts, too many, or one that is blank or too long."""
        max_texts, max_chars = self.settings.max_texts, self.settings.max_chars
        whole = field(0).partition("[")[0]
        if not texts:
            raise ServiceError(ErrorCode.INVALID, f"`{whole}` must not be empty", field=whole)
        if len(texts) > max_texts:
            message = f"{len(texts)} texts are too many; the limit is {max_texts}"
            raise ServiceError(ErrorCode.TOO_LARGE, message, field=whole)
        for i, text in enumerate(texts):
            if len(text) > max_chars:
                message = f"{len(text)} characters are too many; the limit is {max_chars}"
                raise ServiceError(ErrorCode.TOO_LARGE, message, field=field(i))
            if not text or text.isspace():
                raise ServiceError(ErrorCode.INVALID, "The text must not be blank", field=field(i))
