"""Every error that a caller can get, and the one place that maps exceptions to a status.

    ServiceError(code, message, field, …)
    └── MissingKeyError

`as_service_error` turns every other exception into one of these; what it does not know is a bug of
ours (500). An `ErrorFormat` renders a ServiceError in the shape that an API's clients expect.
"""

from collections.abc import Callable
from enum import Enum
from math import ceil
from typing import Any, NamedTuple

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from serving.inference.batcher import BatcherDeadError, DeadlineError, QueueFullError
from serving.prediction_log.log import LogError


class ErrorCode(Enum):
    """What went wrong: `type` in the reply, and the HTTP status."""

    BAD_REQUEST = ("bad_request", 400)
    UNAUTHENTICATED = ("unauthenticated", 401)
    FORBIDDEN = ("forbidden", 403)
    NOT_FOUND = ("not_found", 404)
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405)
    TIMEOUT = ("timeout", 408)
    CONFLICT = ("conflict", 409)
    TOO_LARGE = ("too_large", 413)
    UNSUPPORTED_MEDIA_TYPE = ("unsupported_media_type", 415)
    INVALID = ("invalid", 422)
    RATE_LIMITED = ("rate_limited", 429)
    OVERLOADED = ("overloaded", 429)
    INTERNAL = ("internal", 500)
    UNAVAILABLE = ("unavailable", 503)

    def __init__(self, type_: str, status: int) -> None:
        self.type, self.status = type_, status


class ServiceError(Exception):
    """An error that is reported to the caller."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Create an error.

        Args:
            code: decides type and status.
            message: one sentence for the caller, without the caller's text in it.
            field: the part of the request that is wrong, such as `texts[3]`.
            retry_after: seconds until a retry may succeed.
            headers: further headers of the reply.
        """
        super().__init__(message)
        self.code, self.message, self.field = code, message, field
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, ceil(retry_after)))


class MissingKeyError(ServiceError):
    """The request has no API key. Some APIs report this differently from a wrong key."""

    def __init__(self, headers: dict[str, str]) -> None:
        message = "Missing API key: send the header Authorization: Bearer …"
        super().__init__(ErrorCode.UNAUTHENTICATED, message, headers=headers)


class ErrorFormat(NamedTuple):
    """How an API's clients expect errors (status and body), and where they put their key."""

    render: Callable[[ServiceError], tuple[int, Any]]
    key_in_query: bool = False


def render_error(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """Return status and body of an error in this service's own format."""
    content = {"type": error.code.type, "message": error.message}
    if error.field is not None:
        content["field"] = error.field
    return error.code.status, {"error": content}


NATIVE = ErrorFormat(render_error)

HTTP_MESSAGES = {
    ErrorCode.NOT_FOUND: "This path does not exist",
    ErrorCode.METHOD_NOT_ALLOWED: "This method is not allowed for this path",
}
# pydantic's types of problems, in plain words.
TYPES = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "an object",
    "string_type": "a string",
}
PROBLEMS = {
    "extra_forbidden": "Unknown field",
    "greater_than_equal": "This value must be at least {ge}",
    "less_than": "This value must be less than {lt}",
    "less_than_equal": "This value must be at most {le}",
    "literal_error": "This value must be {expected}",
    "missing": "This field is required",
    "string_too_long": "This value must have at most {max_length} characters",
    "string_too_short": "This value must have at least {min_length} characters",
}


def as_service_error(error: Exception) -> ServiceError | None:
    """Return the error that the caller gets for an exception; None if it is a bug of ours."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, QueueFullError | DeadlineError):
        code, message = ErrorCode.OVERLOADED, "Server overloaded, retry later"
        if isinstance(error, DeadlineError):
            code, message = ErrorCode.UNAVAILABLE, "No answer within the timeout, retry later"
        return ServiceError(code, message, retry_after=error.wait)
    if isinstance(error, BatcherDeadError | LogError):
        # A LogError's own text names hosts and files.
        part = "prediction log" if isinstance(error, LogError) else "model"
        message = f"The {part} is unavailable, retry later"
        return ServiceError(ErrorCode.UNAVAILABLE, message, retry_after=5)
    if isinstance(error, ValidationError | RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        known = (code for code in ErrorCode if code.status == error.status_code)
        code = next(known, ErrorCode.BAD_REQUEST)
        message = HTTP_MESSAGES.get(code, str(error.detail))
        return ServiceError(code, message, headers=dict(error.headers or {}))
    return None


def _invalid(error: ValidationError | RequestValidationError) -> ServiceError:
    problems = error.errors()
    first = problems[0]
    if first["type"] == "json_invalid":
        reason = first["ctx"]["error"]
        message = f"The request body is not valid JSON: {reason}"
        if reason.endswith("line 1 column 0"):
            message = "The request body must not be empty"
        return ServiceError(ErrorCode.BAD_REQUEST, message)
    field = ""
    for part in first["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    # A value that may have several types has a problem with each of them.
    alternatives = [p for p in problems if p["loc"][:1] == first["loc"][:1] and p["type"] in TYPES]
    if first["type"] in TYPES:
        names = dict.fromkeys(TYPES[problem["type"]] for problem in alternatives)
        message = f"This value must be {' or '.join(names)}"
    else:
        template = PROBLEMS.get(first["type"], first["msg"])
        # JSON spells Python's False in lower case.
        message = template.format(**first.get("ctx", {})).replace("be False", "be false")
    # A field's name is the caller's own text: it may be long, and hold what UTF-8 cannot.
    shown = field[:100].encode("utf-8", "replace").decode()
    return ServiceError(ErrorCode.INVALID, message, field=shown or None)
