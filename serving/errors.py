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

from serving.inference.batcher import BatcherDeadError, QueueFullError
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


def as_service_error(error: Exception) -> ServiceError | None:
    """Return the error that the caller gets for an exception; None if it is a bug of ours."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, QueueFullError):
        return ServiceError(
            ErrorCode.OVERLOADED, "Server overloaded, retry later", retry_after=error.wait
        )
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
        return ServiceError(code, str(error.detail), headers=dict(error.headers or {}))
    return None


def _invalid(error: ValidationError | RequestValidationError) -> ServiceError:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        message = f"The request body is not valid JSON: {first['ctx']['error']}"
        return ServiceError(ErrorCode.BAD_REQUEST, message)
    field = ""
    for part in first["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    message = "Unknown field" if first["type"] == "extra_forbidden" else first["msg"]
    # A field's name is the caller's own text: it may be long, and hold what UTF-8 cannot.
    shown = field[:100].encode("utf-8", "replace").decode()
    return ServiceError(ErrorCode.INVALID, message, field=shown or None)
