"""The dialect of OpenAI's `/v1/moderations`.

    {"input": "a text"}                                → one result
    {"input": ["a", "b"]}                              → a result for each
    {"input": [{"type": "text", "text": …}, …]}        → one result for all the parts together

Its categories are thirteen, we judge two: `hate` is our hate, `harassment` our offensive (the
nearest, not the same). The others are there because clients read them: false, 0, and with no input
type applied. Pure translation: it knows neither HTTP nor the engine.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from serving.api.routing import FastRoute, Json, caller_of, classifier_of, requires
from serving.api.schemas import Text
from serving.errors import ErrorCode, ErrorFormat, MissingKeyError, ServiceError

JUDGED = {"hate": "hate", "harassment": "offensive"}
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
# On every reply: which categories mean something here.
HEADERS = {"x-categories-judged": ", ".join(JUDGED)}

Asked = ConfigDict(strict=True, frozen=True)  # unknown fields pass: that API has had several


class TextPart(BaseModel):
    """A part of an input."""

    model_config = Asked
    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    """Where an image is, or the image itself."""

    model_config = Asked
    url: str


class ImagePart(BaseModel):
    """A part that cannot be judged here."""

    model_config = Asked
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ModerationRequest(BaseModel):
    """What `/v1/moderations` takes."""

    model_config = Asked | {
        "json_schema_extra": {"examples": [{"input": "have a lovely day"}]},
    }

    input: Text | list[Text] | list[Part]
    model: Annotated[str | None, Field(description="read, and not heeded")] = None


class Moderation(BaseModel):
    """What is said of one input."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


class ModerationReply(BaseModel):
    """What `/v1/moderations` says."""

    id: str
    model: str
    results: list[Moderation]


class Problem(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """The one shape of every error."""

    error: Problem


def texts_of(asked: str | Sequence[str | TextPart | ImagePart]) -> list[str]:
    """Return a request's texts; ServiceError if one is an image."""
    if isinstance(asked, str):
        return [asked]
    texts, parts = [], []
    for at, item in enumerate(asked):
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, ImagePart):
            message = "This model judges text only; images are not supported."
            raise ServiceError(ErrorCode.INVALID, message, field=f"input[{at}].type")
        else:
            parts.append(item.text)
    return ["\n".join(parts)] if parts else texts


def field_of(asked: str | Sequence[Any], at: int) -> str:
    """Return what that API calls the nth text in an error."""
    is_list = isinstance(asked, list) and asked and isinstance(asked[0], str)
    return f"input[{at}]" if is_list else "input"


def reply(
    request_id: str, model: str, judged: Sequence[tuple[str, Mapping[str, float]]]
) -> dict[str, Any]:
    """Return the reply.

    Args:
        request_id: ours.
        model: name and version of the model that answered.
        judged: label and probabilities of each text.
    """
    return {
        "id": f"modr-{request_id}",
        "model": model,
        "results": [_result(label, scores) for label, scores in judged],
    }


def _result(label: str, scores: Mapping[str, float]) -> dict[str, Any]:
    ours = {name: JUDGED.get(name) for name in CATEGORIES}
    return {
        "flagged": label in JUDGED.values(),
        "categories": {name: label == own for name, own in ours.items()},
        "category_scores": {name: scores[own] if own else 0.0 for name, own in ours.items()},
        "category_applied_input_types": {
            name: ["text"] if own else [] for name, own in ours.items()
        },
    }


def render_error(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """Return status and body of an error."""
    status, kind, code = error.code.status, "invalid_request_error", None
    message = error.message
    if isinstance(error, MissingKeyError):
        message = "You didn't provide an API key. Send it in an Authorization header: Bearer …"
    elif error.code is ErrorCode.UNAUTHENTICATED:
        message, code = "Incorrect API key provided.", "invalid_api_key"
    elif error.code is ErrorCode.RATE_LIMITED:
        message, kind, code = "Rate limit reached for requests.", "requests", "rate_limit_exceeded"
    elif error.code is ErrorCode.OVERLOADED:
        status, kind = 503, "server_error"
    elif status >= 500:
        kind = "server_error"
    elif error.code is ErrorCode.TOO_LARGE and error.field:
        status = 400
        code = "string_above_max_length" if "[" in error.field else None
    elif error.code is ErrorCode.INVALID:
        status, code = 400, "invalid_value"
    # A field's name may go on with the type that was tried: `input.str`.
    param = error.field and re.sub(r"^input\..*", "input", error.field)
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


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
