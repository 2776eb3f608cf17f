"""Label Studio's JSON: tasks with pre-annotations on the way out, annotations on the way in.

    tasks           Candidate -> {"data": …, "predictions": […]}
    annotations_of  a file of Label Studio's export "JSON" -> Annotation

Both use the labelling configuration in docs/review.md: a `Choices` named `label` and a `TextArea`
named `note`, both of a `Text` named `text`. The formats are described at
https://labelstud.io/guide/tasks and https://labelstud.io/guide/export.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import orjson

from serving.prediction_log.records import Document, milliseconds
from serving.review.queue import REASONS, VERDICTS
from serving.review.store import Annotation, Candidate

MAX_NOTE = 1_000  # characters
# A colon is not in the name of an API key: nobody reviews in the name of a key.
REVIEWER = "label-studio:{}"
MISSING = object()


class LabelStudioError(Exception):
    """A file is no export of Label Studio; the message names the item, and what is wanted."""


def tasks(candidates: Iterable[Candidate]) -> list[Document]:
    """Return Label Studio's tasks; what the model says is in them as a pre-annotation."""
    return [_task(*candidate) for candidate in candidates]


def _task(prediction: Document, reason: str, weight: float | None) -> Document:
    label = prediction["label"]
    choice = {"choices": [label]}
    return {
        "data": {
            "text": prediction["text"],
            "prediction_id": prediction["_id"],
            "reason": reason,
            "weight": weight,
            "action": prediction["action"],
            "language": prediction.get("language"),
            "ts": prediction["ts"].isoformat(),
        },
        "predictions": [
            {
                "model_version": prediction["model_version"],
                "score": prediction["scores"][label],
                "result": [
                    {
                        "id": "label",
                        "from_name": "label",
                        "to_name": "text",
                        "type": "choices",
                        "value": choice,
                    }
                ],
            }
        ],
    }


def annotations_of(content: bytes) -> list[Annotation]:
    """Return the annotations in a file, the oldest first.

    A task without annotations has none; one that was skipped counts as `skip`.

    Raises:
        LabelStudioError: something in it is wrong.
    """
    try:
        items = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise LabelStudioError(
            f"got no JSON ({error}), wanted Label Studio's export JSON"
        ) from None
    if not isinstance(items, list):
        raise LabelStudioError(f"got {_shown(items)}, wanted a list of tasks")
    found = [each for i, item in enumerate(items) for each in _of_task(f"item {i + 1}", item)]
    return sorted(found, key=lambda annotation: annotation.ts or 0)


def _of_task(place: str, task: Any) -> Iterator[Annotation]:
    annotations = _field(place, task, "annotations", list)
    data = _field(place, task, "data", dict)
    place_of_data = f"{place}, data"
    prediction_id = _field(place_of_data, data, "prediction_id", str)
    reason = _one_of(f"{place_of_data}.reason", data.get("reason", MISSING), REASONS)
    weight = None
    if reason == "random":
        weight = float(_field(place_of_data, data, "weight", int, float))
        if not 1 <= weight < float("inf"):
            raise LabelStudioError(f"{place_of_data}.weight: got {weight:g}, wanted 1 or more")
    for i, annotation in enumerate(annotations):
        here = f"{place}, annotation {i + 1}"
        label, note = _answer(here, annotation)
        yield Annotation(
            prediction_id,
            _reviewer(here, annotation),
            label,
            note,
            _time(here, annotation),
            reason,
            weight,
        )


def _answer(place: str, annotation: Any) -> tuple[str, str | None]:
    """Return label and note of an annotation."""
    regions = _field(place, annotation, "result", list)
    if annotation.get("was_cancelled"):
        return "skip", None
    choices: list[Any] = []
    notes: list[str] = []
    for region in regions:
        name = _field(place, region, "from_name", str)
        value = _field(place, region, "value", dict)
        if name == "label":
            choices += _field(f"{place}, label", value, "choices", list)
        elif name == "note":
            lines = _field(f"{place}, note", value, "text", list, str)
            notes += [lines] if isinstance(lines, str) else map(str, lines)
    if len(choices) != 1:
        raise LabelStudioError(f"{place}: got {len(choices)} choices, wanted one in `label`")
    note = "\n".join(notes)
    if len(note) > MAX_NOTE:
        length = f"{len(note):,} characters"
        raise LabelStudioError(f"{place}, note: got {length}, wanted at most {MAX_NOTE:,}")
    return _one_of(f"{place}, label", choices[0], VERDICTS), note or None


def _reviewer(place: str, annotation: Document) -> str:
    """Return the annotator's name: the email where the export has it, else the number."""
    by = _field(place, annotation, "completed_by", dict, int, str)
    if isinstance(by, dict):
        by = by.get("email") or by.get("id")
    if not by or isinstance(by, bool) or len(str(by)) > 200:
        raise LabelStudioError(f"{place}.completed_by: got {_shown(by)}, wanted an annotator")
    return REVIEWER.format(by)


def _time(place: str, annotation: Document) -> int | None:
    text = annotation.get("updated_at") or annotation.get("created_at")
    if text is None:
        return None
    try:
        return milliseconds(datetime.fromisoformat(text))
    except (TypeError, ValueError):  # also of a time without a zone
        wanted = "a time such as 2026-01-02T03:04:05Z"
        raise LabelStudioError(f"{place}: got {_shown(text)}, wanted {wanted}") from None


def _field(place: str, holder: Any, name: str, *types: type) -> Any:
    """Return a field of an object. Raises LabelStudioError."""
    if not isinstance(holder, dict):
        raise LabelStudioError(f"{place}: got {_shown(holder)}, wanted an object")
    value = holder.get(name, MISSING)
    if not isinstance(value, types) or isinstance(value, bool):
        names = {dict: "an object", list: "a list", str: "a text", int: "a number"}
        wanted = " or ".join(names[each] for each in types if each in names)
        hint = " (of the export JSON, not JSON-MIN)" if name == "annotations" else ""
        raise LabelStudioError(f"{place}.{name}: got {_shown(value)}, wanted {wanted}{hint}")
    return value


def _one_of(place: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise LabelStudioError(f"{place}: got {_shown(value)}, wanted {', '.join(known)}")
    return str(value)


def _shown(value: object) -> str:
    """Return a value as it may be shown: a text in it may be long."""
    if value is MISSING:
        return "nothing"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return repr(value)[:80]
