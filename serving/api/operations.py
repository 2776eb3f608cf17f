"""The routes that an operator's tools call: liveness, readiness and metrics. They need no key."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from serving.api.routing import Json, classifier_of
from serving.api.schemas import HealthReply
from serving.model_manager import ModelManager

router = APIRouter()


@router.get("/healthz", response_model=HealthReply, responses={503: {"model": HealthReply}})
async def live(request: Request) -> Response:
    """Say whether the process works; if not, it must be restarted."""
    models: ModelManager = request.app.state.models
    return _health(None if models.alive else "an inference thread died or is stuck")


@router.get("/readyz", response_model=HealthReply, responses={503: {"model": HealthReply}})
async def ready(request: Request) -> Response:
    """Say whether to send requests here: golden scores reproduced, threads alive, log writable.

    Without its MongoDB, also before its first answer, the service is degraded: it answers, and
    predictions wait in the outbox. After SIGTERM this fails first, while requests are answered.
    """
    models: ModelManager = request.app.state.models
    log = classifier_of(request).log.stats()
    reason = models.not_ready or (None if models.alive else "an inference thread died or is stuck")
    if models.stopping:
        reason = "shutting down"
    if reason is None and not log.writable:
        reason = "the prediction log cannot be written"
    if reason is None and log.archive and not log.archive.reachable:
        reason = f"MongoDB {log.archive.state}; predictions wait in the outbox"
        return Json({"status": "degraded", "reason": reason})
    return _health(reason)


def _health(reason: str | None) -> Response:
    status = "ok" if reason is None else "failing"
    return Json({"status": status, "reason": reason}, 200 if reason is None else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    classifier = classifier_of(request)
    classifier.metrics.log(classifier.log.stats())
    content = classifier.metrics.render()
    return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")
