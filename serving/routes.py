"""The routes: each reads a request, asks the service, and writes a reply. No logic lives here."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import lime_page
from serving.errors import Kind, ServiceError
from serving.explain import Explainer, Question
from serving.keys import Right
from serving.schemas import (
    ErrorReply,
    ExplainReply,
    ExplainRequest,
    FeedbackReply,
    FeedbackRequest,
    HealthReply,
    ModelReply,
    PredictReply,
    PredictRequest,
    ReloadReply,
    StoredPrediction,
)
from serving.service import Caller, Door, Service

RIGHTS: dict[str, Right] = {
    "/v1/predict": "predict",
    "/v1/explain": "predict",
    "/v1/model": "predict",
    "/v1/feedback": "feedback",
    "/v1/model/reload": "admin",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "The body is not JSON"},
    401: {"model": ErrorReply, "description": "No valid key"},
    403: {"model": ErrorReply, "description": "The key lacks the right"},
    408: {"model": ErrorReply, "description": "The body took too long to come"},
    413: {"model": ErrorReply, "description": "Too many bytes, texts or characters"},
    415: {"model": ErrorReply, "description": "The body is not called JSON"},
    422: {"model": ErrorReply, "description": "A value cannot be used; `field` names it"},
    429: {"model": ErrorReply, "description": "Over a limit; see Retry-After"},
    503: {"model": ErrorReply, "description": "Not ready"},
}
GET_ERRORS: dict[int | str, dict[str, Any]] = {
    status: ERRORS[status] for status in (401, 403, 429, 503)
}
UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorReply, "description": "The log has no such prediction"}
}


class Json(Response):
    """A reply of bytes or of what orjson can write."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return content if isinstance(content, bytes) else orjson.dumps(content)


