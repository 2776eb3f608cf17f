"""Records and the documents that are stored of them."""

import hashlib
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from serving.prediction_log.records import (
    FeedbackRecord,
    milliseconds,
    timestamp,
    with_current_fields,
)
from tests.support.prediction_log import as_written_by_0_1, prediction


def test_a_prediction_document_has_every_field_and_the_text() -> None:
    record = prediction(id="a", ts=datetime(1970, 1, 2, tzinfo=UTC))
    assert record.document("full") == {
        "_id": "a",
        "request_id": "request",
        "ts": 86_400_000,
        "scores": {"hate": 0.1, "offensive": 0.2, "neither": 0.7},
        "attributes": {"TOXICITY": 0.3, "THREAT": 0.01},
        "label": "neither",
        "toxicity": "none",
        "action": "allow",
        "language": "en",
        "model_version": "model",
        "policy_version": "policy",
        "latency_ms": 1.5,
        "client": "bob",
        "api": "native",
        "text": "wörds",
    }


def test_a_hash_or_nothing_can_replace_the_text() -> None:
    record = prediction()
    without = record.document("none")
    assert "wörds" not in str(without)
    digest = hashlib.sha256("wörds".encode()).hexdigest()
    assert record.document("hash") == without | {"text_hash": digest}
    assert record.document("full") == without | {"text": "wörds"}


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        prediction().label = "hate"  # type: ignore[misc]


def test_the_same_feedback_of_a_client_has_one_id() -> None:
    feedback = FeedbackRecord("a", "hate", "it is", "bob")
    assert replace(feedback).id == feedback.id
    for name in ("comment", "client"):
        assert replace(feedback, **{name: None}).id == replace(feedback, **{name: ""}).id
    changes = (
        {"prediction_id": "b"}, {"label": "neither"}, {"comment": "it is not"}, {"client": "eve"}
    )  # fmt: skip
    assert len({feedback.id, *(replace(feedback, **change).id for change in changes)}) == 5


def test_a_feedback_document_has_a_comment_only_if_there_is_one() -> None:
    feedback = FeedbackRecord("a", "hate", None, None)
    without = {"_id": feedback.id, "prediction_id": "a", "label": "hate", "ts": 5, "client": None}
    assert feedback.document(5) == without
    commented = replace(feedback, comment="it is")
    assert commented.document(5) == without | {"_id": commented.id, "comment": "it is"}


def test_milliseconds_and_timestamp_are_inverse() -> None:
    for ms in (0, 1, 999, 1_767_323_045_678, 4_102_444_800_001):
        assert milliseconds(timestamp(ms)) == ms
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone(timedelta(hours=5)))
    assert timestamp(milliseconds(moment)) == moment


def test_microseconds_are_cut_off() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_999, tzinfo=UTC)
    assert timestamp(milliseconds(moment)) == moment.replace(microsecond=678_000)


def test_the_old_field_name_of_api_is_replaced() -> None:
    record = prediction(api="openai")
    assert with_current_fields(as_written_by_0_1(record)) == record.document("full")
    assert with_current_fields(record.document("full")) == record.document("full")
