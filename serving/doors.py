"""The doors: routes that speak other services' dialects. Each translates and asks the service.

    /v1alpha1/comments:analyze, :suggestscore, /$discovery/rest    Perspective API
    /v1/moderations                                                OpenAI
    /predict                                                       Hugging Face

What is scored, limited and logged, and how, is the service's and the gate's to know, as for
`/v1/predict`; the numbers are the same.
"""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from serving import (
    huggingface,
    moderations,
    perspective,
    perspective_discovery,
    perspective_errors,
    routes,
)
from serving.errors import Kind, ServiceError
from serving.gate import Dialect
from serving.huggingface import HuggingFaceError, HuggingFaceRequest, LabelScore
from serving.keys import Right
from serving.moderations import ModerationReply, ModerationRequest, OpenAIError
from serving.perspective_schemas import (
    AnalyzeReply,
    AnalyzeRequest,
    GoogleError,
    SuggestReply,
    SuggestRequest,
)
from serving.routes import Json, LeanRoute, caller_of, service_of
from serving.service import Answer, Service

ANALYZE, SUGGEST = "/v1alpha1/comments:analyze", "/v1alpha1/comments:suggestscore"
MODERATIONS, PREDICT = "/v1/moderations", "/predict"

RIGHTS: dict[str, Right] = {
    ANALYZE: "predict",
    SUGGEST: "feedback",
    MODERATIONS: "predict",
    PREDICT: "predict",
}
GOOGLES = Dialect(perspective_errors.envelope, key_in_query=True)
DIALECTS = {
    ANALYZE: GOOGLES,
    SUGGEST: GOOGLES,
    MODERATIONS: Dialect(moderations.envelope),
    PREDICT: Dialect(huggingface.envelope),
}

api = APIRouter(route_class=LeanRoute, tags=["other services' clients"])


def right_of(path: str) -> Right | None:
    """Return what a path asks for, ours and theirs; None: it is open to all."""
    return RIGHTS.get(path) or routes.right_of(path)


def _errors(model: type[BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": model, "description": "In that service's shape"} for status in statuses
    }


GOOGLE = _errors(GoogleError, 400, 403, 408, 429, 500, 503)


@api.post(ANALYZE, response_model=AnalyzeReply, response_model_exclude_unset=True, responses=GOOGLE)
async def analyze(request: Request, body: AnalyzeRequest) -> dict[str, Any]:
    """Score a comment as Perspective API does."""
    service = service_of(request)
    asked = perspective.Analysis(body, request.app.state.attributes)
    answer = await _judge(request, service, asked.comment, store=not body.do_not_store)
    whole = answer.predictions[0].scores
    spans = asked.spans(service.settings.max_texts)
    parts = [whole] * len(spans)
    if body.span_annotations:
        texts = [asked.comment.text[begin:end] for begin, end in spans]
        engine = caller_of(request, "perspective").engine
        parts = [row.scores for row in await engine.score(texts)]
    return asked.reply(whole, spans, parts)


@api.post(SUGGEST, response_model=SuggestReply, response_model_exclude_unset=True, responses=GOOGLE)
async def suggest(request: Request, body: SuggestRequest) -> dict[str, Any]:
    """Keep what a comment's scores should be: as feedback on a prediction that is made now."""
    service = service_of(request)
    said = perspective.Suggestion(body, request.app.state.attributes)
    answer = await _judge(request, service, said.comment, store=True)
    client = caller_of(request, "perspective").client
    await service.log.feedback(answer.ids[0], said.label, said.note, client)
    return said.reply()


async def _judge(
    request: Request, service: Service, comment: perspective.Comment, *, store: bool
) -> Answer:
    def field(_: int) -> str:
        return perspective_errors.TEXT

    # Before markup is taken from it, which costs more the longer it is.
    service.check_texts([comment.sent], field)
    caller = caller_of(request, "perspective")
    return await service.answer([comment.text], caller, store=store, field=field)


@api.get("/$discovery/rest", include_in_schema=False)
async def discovery(request: Request) -> Json:
    """Describe this host to Google's client libraries."""
    return Json(perspective_discovery.document(str(request.base_url)))


@api.post(
    MODERATIONS,
    response_model=ModerationReply,
    responses=_errors(OpenAIError, 400, 401, 403, 408, 413, 415, 429, 500, 503),
)
async def moderate(request: Request, body: ModerationRequest) -> Json:
    """Judge texts as OpenAI's moderation endpoint does; of its categories, two."""
    caller = caller_of(request, "openai")
    answer = await service_of(request).answer(
        moderations.texts_of(body.input),
        caller,
        field=lambda at: moderations.field_of(body.input, at),
    )
    model = f"{answer.manifest.name}-{answer.manifest.version}"
    judged = [(row.label, row.scores) for row in answer.predictions]
    return Json(
        moderations.reply(caller.request_id, model, judged), headers=dict(moderations.HEADERS)
    )


@api.post(
    PREDICT,
    response_model=list[LabelScore] | list[list[LabelScore]],
    responses=_errors(HuggingFaceError, 400, 401, 403, 408, 413, 415, 422, 429, 500, 503),
)
async def hugging_face(request: Request, body: HuggingFaceRequest) -> list[Any]:
    """Judge texts as text-embeddings-inference or the Inference API does."""
    service, caller = service_of(request), caller_of(request, "huggingface")
    texts = huggingface.texts_of(body)

    def field(at: int) -> str:
        return huggingface.field_of(body, at)

    if not body.truncate:
        service.check_texts(texts, field)
        rows = await asyncio.to_thread(caller.engine.bundle.encode, texts)
        for at, row in enumerate(rows):
            if row.truncated:
                most = caller.engine.bundle.manifest.max_tokens
                message = f"It must have at most {most} tokens."
                raise ServiceError(Kind.TOO_LARGE, message, field=field(at))
    answer = await service.answer(texts, caller, field=field)
    return huggingface.reply(body, [row.scores for row in answer.predictions])
