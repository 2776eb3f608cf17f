import json

import pytest
from huggingface_hub import TextClassificationOutputElement
from pydantic import ValidationError

from serving.compat.huggingface import HuggingFaceRequest, field_of, render_error, reply, texts_of
from serving.errors import ErrorCode, ServiceError

SCORES = {"hate": 0.2, "offensive": 0.7, "neither": 0.1}
SORTED = [
    {"label": "offensive", "score": 0.7},
    {"label": "hate", "score": 0.2},
    {"label": "neither", "score": 0.1},
]


def parsed(inputs: object, **more: object) -> HuggingFaceRequest:
    return HuggingFaceRequest.model_validate({"inputs": inputs} | more)


@pytest.mark.parametrize(
    ("inputs", "texts"),
    [("a", ["a"]), (["a"], ["a"]), (["a", "b"], ["a", "b"]), ([["a"], ["b"]], ["a", "b"])],
)
def test_inputs_become_texts(inputs: object, texts: list[str]) -> None:
    body = parsed(inputs)
    assert texts_of(body) == texts
    answer = reply(body, [SCORES] * len(texts))
    assert answer == (SORTED if inputs == "a" else [SORTED] * len(texts))


def test_a_pair_is_refused_and_the_error_names_the_input() -> None:
    with pytest.raises(ServiceError, match="Pairs of texts") as caught:
        texts_of(parsed([["a"], ["b", "c"]]))
    assert render_error(caught.value)[0] == 422
    assert "inputs[1]" in render_error(caught.value)[1]["error"]


def test_an_empty_list_in_a_list_is_no_pair() -> None:
    with pytest.raises(ServiceError, match="must have one text") as caught:
        texts_of(parsed([["a"], []]))
    assert caught.value.field == "inputs[1]"


def test_the_inference_apis_client_can_read_a_reply() -> None:
    body = parsed("a", parameters={})
    rows = TextClassificationOutputElement.parse_obj_as_list(json.dumps(reply(body, [SCORES])))[0]
    assert [row.label for row in rows] == ["offensive", "hate", "neither"]


def test_top_k_limits_the_labels() -> None:
    assert reply(parsed("a", parameters={"top_k": 1}), [SCORES]) == [SORTED[:1]]
    assert reply(parsed(["a", "b"], parameters={"top_k": 9}), [SCORES] * 2) == [SORTED] * 2


@pytest.mark.parametrize(
    "more",
    [
        {"raw_scores": True},
        {"raw_scores": 0},
        {"raw_scores": 0.0},
        {"parameters": {"function_to_apply": "sigmoid"}},
        {"parameters": {"top_k": 0}},
        {"truncate": "no"},
        {"truncation_direction": "Middle"},
        {"raw_score": False},
        {"options": {"use_gpu": True}},
        {"parameters": {"return_all_scores": True}},
    ],
)
def test_options_that_would_change_the_scores_are_refused(more: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        parsed("a", **more)


def test_null_is_not_set_and_what_cannot_change_a_score_is_taken() -> None:
    fields = ("parameters", "options", "raw_scores", "truncate", "truncation_direction")
    assert parsed("a", **dict.fromkeys(fields)).may_truncate
    assert parsed("a", options={"use_cache": False, "wait_for_model": True}).may_truncate
    assert not parsed("a", truncate=False).may_truncate
    assert [parsed("a", truncation_direction=side).may_truncate for side in ("Left", "Right")] == [
        False,
        True,
    ]


def test_errors_name_the_field() -> None:
    assert [field_of(parsed("a"), 0), field_of(parsed(["a", "b"]), 1)] == ["inputs", "inputs[1]"]


@pytest.mark.parametrize(
    ("code", "status", "error_type"),
    [
        (ErrorCode.INVALID, 422, "validation"),
        (ErrorCode.TOO_LARGE, 413, "validation"),
        (ErrorCode.RATE_LIMITED, 429, "overloaded"),
        (ErrorCode.OVERLOADED, 429, "overloaded"),
        (ErrorCode.UNAVAILABLE, 503, "unhealthy"),
        (ErrorCode.INTERNAL, 500, "backend"),
    ],
)
def test_errors_have_the_type_of_text_embeddings_inference(
    code: ErrorCode, status: int, error_type: str
) -> None:
    rendered, body = render_error(ServiceError(code, "A message"))
    assert (rendered, body) == (status, {"error": "A message", "error_type": error_type})
