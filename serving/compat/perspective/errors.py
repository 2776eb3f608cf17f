"""Google's error format, and Perspective's own errors.

    {"error": {"code": 400, "message": …, "status": "INVALID_ARGUMENT", "details": [
        {"@type": "type.googleapis.com/google.commentanalyzer.v1alpha1.Error",
         "errorType": "COMMENT_EMPTY"}]}}

    ServiceError
    └── RefusedError  a request that Perspective itself would refuse, with its reason

As with Google, a request without a key gets 403 and one with a wrong key 400.
"""

from collections.abc import Sequence
from typing import Any, Literal

from serving.errors import ErrorCode, MissingKeyError, ServiceError

TYPES = "type.googleapis.com/"
SERVICE = "commentanalyzer.googleapis.com"
TEXT = "comment.text"

Reason = Literal[
    "COMMENT_EMPTY",
    "COMMENT_TOO_LONG",
    "NO_REQUESTED_ATTRIBUTES",
    "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
    "INVALID_REQUEST",
]
STATUSES = {
    ErrorCode.FORBIDDEN: (403, "PERMISSION_DENIED"),
    ErrorCode.NOT_FOUND: (404, "NOT_FOUND"),
    ErrorCode.METHOD_NOT_ALLOWED: (404, "NOT_FOUND"),
    ErrorCode.TIMEOUT: (408, "DEADLINE_EXCEEDED"),
    ErrorCode.RATE_LIMITED: (429, "RESOURCE_EXHAUSTED"),
    ErrorCode.OVERLOADED: (503, "UNAVAILABLE"),
    ErrorCode.INTERNAL: (500, "INTERNAL"),
    ErrorCode.UNAVAILABLE: (503, "UNAVAILABLE"),
}
INVALID = (400, "INVALID_ARGUMENT")  # for every other code
NO_KEY = (
    "Method doesn't allow unregistered callers (callers without established identity). "
    "Please use API Key or other form of API consumer identity to call this API."
)
WRONG_KEY = "API key not valid. Please pass a valid API key."


class RefusedError(ServiceError):
    """A request that Perspective would refuse."""

    def __init__(self, message: str, reason: Reason, **more: Any) -> None:
        """Create an error.

        Args:
            message: Perspective's own text where it is known.
            reason: its `errorType`.
            more: further fields of the error's detail.
        """
        super().__init__(ErrorCode.INVALID, message)
        self.detail = {"errorType": reason} | more

    @classmethod
    def empty(cls) -> "RefusedError":
        """Return the error for a comment without text."""
        return cls("Comment must be non-empty.", "COMMENT_EMPTY")

    @classmethod
    def language(cls, attribute: str, languages: Sequence[str]) -> "RefusedError":
        """Return the error for languages that the model does not know."""
        shown = [tag[:40] for tag in languages[:10]]
        return cls(
            f"Attribute {attribute} does not support request languages: {', '.join(shown)}",
            "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
            languageNotSupportedByAttributeError={
                "requestedLanguages": shown,
                "attribute": attribute,
            },
        )


def render_error(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """Return status and body of an error."""
    code, status = STATUSES.get(error.code, INVALID)
    message, details = error.message, []
    if isinstance(error, MissingKeyError):
        code, status, message = 403, "PERMISSION_DENIED", NO_KEY
    elif error.code is ErrorCode.UNAUTHENTICATED:
        message, details = WRONG_KEY, [_info("API_KEY_INVALID")]
    elif error.code is ErrorCode.RATE_LIMITED:
        message = f"Quota exceeded for quota metric 'Analysis requests' of service '{SERVICE}'."
        details = [_info("RATE_LIMIT_EXCEEDED")]
    elif isinstance(error, RefusedError):
        details = [_own(error.detail)]
    elif error.code is ErrorCode.TOO_LARGE and error.field == TEXT:
        message, details = "Comment text too long.", [_own({"errorType": "COMMENT_TOO_LONG"})]
    elif error.field:
        message = f"Invalid value at '{error.field}': {error.message}"
        violation = {"field": error.field, "description": error.message}
        details = [{"@type": f"{TYPES}google.rpc.BadRequest", "fieldViolations": [violation]}]
    body: dict[str, Any] = {"code": code, "message": message, "status": status}
    return code, {"error": body | ({"details": details} if details else {})}


def _own(detail: dict[str, Any]) -> dict[str, Any]:
    return {"@type": f"{TYPES}google.commentanalyzer.v1alpha1.Error"} | detail


def _info(reason: str) -> dict[str, Any]:
    return {
        "@type": f"{TYPES}google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": SERVICE},
    }
