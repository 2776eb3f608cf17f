"""OpenAI's `/v1/moderations`.

    {"input": "a text"}                                → one result
    {"input": ["a", "b"]}                              → a result for each
    {"input": [{"type": "text", "text": …}, …]}        → one result for all the parts together

OpenAI has thirteen categories; this model scores two of them: `hate` is our hate, `harassment` our
offensive (similar, not the same). The others are present because clients read them: false, 0, and
no applied input type.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from serving.api.routing import FastRoute, Json, caller_of, classifier_of, requires
from serving.api.schemas import Text
from serving.errors import ErrorCode, ErrorFormat, MissingKeyError, ServiceError

SCORED = {"hate": "hate", "harassment": "offensive"}
CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
# On every reply: the categories that this model scores.
HEADERS = {"x-categories-judged": ", ".join(SCORED)}

Lenient = ConfigDict(strict=True, frozen=True)  # unknown fields pass: OpenAI has added several


class TextPart(BaseModel):
    """A part of an input."""

    model_config = Lenient
    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    """Where an image is, or the image itself."""

    model_config = Lenient
    url: str


class ImagePart(BaseModel):
    """An image, which this model cannot classify."""

    model_config = Lenient
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ModerationRequest(BaseModel):
    """A request for `/v1/moderations`."""

    model_config = Lenient | {
        "json_schema_extra": {"examples": [{"input": "have a lovely day"}]},
    }

    input: Text | list[Text] | list[Part]
    model: Annotated[str | None, Field(description="accepted and ignored")] = None


class Moderation(BaseModel):
    """The result for one input."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


class ModerationReply(BaseModel):
    """A reply of `/v1/moderations`."""

    id: str
    model: str
    results: list[Moderation]


class Problem(BaseModel):
    """The cause of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """Every error has this shape."""

    error: Problem


def texts_of(inputs: str | Sequence[str | TextPart | ImagePart]) -> list[str]:
    """Return a request's texts; ServiceError if one is an image."""
    if isinstance(inputs, str):
        return [inputs]
    texts, parts = [], []
    for i, item in enumerate(inputs):
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, ImagePart):
            message = "Images are not supported; this model classifies text only"
            raise ServiceError(ErrorCode.INVALID, message, field=f"input[{i}].type")
        else:
            parts.append(item.text)
    return ["\n".join(parts)] if parts else texts


def field_of(inputs: str | Sequence[Any], i: int) -> str:
    """Return the name of the i-th text in an error."""
    is_list = isinstance(inputs, list) and inputs and isinstance(inputs[0], str)
    return f"input[{i}]" if is_list else "input"


def reply(
    request_id: str, model: str, results: Sequence[tuple[str, Mapping[str, float]]]
) -> dict[str, Any]:
    """Return the reply.

    Args:
        request_id: of this request.
        model: name and version of the model.
        results: label and probabilities of each text.
    """
    return {
        "id": f"modr-{request_id}",
        "model": model,
        "results": [_result(label, scores) for label, scores in results],
    }


def _result(label: str, scores: Mapping[str, float]) -> dict[str, Any]:
    labels = {name: SCORED.get(name) for name in CATEGORIES}
    return {
        "flagged": label in SCORED.values(),
        "categories": {name: label == own for name, own in labels.items()},
        "category_scores": {name: scores[own] if own else 0.0 for name, own in labels.items()},
        "category_applied_input_types": {
            name: ["text"] if own else [] for name, own in labels.items()
        },
    }


def render_error(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """Return status and body of an error."""
    status, type_, code = error.code.status, "invalid_request_error", None
    message = error.message
    if isinstance(error, MissingKeyError):
        message = "You didn't provide an API key. Send it in an Authorization header: Bearer …"
    elif error.code is ErrorCode.UNAUTHENTICATED:
        message, code = "Incorrect API key provided.", "invalid_api_key"
    elif error.code is ErrorCode.RATE_LIMITED:
        message, type_, code = "Rate limit reached for requests.", "requests", "rate_limit_exceeded"
    elif error.code is ErrorCode.OVERLOADED:
        status, type_ = 503, "server_error"
    elif status >= 500:
        type_ = "server_error"
    elif error.code is ErrorCode.TOO_LARGE and error.field:
        status = 400
        code = "string_above_max_length" if "[" in error.field else None
    elif error.code is ErrorCode.INVALID:
        status, code = 400, "invalid_value"
    # pydantic appends the type that it tried, as in `input.str`.
    param = error.field and re.sub(r"^input\..*", "input", error.field)
    return status, {"error": {"message": message, "type": type_, "param": param, "code": code}}


router = APIRouter(route_class=FastRoute, tags=["OpenAI"])
STATUSES = (400, 401, 403, 408, 413, 415, 429, 500, 503)


@router.post(
    "/v1/moderations",
    response_model=ModerationReply,
    responses={status: {"model": OpenAIError} for status in STATUSES},
)
@requires("predict", error_format=ErrorFormat(render_error))
async def moderate(request: Request, body: ModerationRequest) -> Json:
    """Classify texts as OpenAI's moderation endpoint does; two of its categories are scored."""
    caller = caller_of(request, "openai")
    result = await classifier_of(request).classify(
        texts_of(body.input), caller, field=lambda i: field_of(body.input, i)
    )
    model = f"{result.manifest.name}-{result.manifest.version}"
    rows = [(prediction.label, prediction.scores) for prediction in result.predictions]
    return Json(reply(caller.request_id, model, rows), headers=dict(HEADERS))
