"""The routes under /v1: read a request, call the classifier or the log, shape a reply."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from serving.api.routing import FastRoute, Json, caller_of, classifier_of, requires
from serving.api.schemas import (
    ErrorReply,
    ExplainReply,
    ExplainRequest,
    FeedbackReply,
    FeedbackRequest,
    ModelReply,
    PredictReply,
    PredictRequest,
    ReloadReply,
    StoredPrediction,
)
from serving.errors import ErrorCode, ServiceError
from serving.explain import html
from serving.explain.explainer import Explainer, ExplainParams
from serving.model_manager import ModelManager

Responses = dict[int | str, dict[str, Any]]

ERRORS: Responses = {
    400: {"model": ErrorReply, "description": "The body is not valid JSON"},
    401: {"model": ErrorReply, "description": "Missing or unknown API key"},
    403: {"model": ErrorReply, "description": "The key lacks the scope"},
    408: {"model": ErrorReply, "description": "The body did not arrive in time"},
    413: {"model": ErrorReply, "description": "Too many bytes, texts or characters"},
    415: {"model": ErrorReply, "description": "Content-Type is not application/json"},
    422: {"model": ErrorReply, "description": "A value is invalid; `field` names it"},
    429: {"model": ErrorReply, "description": "Over a limit; see Retry-After"},
    503: {"model": ErrorReply, "description": "Not ready"},
}
GET_ERRORS: Responses = {status: ERRORS[status] for status in (401, 403, 429, 503)}
NOT_FOUND: Responses = {404: {"model": ErrorReply, "description": "Unknown prediction"}}
HTML: Responses = {200: {"content": {"text/html": {"schema": {"type": "string"}}}}}
CONFLICT: Responses = {
    409: {"model": ErrorReply, "description": "It cannot be served; the old model stays active"}
}

router = APIRouter(prefix="/v1", route_class=FastRoute)


@router.post("/predict", response_model=PredictReply, responses=ERRORS)
@requires("predict")
async def predict(request: Request, body: PredictRequest) -> dict[str, Any]:
    """Classify texts: label, calibrated scores, attributes, toxicity band and action of each."""
    caller, classifier = caller_of(request, "native"), classifier_of(request)
    result = await classifier.classify(body.texts, caller, store=not body.do_not_store)
    return {
        "id": caller.request_id,
        "model": {"name": result.manifest.name, "version": result.manifest.version},
        "policy": result.policy,
        "predictions": [
            {"id": prediction_id, **prediction.as_dict()}
            for prediction_id, prediction in zip(result.ids, result.predictions, strict=True)
        ],
    }


@router.post("/explain", response_model=ExplainReply, responses=ERRORS | HTML)
@requires("predict")
async def explain(request: Request, body: ExplainRequest) -> dict[str, Any] | Response:
    """Say how much each word speaks for a label or an attribute (LIME).

    `Accept: text/html` returns a page.
    """
    classifier_of(request).check_texts([body.text], lambda _: "text")
    explainer: Explainer = request.app.state.explainer
    caller = caller_of(request, "native")
    # What is null has ExplainParams' own default.
    explanation = await explainer.explain(
        caller.engine, ExplainParams(**body.model_dump(exclude_none=True)), caller.deadline
    )
    accepted = request.headers.get("accept", "")
    if "text/html" in accepted and "application/json" not in accepted:
        page = await asyncio.to_thread(html.render, explanation, body.text)
        headers = {"content-security-policy": page.policy}
        return Response(page.html, media_type="text/html; charset=utf-8", headers=headers)
    return explanation.as_dict()


@router.post("/feedback", response_model=FeedbackReply, responses=ERRORS | NOT_FOUND)
@requires("feedback")
async def feedback(request: Request, body: FeedbackRequest) -> dict[str, str]:
    """Store the label that a person says is right; the next model can learn from it."""
    client = caller_of(request, "native").client
    log = classifier_of(request).log
    feedback_id = await log.feedback(body.prediction_id, body.label, body.comment, client)
    if feedback_id is None:
        raise unknown_prediction()
    return {"id": feedback_id}


@router.get(
    "/predictions/{prediction_id}",
    response_model=StoredPrediction,
    response_model_exclude_unset=True,
    responses=GET_ERRORS | NOT_FOUND,
)
@requires("admin")
async def stored_prediction(request: Request, prediction_id: str) -> dict[str, Any]:
    """Return a prediction as it was given, for audit and appeal."""
    document = await classifier_of(request).log.get(prediction_id)
    if document is None:
        raise unknown_prediction()
    return {"id": document.pop("_id"), **document}


@router.delete("/predictions/{prediction_id}", status_code=204, responses=GET_ERRORS | NOT_FOUND)
@requires("admin")
async def erase_prediction(request: Request, prediction_id: str) -> None:
    """Erase a prediction, its feedback and its reviews."""
    if not await classifier_of(request).log.delete(prediction_id):
        raise unknown_prediction()


def unknown_prediction() -> ServiceError:
    """Return the error for an id that the log does not know, or that is erased."""
    return ServiceError(ErrorCode.NOT_FOUND, "Unknown prediction", field="prediction_id")


@router.get("/model", response_model=ModelReply, responses=GET_ERRORS)
@requires("predict")
async def model(request: Request) -> Json:
    """Return manifest, policy, model card and metrics of the model that answers."""
    models: ModelManager = request.app.state.models
    return Json(await models.model_info())


@router.post("/model/reload", response_model=ReloadReply, responses=GET_ERRORS | CONFLICT)
@requires("admin")
async def reload(request: Request) -> dict[str, Any]:
    """Serve the bundle and the policy that are on the disk now; SIGHUP does the same."""
    models: ModelManager = request.app.state.models
    manifest = await models.reload()
    return {"model": {"name": manifest.name, "version": manifest.version}}
