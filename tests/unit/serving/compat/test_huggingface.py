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


def asking(inputs: object, **more: object) -> HuggingFaceRequest:
    return HuggingFaceRequest.model_validate({"inputs": inputs, "options": {}} | more)


@pytest.mark.parametrize(
    ("inputs", "texts"),
    [("a", ["a"]), (["a"], ["a"]), (["a", "b"], ["a", "b"]), ([["a"], ["b"]], ["a", "b"])],
)
def test_inputs_become_texts(inputs: object, texts: list[str]) -> None:
    body = asking(inputs)
    assert texts_of(body) == texts
    answer = reply(body, [SCORES] * len(texts))
    assert answer == (SORTED if inputs == "a" else [SORTED] * len(texts))


def test_a_pair_is_refused_by_its_place() -> None:
    with pytest.raises(ServiceError, match="Pairs of texts") as caught:
        texts_of(asking([["a"], ["b", "c"]]))
    assert render_error(caught.value)[0] == 422
    assert "inputs[1]" in render_error(caught.value)[1]["error"]


def test_the_inference_apis_client_gets_the_list_that_it_unwraps() -> None:
    body = asking("a", parameters={})
    found = TextClassificationOutputElement.parse_obj_as_list(json.dumps(reply(body, [SCORES])))[0]
    assert [row.label for row in found] == ["offensive", "hate", "neither"]


def test_top_k_cuts() -> None:
    assert reply(asking("a", parameters={"top_k": 1}), [SCORES]) == [SORTED[:1]]
    assert reply(asking(["a", "b"], parameters={"top_k": 9}), [SCORES] * 2) == [SORTED] * 2


@pytest.mark.parametrize(
    "more",
    [
        {"raw_scores": True},
        {"parameters": {"function_to_apply": "sigmoid"}},
        {"parameters": {"top_k": 0}},
        {"truncate": "no"},
    ],
)
def test_what_would_need_other_numbers_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        asking("a", **more)


def test_errors_name_the_input() -> None:
    assert [field_of(asking("a"), 0), field_of(asking(["a", "b"]), 1)] == ["inputs", "inputs[1]"]


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        (ErrorCode.INVALID, 422, "validation"),
        (ErrorCode.TOO_LARGE, 413, "validation"),
        (ErrorCode.RATE_LIMITED, 429, "overloaded"),
        (ErrorCode.OVERLOADED, 429, "overloaded"),
        (ErrorCode.UNAVAILABLE, 503, "unhealthy"),
        (ErrorCode.INTERNAL, 500, "backend"),
    ],
)
def test_errors_are_told_as_that_server_tells_them(kind: ErrorCode, status: int, told: str) -> None:
    found, body = render_error(ServiceError(kind, "It is so."))
    assert (found, body) == (status, {"error": "It is so.", "error_type": told})
