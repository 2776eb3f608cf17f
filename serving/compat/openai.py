"""OpenAI's moderation API, `POST /v1/moderations`.

    {"input": "a text"}                                → one result
    {"input": ["a", "b"]}                              → a result for each
    {"input": [{"type": "text", "text": …}, …]}        → one result for all the parts together

Four of OpenAI's thirteen categories are scored:

    hate                    p(hate); true if the label is hate
    hate/threatening        the smaller of p(hate) and THREAT; true if hate is and THREAT ≥ 0.5
    harassment              the larger of INSULT and THREAT; true from 0.5 on
    harassment/threatening  THREAT; true from 0.5 on

So a threatening category never has a higher score than the category that it belongs to, nor is it
true without it. Swearing at nobody is neither: `flagged` is true if a category is. The other nine
categories are always false and 0, because clients read them; their `category_applied_input_types`
is empty.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from serving.api.routing import (
    FastRoute,
    Json,
    caller_of,
    classifier_of,
    requires,
    truncation_headers,
)
from serving.api.schemas import Text
from serving.errors import ErrorCode, ErrorFormat, MissingKeyError, ServiceError

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
SCORED = CATEGORIES[:4]
THRESHOLD = 0.5  # of an attribute
HEADERS = {"x-categories-judged": ", ".join(SCORED)}  # on every reply

# Of an image it is enough to know that it is one.
IMAGE_CONFIG = ConfigDict(strict=True, frozen=True)
# OpenAI refuses unknown fields too.
REQUEST_CONFIG = IMAGE_CONFIG | {"extra": "forbid"}


class TextPart(BaseModel):
    """A text, as one part of an input."""

    model_config = REQUEST_CONFIG
    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    """The URL of an image, or the image itself as a data URL."""

    model_config = IMAGE_CONFIG
    url: str


class ImagePart(BaseModel):
    """An image, as one part of an input; not supported here."""

    model_config = IMAGE_CONFIG
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ModerationRequest(BaseModel):
    """Texts to classify."""

    model_config = REQUEST_CONFIG | {
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
    """The results for a request's inputs, in their order."""

    id: str
    model: str
    results: list[Moderation]


class OpenAIError(BaseModel):
    """The cause of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorReply(BaseModel):
    """Every error has this shape."""

    error: OpenAIError


def texts_of(value: str | Sequence[str | TextPart | ImagePart]) -> list[str]:
    """Return the texts of a request's `input`; ServiceError if one is an image."""
    if isinstance(value, str):
        return [value]
    texts, parts = [], []
    for i, item in enumerate(value):
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, ImagePart):
            message = "Images are not supported; this model classifies text only"
            raise ServiceError(ErrorCode.INVALID, message, field=f"input[{i}].type")
        else:
            parts.append(item.text)
    return ["\n".join(parts)] if parts else texts


def field_of(value: str | Sequence[Any], i: int) -> str:
    """Return the name of the i-th text in errors."""
    is_list = isinstance(value, list) and value and isinstance(value[0], str)
    return f"input[{i}]" if is_list else "input"


def reply(
    request_id: str,
    model: str,
    rows: Sequence[tuple[str, Mapping[str, float], Mapping[str, float]]],
) -> dict[str, Any]:
    """Return the reply.

    Args:
        request_id: the id that our log has.
        model: name and version of the model that answered.
        rows: label, probabilities by label, and attributes of each text.
    """
    return {
        "id": f"modr-{request_id}",
        "model": model,
        "results": [_result(*row) for row in rows],
    }


def _result(
    label: str, scores: Mapping[str, float], attributes: Mapping[str, float]
) -> dict[str, Any]:
    hate, threat = scores["hate"], attributes["THREAT"]
    harassment = max(attributes["INSULT"], threat)
    is_hate, is_threat = label == "hate", threat >= THRESHOLD
    scored = {
        "harassment": (harassment >= THRESHOLD, harassment),
        "harassment/threatening": (is_threat, threat),
        "hate": (is_hate, hate),
        "hate/threatening": (is_hate and is_threat, min(hate, threat)),
    }
    rows = {category: scored.get(category, (False, 0.0)) for category in CATEGORIES}
    return {
        "flagged": any(flag for flag, _ in scored.values()),
        "categories": {category: flag for category, (flag, _) in rows.items()},
        "category_scores": {category: score for category, (_, score) in rows.items()},
        "category_applied_input_types": {
            category: ["text"] if category in scored else [] for category in CATEGORIES
        },
    }


def render_error(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """Return status and body of an error, in OpenAI's words where they are known."""
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
    problem = {"message": message, "type": type_, "param": error.field, "code": code}
    return status, {"error": problem}


router = APIRouter(route_class=FastRoute, tags=["OpenAI"])
STATUSES = (400, 401, 403, 408, 413, 415, 429, 500, 503)


@router.post(
    "/v1/moderations",
    response_model=ModerationReply,
    responses={status: {"model": OpenAIErrorReply} for status in STATUSES},
)
@requires("predict", error_format=ErrorFormat(render_error))
async def moderate(request: Request, body: ModerationRequest) -> Json:
    """Classify texts as OpenAI's moderation endpoint does; four of its categories are scored."""
    caller = caller_of(request, "openai")
    result = await classifier_of(request).classify(
        texts_of(body.input), caller, field=lambda i: field_of(body.input, i)
    )
    model = f"{result.manifest.name}-{result.manifest.version}"
    rows = [(row.label, row.scores, row.attributes) for row in result.predictions]
    truncated = truncation_headers(row.truncated for row in result.predictions)
    return Json(reply(caller.request_id, model, rows), headers=HEADERS | truncated)
