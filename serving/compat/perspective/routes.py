"""Perspective API's routes."""

import asyncio
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response

from serving.api.routing import (
    FastRoute,
    Json,
    caller_of,
    classifier_of,
    read_body,
    requires,
    truncation_headers,
)
from serving.classifier import Classification, Classifier
from serving.compat.perspective import batch as batch_format
from serving.compat.perspective import discovery as discovery_document
from serving.compat.perspective.errors import ERROR_FORMAT, TEXT
from serving.compat.perspective.fields import FieldMask
from serving.compat.perspective.schemas import (
    AnalyzeCommentRequest,
    AnalyzeCommentResponse,
    GoogleError,
    SuggestCommentScoreRequest,
    SuggestCommentScoreResponse,
)
from serving.compat.perspective.translate import Analysis, Attributes, Comment, Suggestion
from serving.errors import ErrorCode, ServiceError
from serving.settings import Settings

# Google's parameters for all its APIs. `key` is read by the middleware; those that are not read
# here cannot change what a reply says.
NAMES = ("alt", "fields", "key", "prettyPrint", "quotaUser")
QUERY = {*NAMES, *(f"${name}" for name in NAMES), "$.xgafv"}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": GoogleError} for status in (400, 403, 408, 429, 500, 503)
}

router = APIRouter(route_class=FastRoute, tags=["Perspective API"])


def configure(app: FastAPI, settings: Settings) -> None:
    """Load what is supported; SettingsError if the file cannot be used."""
    app.state.attributes = Attributes.load(settings.perspective)


@router.post(
    "/v1alpha1/comments:analyze",
    response_model=AnalyzeCommentResponse,
    response_model_exclude_unset=True,
    responses=ERRORS,
)
@requires("predict", error_format=ERROR_FORMAT)
async def analyze(request: Request, body: AnalyzeCommentRequest) -> Json:
    """Score a comment as Perspective API does."""
    mask = _read_query(request)
    classifier = classifier_of(request)
    caller = caller_of(request, "perspective")
    engine = caller.engine
    analysis = Analysis(body, request.app.state.attributes, engine.policy.languages)
    classifier.check_texts([analysis.comment.source], _field)
    spans = await asyncio.to_thread(analysis.spans, classifier.settings.max_texts)
    scored = []
    if body.span_annotations:
        # Before the comment, which is stored: a refused request must leave nothing in the log.
        texts = [analysis.comment.text[begin:end] for begin, end in spans]
        scored = await engine.predict(texts, deadline=caller.deadline)
    store = not body.do_not_store
    result = await _classify(request, classifier, analysis.comment, store=store)
    scores, language = result.predictions[0].attributes, result.predictions[0].language
    headers = truncation_headers([result.predictions[0].truncated])
    span_scores = [scores] * len(spans)
    if body.span_annotations:
        span_scores = [row.attributes for row in scored]
        headers |= truncation_headers((row.truncated for row in scored), "spans")
    content = analysis.reply(scores, spans, span_scores, language)
    return Json(mask.select(content), headers=headers)


@router.post(
    "/v1alpha1/comments:suggestscore",
    response_model=SuggestCommentScoreResponse,
    response_model_exclude_unset=True,
    responses=ERRORS,
)
@requires("feedback", error_format=ERROR_FORMAT)
async def suggest(request: Request, body: SuggestCommentScoreRequest) -> Any:
    """Classify a comment, and store the suggested scores as feedback on that prediction."""
    mask = _read_query(request)
    classifier = classifier_of(request)
    caller = caller_of(request, "perspective")
    languages = caller.engine.policy.languages
    suggestion = Suggestion(body, request.app.state.attributes, languages)
    result = await _classify(request, classifier, suggestion.comment, store=True)
    await classifier.log.feedback(
        result.ids[0], suggestion.label, suggestion.note, caller.client, suggestion.attributes
    )
    return mask.select(suggestion.reply())


def _read_query(request: Request) -> FieldMask:
    """Return which fields the reply shall have; ServiceError for what cannot be done."""
    for name, value in request.query_params.multi_items():
        if name not in QUERY:
            message = f'Unknown name "{name[:40]}": Cannot bind query parameter.'
            raise ServiceError(ErrorCode.BAD_REQUEST, message)
        if name in {"alt", "$alt"} and not value.startswith("json"):
            raise ServiceError(ErrorCode.BAD_REQUEST, "alt must be json")
    return FieldMask(request.query_params.get("fields") or request.query_params.get("$fields"))


@router.post("/batch", include_in_schema=False)
@router.post("/batch/commentanalyzer/v1alpha1", include_in_schema=False)
@requires(None, error_format=ERROR_FORMAT)
async def batch(request: Request) -> Response:
    """Answer several calls that come as the parts of one request."""
    content_type = request.headers.get("content-type", "")
    if not content_type.strip().lower().startswith("multipart/mixed"):
        message = "Content-Type must be multipart/mixed with a boundary"
        raise ServiceError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)
    limit = classifier_of(request).settings.max_texts
    body = await read_body(request)
    calls = await asyncio.to_thread(batch_format.parse, content_type, body, limit)
    replies = await batch_format.answer(request.app, request.scope, calls)
    content_type, content = batch_format.render(calls, replies)
    return Response(content, media_type=content_type)


async def _classify(
    request: Request, classifier: Classifier, comment: Comment, *, store: bool
) -> Classification:
    # Before markup is removed, because that takes time in proportion to the length.
    classifier.check_texts([comment.source], _field)
    caller = caller_of(request, "perspective")
    return await classifier.classify([comment.text], caller, store=store, field=_field)


def _field(_: int) -> str:
    return TEXT


@router.get("/$discovery/rest", include_in_schema=False)
async def discovery(request: Request) -> Json:
    """Return the discovery document of this host."""
    public_url = classifier_of(request).settings.public_url
    return Json(discovery_document.document(discovery_document.root_url(request, public_url)))
