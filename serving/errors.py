"""What can go wrong in an answer, and the one place that maps it to a status.

    ServiceError(kind, message, field, …)
    └── MissingKeyError

Whatever else is raised becomes one of these in `as_service_error`, or is a bug of ours (500).
"""

from enum import Enum
from math import ceil
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from serving.batcher import BatcherDeadError, QueueFullError
from serving.prediction_log import LogError


class Kind(Enum):
    """A kind of error: its `type` in the reply, and its status."""

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

    def __init__(self, label: str, status: int) -> None:
        self.label, self.status = label, status


class ServiceError(Exception):
    """An error that the caller is told of."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Make an error.

        Args:
            kind: decides type and status.
            message: one sentence for the caller, without the caller's text in it.
            field: what part of the request it is about, as `texts[3]`.
            retry_after: seconds until it may work.
            headers: more headers of the reply.
        """
        super().__init__(message)
        self.kind, self.message, self.field = kind, message, field
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, ceil(retry_after)))


class MissingKeyError(ServiceError):
    """A key is needed, and none came: some dialects answer otherwise than to a wrong one."""

    def __init__(self, headers: dict[str, str]) -> None:
        message = "A valid key is needed: Authorization: Bearer …"
        super().__init__(Kind.UNAUTHENTICATED, message, headers=headers)


def native(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """Return status and body of an error in our own shape."""
    content = {"type": error.kind.label, "message": error.message}
    if error.field is not None:
        content["field"] = error.field
    return error.kind.status, {"error": content}


def as_service_error(error: Exception) -> ServiceError | None:
    """Return what the caller is told of an error; None if it is a bug of ours."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, QueueFullError):
        return ServiceError(
            Kind.OVERLOADED, "Too much waits already; try again later.", retry_after=error.wait
        )
    if isinstance(error, BatcherDeadError | LogError):
        # A LogError's own text names hosts and files.
        kept = isinstance(error, LogError)
        message = "The prediction log cannot do it now" if kept else "The model does not answer"
        return ServiceError(Kind.UNAVAILABLE, f"{message}; try again later.", retry_after=5)
    if isinstance(error, ValidationError | RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        kind = next((k for k in Kind if k.status == error.status_code), Kind.BAD_REQUEST)
        return ServiceError(kind, str(error.detail), headers=dict(error.headers or {}))
    return None


def _invalid(error: ValidationError | RequestValidationError) -> ServiceError:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ServiceError(Kind.BAD_REQUEST, f"The body is not JSON: {first['ctx']['error']}.")
    field = ""
    for part in first["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    message = "Unknown field" if first["type"] == "extra_forbidden" else first["msg"]
    # A field's name is the caller's own text: it may be long, and hold what UTF-8 cannot.
    shown = field[:100].encode("utf-8", "replace").decode()
    return ServiceError(Kind.INVALID, f"{message}.", field=shown or None)
