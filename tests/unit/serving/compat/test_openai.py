from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Moderation, ModerationCreateResponse
from pydantic import ValidationError

from serving.bundle import LABELS
from serving.compat.openai import (
    CATEGORIES,
    SCORED,
    ModerationRequest,
    field_of,
    render_error,
    reply,
    texts_of,
)
from serving.errors import ErrorCode, MissingKeyError, ServiceError

HATE = ("hate", {"hate": 0.7, "offensive": 0.2, "neither": 0.1}, {"INSULT": 0.4, "THREAT": 0.8})
INSULT = (
    "offensive",
    {"hate": 0.1, "offensive": 0.8, "neither": 0.1},
    {"INSULT": 0.9, "THREAT": 0.2},
)
SWEARING = (
    "offensive",
    {"hate": 0.1, "offensive": 0.8, "neither": 0.1},
    {"INSULT": 0.3, "THREAT": 0.1},
)


def parsed(value: object) -> Any:
    return ModerationRequest.model_validate({"input": value, "model": "omni"}).input


def test_inputs_become_texts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert texts_of(parsed("a")) == ["a"]
    assert texts_of(parsed(["a", "b"])) == ["a", "b"]
    assert texts_of(parsed(parts)) == ["a\nb"]
    assert texts_of(parsed([])) == []


def test_errors_name_the_field() -> None:
    assert field_of("a", 0) == "input"
    assert field_of(["a", "b"], 1) == "input[1]"
    assert field_of(parsed([{"type": "text", "text": "a"}]), 0) == "input"
    assert field_of([], 0) == "input"


def test_an_image_is_refused_and_the_error_names_its_part() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(ServiceError) as caught:
        texts_of(parsed(parts))
    status, body = render_error(caught.value)
    assert status == 400
    assert body["error"] == {
        "message": "Images are not supported; this model classifies text only",
        "type": "invalid_request_error",
        "param": "input[1].type",
        "code": "invalid_value",
    }


@pytest.mark.parametrize("value", [7, None, [7], [["a"]], {"text": "a"}, [{"type": "audio"}]])
def test_other_inputs_are_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        parsed(value)


def test_openais_client_can_read_a_reply() -> None:
    moderation = ModerationCreateResponse.model_validate(
        reply("q", "m-1", [HATE, INSULT, SWEARING])
    )
    assert (moderation.id, moderation.model) == ("modr-q", "m-1")
    hate, insult, swearing = moderation.results
    assert [result.flagged for result in moderation.results] == [True, True, False]
    assert hate.categories.hate
    assert hate.categories.hate_threatening
    assert (hate.category_scores.hate, hate.category_scores.hate_threatening) == (0.7, 0.7)
    assert (insult.categories.harassment, insult.categories.harassment_threatening) == (True, False)
    assert (insult.category_scores.hate, insult.category_scores.harassment) == (0.1, 0.9)
    assert not any(swearing.categories.model_dump().values())


@given(st.sampled_from(LABELS), *[st.floats(0, 1)] * 3)
def test_a_threatening_category_is_never_above_its_own(
    label: str, hate: float, insult: float, threat: float
) -> None:
    row = (label, {"hate": hate}, {"INSULT": insult, "THREAT": threat})
    (result,) = reply("q", "m", [row])["results"]
    for part in ("categories", "category_scores"):
        for name in ("hate", "harassment"):
            assert result[part][f"{name}/threatening"] <= result[part][name]


def test_a_reply_has_every_category_and_marks_those_that_are_not_scored() -> None:
    expected = {
        field.alias or name
        for name, field in Moderation.model_fields["categories"].annotation.model_fields.items()
    }
    assert set(CATEGORIES) == expected
    (row,) = reply("q", "m", [HATE])["results"]
    for part in ("categories", "category_scores", "category_applied_input_types"):
        assert set(row[part]) == expected
    scored = {name for name, types in row["category_applied_input_types"].items() if types}
    assert scored == set(SCORED)
    assert scored == {"hate", "hate/threatening", "harassment", "harassment/threatening"}
    others = expected - scored
    assert all(row["category_scores"][name] == 0 for name in others)


@pytest.mark.parametrize(
    ("error", "status", "type_", "code"),
    [
        (MissingKeyError({}), 401, "invalid_request_error", None),
        (
            ServiceError(ErrorCode.UNAUTHENTICATED, "x"),
            401,
            "invalid_request_error",
            "invalid_api_key",
        ),
        (ServiceError(ErrorCode.FORBIDDEN, "x"), 403, "invalid_request_error", None),
        (ServiceError(ErrorCode.RATE_LIMITED, "x"), 429, "requests", "rate_limit_exceeded"),
        (ServiceError(ErrorCode.OVERLOADED, "x"), 503, "server_error", None),
        (ServiceError(ErrorCode.INTERNAL, "x"), 500, "server_error", None),
        (
            ServiceError(ErrorCode.INVALID, "x", field="input"),
            400,
            "invalid_request_error",
            "invalid_value",
        ),
        (
            ServiceError(ErrorCode.TOO_LARGE, "x", field="input[3]"),
            400,
            "invalid_request_error",
            "string_above_max_length",
        ),
        (ServiceError(ErrorCode.TOO_LARGE, "x"), 413, "invalid_request_error", None),
    ],
)
def test_errors_have_openais_status_type_and_code(
    error: ServiceError, status: int, type_: str, code: str | None
) -> None:
    rendered, body = render_error(error)
    assert (rendered, body["error"]["type"], body["error"]["code"]) == (status, type_, code)
