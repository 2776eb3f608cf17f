"""Hugging Face's API, `POST /predict`, as two of its servers define it.

    {"inputs": "a"}                    → [{"label", "score"}, …], the likeliest label first
    {"inputs": ["a", "b"]}             → a list of those; the same for [["a"], ["b"]]
    {"inputs": "a", "parameters": {}}  → [[{"label", "score"}, …]]

The first two forms are those of text-embeddings-inference, with one exception: there a list of two
strings is a pair, here it is two texts, because this model takes no pairs. The third is the
Inference API's; `InferenceClient.text_classification` always sends `parameters` and expects the
nested list.

Every field of both servers is done or refused, and unknown ones are refused: an option that has no
effect would give a wrong answer without a word.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from serving.api.routing import (
    FastRoute,
    Json,
    caller_of,
    classifier_of,
    requires,
    truncation_headers,
)
from serving.api.schemas import Label, Probability, Text
from serving.bundle import MAX_WINDOWS
from serving.errors import ErrorCode, ErrorFormat, ServiceError

# Null is "not set" in every field that may be missing.
REQUEST_CONFIG = ConfigDict(strict=True, frozen=True, extra="forbid")


class Parameters(BaseModel):
    """The options of the Inference API."""

    model_config = REQUEST_CONFIG
    top_k: Annotated[
        int | None, Field(ge=1, description="number of labels to return; default: all")
    ] = None
    function_to_apply: Annotated[
        Literal["softmax"] | None, Field(description="scores are probabilities")
    ] = None


class Options(BaseModel):
    """How the Inference API schedules a request; nothing of it changes a score."""

    model_config = REQUEST_CONFIG
    use_cache: Annotated[
        bool | None, Field(description="accepted: a cached score is the same score")
    ] = None
    wait_for_model: Annotated[
        bool | None, Field(description="accepted: the model is always loaded")
    ] = None


def _no_number(value: object) -> object:
    """Return a number as text, which no flag is: Python's 0.0 equals False."""
    return str(value) if type(value) in {int, float} else value


class HuggingFaceRequest(BaseModel):
    """Texts to classify."""

    model_config = REQUEST_CONFIG | {
        "json_schema_extra": {"examples": [{"inputs": "have a lovely day"}]}
    }

    inputs: Text | list[Text] | list[list[Text]]
    parameters: Parameters | None = None
    options: Options | None = None
    raw_scores: Annotated[
        Literal[False] | None,
        BeforeValidator(_no_number),
        Field(description="scores are calibrated probabilities"),
    ] = False
    truncate: Annotated[
        bool | None, Field(description="false: refuse a text that the model would truncate")
    ] = True
    truncation_direction: Annotated[
        Literal["Right", "right", "Left", "left"] | None,
        Field(
            description="what a text loses that is too long for the model is its end; Left: "
            "refuse such a text"
        ),
    ] = "Right"

    @property
    def may_truncate(self) -> bool:
        """Whether the model may leave the end of a text unread."""
        return self.truncate is not False and self.truncation_direction not in {"Left", "left"}


class LabelScore(BaseModel):
    """A label and its probability."""

    label: Label
    score: Probability


class HuggingFaceError(BaseModel):
    """Every error has this shape."""

    error: str
    error_type: Literal["unhealthy", "backend", "overloaded", "validation", "tokenizer"]


def texts_of(body: HuggingFaceRequest) -> list[str]:
    """Return a request's texts; ServiceError if an input is a pair of texts."""
    if isinstance(body.inputs, str):
        return [body.inputs]
    texts = []
    for i, row in enumerate(body.inputs):
        if isinstance(row, str):
            texts.append(row)
        elif len(row) == 1:
            texts.append(row[0])
        else:
            message = "Pairs of texts are not supported; send one text per input"
            if not row:
                message = "This list must have one text; to classify several, send [[text], [text]]"
            raise ServiceError(ErrorCode.INVALID, message, field=f"inputs[{i}]")
    return texts


def field_of(body: HuggingFaceRequest, i: int) -> str:
    """Return the name of the i-th text in errors."""
    return "inputs" if isinstance(body.inputs, str) else f"inputs[{i}]"


def reply(body: HuggingFaceRequest, scores: Sequence[Mapping[str, float]]) -> list[Any]:
    """Return the reply.

    Args:
        body: the request.
        scores: probabilities of each text.
    """
    top_k = body.parameters.top_k if body.parameters else None
    rows = [
        [
            {"label": label, "score": score}
            for label, score in sorted(row.items(), key=lambda pair: -pair[1])[:top_k]
        ]
        for row in scores
    ]
    return rows[0] if isinstance(body.inputs, str) and body.parameters is None else rows


def render_error(error: ServiceError) -> tuple[int, dict[str, str]]:
    """Return status and body of an error."""
    types = {429: "overloaded", 500: "backend", 503: "unhealthy"}
    field, message = error.field, error.message
    if field and not message.startswith("`"):
        message = f"`{field}`: {message}"
    error_type = types.get(error.code.status, "validation")
    return error.code.status, {"error": message, "error_type": error_type}


router = APIRouter(route_class=FastRoute, tags=["Hugging Face"])
STATUSES = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503)


@router.post(
    "/predict",
    response_model=list[LabelScore] | list[list[LabelScore]],
    responses={status: {"model": HuggingFaceError} for status in STATUSES},
)
@requires("predict", error_format=ErrorFormat(render_error))
async def predict(request: Request, body: HuggingFaceRequest) -> Json:
    """Classify texts as text-embeddings-inference or the Inference API does."""
    classifier, caller = classifier_of(request), caller_of(request, "huggingface")
    texts = texts_of(body)

    def field(i: int) -> str:
        return field_of(body, i)

    if not body.may_truncate:
        classifier.check_texts(texts, field)
        encodings = await asyncio.to_thread(caller.engine.bundle.encode, texts)
        for i, encoding in enumerate(encodings):
            if encoding.truncated:
                tokens = caller.engine.bundle.manifest.max_tokens
                message = f"The text must fit into {MAX_WINDOWS} windows of {tokens} tokens"
                if body.truncate is not False:
                    message += ", because truncation_direction is Left"
                raise ServiceError(ErrorCode.TOO_LARGE, message, field=field(i))
    result = await classifier.classify(texts, caller, field=field)
    content = reply(body, [prediction.scores for prediction in result.predictions])
    headers = truncation_headers(prediction.truncated for prediction in result.predictions)
    return Json(content, headers=headers)
