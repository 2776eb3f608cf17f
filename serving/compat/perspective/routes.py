"""Perspective API's routes."""

from typing import Any

from fastapi import APIRouter, FastAPI, Request

from serving.api.routing import FastRoute, Json, caller_of, classifier_of, requires
from serving.classifier import Classification, Classifier
from serving.compat.perspective import discovery as discovery_document
from serving.compat.perspective.errors import TEXT, render_error
from serving.compat.perspective.schemas import (
    AnalyzeCommentRequest,
    AnalyzeCommentResponse,
    GoogleError,
    SuggestCommentScoreRequest,
    SuggestCommentScoreResponse,
)
from serving.compat.perspective.translate import Analysis, Attributes, Comment, Suggestion
from serving.errors import ErrorFormat
from serving.settings import Settings

ERROR_FORMAT = ErrorFormat(render_error, key_in_query=True)
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
async def analyze(request: Request, body: AnalyzeCommentRequest) -> dict[str, Any]:
    """Score a comment as Perspective API does."""
    classifier = classifier_of(request)
    engine = caller_of(request, "perspective").engine
    analysis = Analysis(body, request.app.state.attributes, engine.policy.languages)
    store = not body.do_not_store
    result = await _classify(request, classifier, analysis.comment, store=store)
    scores, language = result.predictions[0].attributes, result.predictions[0].language
    spans = analysis.spans(classifier.settings.max_texts)
    span_scores = [scores] * len(spans)
    if body.span_annotations:
        texts = [analysis.comment.text[begin:end] for begin, end in spans]
        span_scores = [scored.attributes for scored in await engine.score(texts)]
    return analysis.reply(scores, spans, span_scores, language)


@router.post(
    "/v1alpha1/comments:suggestscore",
    response_model=SuggestCommentScoreResponse,
    response_model_exclude_unset=True,
    responses=ERRORS,
)
@requires("feedback", error_format=ERROR_FORMAT)
async def suggest(request: Request, body: SuggestCommentScoreRequest) -> dict[str, Any]:
    """Classify a comment, and store the suggested scores as feedback on that prediction."""
    classifier = classifier_of(request)
    caller = caller_of(request, "perspective")
    languages = caller.engine.policy.languages
    suggestion = Suggestion(body, request.app.state.attributes, languages)
    result = await _classify(request, classifier, suggestion.comment, store=True)
    await classifier.log.feedback(
        result.ids[0], suggestion.label, suggestion.note, caller.client, suggestion.attributes
    )
    return suggestion.reply()


async def _classify(
    request: Request, classifier: Classifier, comment: Comment, *, store: bool
) -> Classification:
    def field(_: int) -> str:
        return TEXT

    # Before markup is removed, because that takes time in proportion to the length.
    classifier.check_texts([comment.source], field)
    caller = caller_of(request, "perspective")
    return await classifier.classify([comment.text], caller, store=store, field=field)


@router.get("/$discovery/rest", include_in_schema=False)
async def discovery(request: Request) -> Json:
    """Return the discovery document of this host."""
    public_url = classifier_of(request).settings.public_url
    return Json(discovery_document.document(discovery_document.root_url(request, public_url)))
