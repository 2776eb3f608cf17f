"""Google's error format, and the errors that Perspective API has of its own.

    {"error": {"code": 400, "message": …, "status": "INVALID_ARGUMENT", "details": [
        {"@type": "type.googleapis.com/google.commentanalyzer.v1alpha1.Error",
         "errorType": "COMMENT_EMPTY"}]}}

    ServiceError
    └── PerspectiveError  has an `errorType`

A missing key is 403 and a wrong one is 400, as at Google.
"""

from collections.abc import Sequence
from typing import Any, Literal

from serving.errors import ErrorCode, ErrorFormat, FieldProblem, MissingKeyError, ServiceError

TYPES = "type.googleapis.com/"
SERVICE = "commentanalyzer.googleapis.com"
TEXT = "comment.text"

ErrorType = Literal[
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
INVALID = (400, "INVALID_ARGUMENT")  # all other codes
NO_KEY = (
    "Method doesn't allow unregistered callers (callers without established identity). "
    "Please use API Key or other form of API consumer identity to call this API."
)
WRONG_KEY = "API key not valid. Please pass a valid API key."


class PerspectiveError(ServiceError):
    """A request that Perspective API refuses with an `errorType`."""

    def __init__(self, message: str, error_type: ErrorType, **details: Any) -> None:
        """Create an error.

        Args:
            message: in Perspective's words where they are known.
            error_type: Perspective's name of the error.
            details: further fields of the error's detail.
        """
        super().__init__(ErrorCode.INVALID, message)
        self.detail = {"errorType": error_type} | details

    @classmethod
    def empty(cls) -> "PerspectiveError":
        """Return the error for a comment without text."""
        return cls("Comment must be non-empty.", "COMMENT_EMPTY")

    @classmethod
    def language(cls, attribute: str, languages: Sequence[str]) -> "PerspectiveError":
        """Return the error for languages that the model does not support."""
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
        message, details = WRONG_KEY, [_error_info("API_KEY_INVALID")]
    elif error.code is ErrorCode.RATE_LIMITED:
        message = f"Quota exceeded for quota metric 'Analysis requests' of service '{SERVICE}'."
        details = [_error_info("RATE_LIMIT_EXCEEDED")]
    elif isinstance(error, PerspectiveError):
        details = [_perspective_detail(error.detail)]
    elif error.code is ErrorCode.TOO_LARGE and error.field == TEXT:
        message = "Comment text too long."
        details = [_perspective_detail({"errorType": "COMMENT_TOO_LONG"})]
    elif error.field:
        problems = error.problems or [FieldProblem(error.field, error.message)]
        message = "\n".join(f"Invalid value at '{field}': {text}" for field, text in problems)
        violations = [{"field": field, "description": text} for field, text in problems]
        details = [{"@type": f"{TYPES}google.rpc.BadRequest", "fieldViolations": violations}]
    body: dict[str, Any] = {"code": code, "message": message, "status": status}
    return code, {"error": body | ({"details": details} if details else {})}


ERROR_FORMAT = ErrorFormat(render_error, key_in_query=True)


def _perspective_detail(detail: dict[str, Any]) -> dict[str, Any]:
    return {"@type": f"{TYPES}google.commentanalyzer.v1alpha1.Error"} | detail


def _error_info(reason: str) -> dict[str, Any]:
    return {
        "@type": f"{TYPES}google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": SERVICE},
    }