class LeanRoute(APIRoute):
    """A route whose endpoint takes `(request, body)`: the body is read once, by pydantic, from
    bytes. FastAPI's own way costs 35 µs more a request; the document is the same.
    """

    async def direct(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for this path, past FastAPI's routers and handlers of exceptions: their
        ten coroutines take a third of the event loop's time, for what these routes do not have.
        """
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        if self.body_field is None:
            return super().get_route_handler()
        adapter: TypeAdapter[Any] = TypeAdapter(self.body_field.field_info.annotation or Any)
        endpoint = self.dependant.call
        assert endpoint is not None

        async def answer(request: Request) -> Response:
            kind = request.headers.get("content-type", "application/json").partition(";")[0]
            if kind.strip().lower() != "application/json":
                message = "The content type must be application/json."
                raise ServiceError(Kind.UNSUPPORTED_MEDIA_TYPE, message)
            body = adapter.validate_json(await request.body())
            reply = await endpoint(request, body)
            return reply if isinstance(reply, Response) else Json(reply)

        self._answer = answer
        return answer


def direct(*routers: APIRouter) -> dict[str, ASGIApp]:
    """Return what answers a POST, by path."""
    routes = (route for router in routers for route in router.routes)
    lean = (route for route in routes if isinstance(route, LeanRoute) and route.body_field)
    return {route.path: route.direct for route in lean}


api = APIRouter(route_class=LeanRoute)
pages = APIRouter()


def service_of(request: Request) -> Service:
    """Return the app's service."""
    service: Service = request.app.state.service
    return service


def caller_of(request: Request, door: Door) -> Caller:
    """Return who asks."""
    state = request.scope["state"]
    return Caller(state["engine"], state["request_id"], state.get("client"), door)


def right_of(path: str) -> Right | None:
    """Return what a path asks for; None: it is open to all."""
    return "admin" if path.startswith("/v1/predictions/") else RIGHTS.get(path)


@api.post("/v1/predict", response_model=PredictReply, responses=ERRORS)
async def predict(request: Request, body: PredictRequest) -> dict[str, Any]:
    """Judge texts: label, calibrated scores, toxicity band and action of each."""
    caller = caller_of(request, "native")
    answer = await service_of(request).answer(body.texts, caller, store=not body.do_not_store)
    return {
        "id": caller.request_id,
        "model": {"name": answer.manifest.name, "version": answer.manifest.version},
        "policy": answer.policy,
        "predictions": [
            {
                "id": prediction_id,
                "label": row.label,
                "scores": row.scores,
                "toxicity": row.toxicity,
                "action": row.action,
                "truncated": row.truncated,
                "warnings": row.warnings,
            }
            for prediction_id, row in zip(answer.ids, answer.predictions, strict=True)
        ],
    }


@api.post(
    "/v1/explain",
    response_model=ExplainReply,
    responses=ERRORS | {200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
async def explain(request: Request, body: ExplainRequest) -> dict[str, Any] | Response:
    """Say which words speak for a label, and how much (LIME); `Accept: text/html` gives a page."""
    service = service_of(request)
    service.check_texts([body.text], lambda _: "text")
    explainer: Explainer = request.app.state.explainer
    engine = caller_of(request, "native").engine
    found = await explainer.explain(engine, Question(**body.model_dump()))
    accepted = request.headers.get("accept", "")
    if "text/html" in accepted and "application/json" not in accepted:
        page = await asyncio.to_thread(lime_page.render, found, body.text)
        policy = {"content-security-policy": page.policy}
        return Response(page.html, media_type="text/html; charset=utf-8", headers=policy)
    return {
        "label": found.label,
        "words": [
            {
                "word": row.word.text,
                "weight": row.weight,
                "begin": row.word.begin,
                "end": row.word.end,
            }
            for row in found.weights
        ],
        "r2": found.r2,
        "scores_used": found.scores_used,
        "exact": found.exact,
        "seed": found.seed,
        "model": {"name": found.model[0], "version": found.model[1]},
    }


@api.post("/v1/feedback", response_model=FeedbackReply, responses=ERRORS | UNKNOWN)
async def feedback(request: Request, body: FeedbackRequest) -> dict[str, str]:
    """Keep what a person says of a prediction: the next model can learn from it."""
    client = caller_of(request, "native").client
    log = service_of(request).log
    kept = await log.feedback(body.prediction_id, body.label, body.comment, client)
    if kept is None:
        raise unknown_prediction()
    return {"id": kept}


@pages.get(
    "/v1/predictions/{prediction_id}",
    response_model=StoredPrediction,
    response_model_exclude_unset=True,
    responses=GET_ERRORS | UNKNOWN,
)
async def stored_prediction(request: Request, prediction_id: str) -> dict[str, Any]:
    """Return a prediction as it was given: for audit and appeal."""
    found = await service_of(request).log.get(prediction_id)
    if found is None:
        raise unknown_prediction()
    return {"id": found.pop("_id"), **found}


@pages.delete("/v1/predictions/{prediction_id}", status_code=204, responses=GET_ERRORS | UNKNOWN)
async def erase_prediction(request: Request, prediction_id: str) -> None:
    """Erase a prediction and its feedback."""
    if not await service_of(request).log.delete(prediction_id):
        raise unknown_prediction()


def unknown_prediction() -> ServiceError:
    """Return the error of an id that the log does not have."""
    return ServiceError(Kind.NOT_FOUND, "The log has no such prediction.", field="prediction_id")


@pages.get("/v1/model", response_model=ModelReply, responses=GET_ERRORS)
async def model(request: Request) -> Json:
    """Say what is being served: manifest, policy, model card and its figures."""
    return Json(await service_of(request).papers())


@pages.post(
    "/v1/model/reload",
    response_model=ReloadReply,
    responses=GET_ERRORS
    | {409: {"model": ErrorReply, "description": "It cannot be served; the old one goes on"}},
)
async def reload(request: Request) -> dict[str, Any]:
    """Serve the bundle and the policy that lie on the disk now; SIGHUP does the same."""
    manifest = await service_of(request).reload()
    return {"model": {"name": manifest.name, "version": manifest.version}}


@pages.get("/healthz", response_model=HealthReply, responses={503: {"model": HealthReply}})
async def live(request: Request) -> Response:
    """Say whether the process works; if not, restart it."""
    dead = not service_of(request).alive
    return _health("an inference thread died or is stuck" if dead else None)


@pages.get("/readyz", response_model=HealthReply, responses={503: {"model": HealthReply}})
async def ready(request: Request) -> Response:
    """Say whether it answers: golden scores replayed, threads alive, predictions kept.

    Without its MongoDB it is degraded: it answers, and predictions wait in the outbox.
    """
    service = service_of(request)
    log = service.log.stats()
    reason = service.not_ready or (None if service.alive else "it does not live")
    if reason is None and not log.writable:
        reason = "the prediction log cannot be written"
    if reason is None and log.archive and not log.archive.reachable:
        reason = "MongoDB does not answer; predictions wait in the outbox"
        return Json({"status": "degraded", "reason": reason})
    return _health(reason)


def _health(reason: str | None) -> Response:
    status = "ok" if reason is None else "failing"
    return Json({"status": status, "reason": reason}, 200 if reason is None else 503)


@pages.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    service = service_of(request)
    service.metrics.log(service.log.stats())
    return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
