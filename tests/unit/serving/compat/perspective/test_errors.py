import pytest

from serving.compat.perspective.errors import TEXT, render_error
from serving.errors import ErrorCode, MissingKeyError, ServiceError


@pytest.mark.parametrize(
    ("error", "code", "status", "reason"),
    [
        (MissingKeyError({}), 403, "PERMISSION_DENIED", None),
        (ServiceError(ErrorCode.UNAUTHENTICATED, "x"), 400, "INVALID_ARGUMENT", "API_KEY_INVALID"),
        (ServiceError(ErrorCode.FORBIDDEN, "x"), 403, "PERMISSION_DENIED", None),
        (
            ServiceError(ErrorCode.RATE_LIMITED, "x"),
            429,
            "RESOURCE_EXHAUSTED",
            "RATE_LIMIT_EXCEEDED",
        ),
        (ServiceError(ErrorCode.OVERLOADED, "x"), 503, "UNAVAILABLE", None),
        (ServiceError(ErrorCode.UNAVAILABLE, "x"), 503, "UNAVAILABLE", None),
        (ServiceError(ErrorCode.INTERNAL, "x"), 500, "INTERNAL", None),
        (ServiceError(ErrorCode.TOO_LARGE, "The body…"), 400, "INVALID_ARGUMENT", None),
        (ServiceError(ErrorCode.BAD_REQUEST, "x"), 400, "INVALID_ARGUMENT", None),
    ],
)
def test_errors_have_googles_code_status_and_reason(
    error: ServiceError, code: int, status: str, reason: str | None
) -> None:
    rendered, content = render_error(error)
    assert rendered == content["error"]["code"] == code
    assert content["error"]["status"] == status
    details = content["error"].get("details", [])
    assert [detail["reason"] for detail in details] == [reason] * bool(reason)


def test_a_long_comment_and_an_invalid_value_have_details() -> None:
    (detail,) = render_error(ServiceError(ErrorCode.TOO_LARGE, "x", field=TEXT))[1]["error"][
        "details"
    ]
    assert detail["errorType"] == "COMMENT_TOO_LONG"
    (detail,) = render_error(ServiceError(ErrorCode.INVALID, "No", field="languages"))[1]["error"][
        "details"
    ]
    assert detail["fieldViolations"] == [{"field": "languages", "description": "No"}]
