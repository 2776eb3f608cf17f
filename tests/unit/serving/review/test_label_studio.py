"""Label Studio's JSON: what is exported has its form, and what is wrong in an import is named."""

import json
from typing import Any

import pytest
from jsonschema import validate

from serving.review.label_studio import LabelStudioError, annotations_of, tasks
from serving.review.store import Annotation, Candidate
from tests.support.prediction_log import NOW, as_read, prediction

# After https://labelstud.io/guide/tasks and /guide/predictions. Label Studio's own check, its SDK,
# has 70 packages; docs/review.md says when it was run.
SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["data", "predictions"],
        "additionalProperties": False,
        "properties": {
            "data": {
                "type": "object",
                "required": ["text", "prediction_id", "reason"],
                "properties": {"text": {"type": "string", "minLength": 1}},
            },
            "predictions": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["model_version", "score", "result"],
                    "properties": {
                        "model_version": {"type": "string"},
                        "score": {"type": "number", "minimum": 0, "maximum": 1},
                        "result": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["id", "from_name", "to_name", "type", "value"],
                                "properties": {
                                    "from_name": {"const": "label"},
                                    "to_name": {"const": "text"},
                                    "type": {"const": "choices"},
                                    "value": {
                                        "type": "object",
                                        "required": ["choices"],
                                        "properties": {
                                            "choices": {
                                                "type": "array",
                                                "minItems": 1,
                                                "maxItems": 1,
                                                "items": {"enum": ["hate", "offensive", "neither"]},
                                            }
                                        },
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}
TS = int(NOW.timestamp() * 1000)


def task(**changes: Any) -> dict[str, Any]:
    label = {
        "from_name": "label",
        "to_name": "text",
        "type": "choices",
        "value": {"choices": ["hate"]},
    }
    note = {
        "from_name": "note",
        "to_name": "text",
        "type": "textarea",
        "value": {"text": ["a note", "and more"]},
    }
    annotation = {
        "completed_by": 3,
        "was_cancelled": False,
        "created_at": "2026-01-02T03:04:05.678Z",
        "result": [label, note],
    }
    data = {"prediction_id": "p", "text": "t", "reason": "action", "weight": None}
    return {"data": data, "annotations": [annotation]} | changes


def read(*items: Any) -> list[Annotation]:
    return annotations_of(json.dumps(items).encode())


def test_what_is_exported_has_label_studios_form() -> None:
    record = prediction(text="wörds 🦄", label="neither")
    document = as_read(record)
    found = tasks([Candidate(document, "action"), Candidate(document, "random", 40.0)])
    validate(json.loads(json.dumps(found)), SCHEMA)
    assert found[0]["data"] == {
        "text": "wörds 🦄",
        "prediction_id": record.id,
        "reason": "action",
        "weight": None,
        "action": "allow",
        "language": "en",
        "ts": "2026-01-02T03:04:05.678000+00:00",
    }
    assert found[1]["data"]["weight"] == 40
    (pre_annotation,) = found[0]["predictions"]
    assert pre_annotation["score"] == record.scores["neither"]
    assert pre_annotation["result"][0]["value"] == {"choices": ["neither"]}


def test_annotations_become_reviews_of_their_annotators() -> None:
    assert read(task()) == [
        Annotation("p", "label-studio:3", "hate", "a note\nand more", TS, "action", None)
    ]
    by_email = task()["annotations"][0] | {"completed_by": {"id": 4, "email": "a@b.example"}}
    skipped = by_email | {"was_cancelled": True, "result": []}
    found = read(task(annotations=[by_email]), task(annotations=[skipped]), task(annotations=[]))
    assert [(each.reviewer, each.label) for each in found] == [
        ("label-studio:a@b.example", "hate"),
        ("label-studio:a@b.example", "skip"),
    ]


def test_the_newest_annotation_of_a_person_comes_last() -> None:
    first = task()["annotations"][0]
    later = first | {"updated_at": "2026-02-02T03:04:05Z"}
    times = [each.ts for each in read(task(annotations=[later, first]))]
    assert times == [TS, TS + 31 * 86_400_000 - 678]


def test_the_weight_of_a_random_item_is_kept() -> None:
    data = task()["data"] | {"reason": "random", "weight": 250}
    assert read(task(data=data))[0].weight == 250


def changed(**fields: Any) -> dict[str, Any]:
    """A task whose annotation is wrong in some fields."""
    return task(annotations=[task()["annotations"][0] | fields])


def labelled(*choices: object) -> dict[str, Any]:
    region = {"from_name": "label", "value": {"choices": list(choices)}}
    return changed(result=[region])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("x", "item 2: got 'x', wanted an object"),
        ({"data": {}}, "item 2.annotations: got nothing, wanted a list (of the export JSON"),
        (task(data=[]), "item 2.data: got a list, wanted an object"),
        (task(data={}), "item 2, data.prediction_id: got nothing, wanted a text"),
        (task(data={"prediction_id": 1}), "item 2, data.prediction_id: got 1, wanted a text"),
        (
            task(data={"prediction_id": "p", "reason": "x"}),
            "item 2, data.reason: got 'x', wanted random, disagreement",
        ),
        (
            task(data={"prediction_id": "p", "reason": "random"}),
            "item 2, data.weight: got nothing, wanted a number",
        ),
        (
            task(data={"prediction_id": "p", "reason": "random", "weight": 0}),
            "item 2, data.weight: got 0, wanted 1 or more",
        ),
        (labelled("rude"), "item 2, annotation 1, label: got 'rude', wanted hate, offensive"),
        (labelled(["hate"]), "item 2, annotation 1, label: got a list, wanted hate, offensive"),
        (labelled(), "item 2, annotation 1: got 0 choices, wanted one in `label`"),
        (labelled("hate", "neither"), "item 2, annotation 1: got 2 choices, wanted one"),
        (changed(result=None), "item 2, annotation 1.result: got None, wanted a list"),
        (changed(completed_by=None), "item 2, annotation 1.completed_by: got None, wanted"),
        (changed(completed_by={}), "item 2, annotation 1.completed_by: got None, wanted"),
        (changed(created_at="soon"), "item 2, annotation 1: got 'soon', wanted a time such as"),
        (
            changed(created_at="2026-01-02T03:04:05"),
            "item 2, annotation 1: got '2026-01-02T03:04:05', wanted a time such as",
        ),
        (
            changed(
                result=[
                    {"from_name": "label", "value": {"choices": ["hate"]}},
                    {"from_name": "note", "value": {"text": "x" * 1001}},
                ]
            ),
            "item 2, annotation 1, note: got 1,001 characters, wanted at most 1,000",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(item: Any, message: str) -> None:
    with pytest.raises(LabelStudioError) as caught:
        read(task(), item)
    assert message in str(caught.value)


def test_a_file_that_is_no_list_of_tasks_is_refused() -> None:
    for content, message in ((b"{", "got no JSON"), (b"{}", "got an object, wanted a list")):
        with pytest.raises(LabelStudioError, match=message):
            annotations_of(content)
