"""The routes of the review queue; the reviewer is the name of the API key."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from serving.api.routing import FastRoute, Json, classifier_of, requires
from serving.api.schemas import (
    Attributes,
    ErrorReply,
    FeedbackReply,
    Label,
    Scores,
)
from serving.api.schemas import Request as RequestBody
from serving.api.v1 import ERRORS, GET_ERRORS, NOT_FOUND, Responses, unknown_prediction
from serving.errors import ErrorCode, ServiceError
from serving.prediction_log.records import timestamp
from serving.review.queue import Reason, Verdict
from serving.review.service import (
    NoReviewError,
    NoTextsError,
    NotLeasedError,
    QueueItem,
    ReviewError,
    ReviewQueue,
    UnknownPredictionError,
)

CONFLICT: Responses = {
    409: {
        "model": ErrorReply,
        "description": "Not leased to the caller, or the log keeps no texts",
    }
}

router = APIRouter(prefix="/v1/review", route_class=FastRoute)


class ReviewItem(BaseModel):
    """A prediction to look at; it is the caller's until `lease_until`."""

    prediction_id: str
    text: str
    label: Label
    scores: Scores
    attributes: Annotated[
        Attributes | None, Field(description="missing in predictions of versions before 0.3")
    ] = None
    toxicity: str
    action: str
    language: str | None = None
    model_version: str
    ts: Annotated[datetime, Field(description="time of the prediction")]
    reason: Annotated[Reason, Field(description="why the queue gives it")]
    lease_until: datetime


class AgreementReply(BaseModel):
    """How far reviewers agree."""

    kappa: Annotated[
        float | None, Field(description="Cohen's; null below two pairs or where it is not defined")
    ]
    pairs: Annotated[int, Field(description="pairs of two reviewers' labels of one prediction")]


class ReviewReply(BaseModel):
    """The next items, the caller's own first."""

    items: list[ReviewItem]
    reviewed: Annotated[int, Field(description="reviews of the caller in the last 24 hours")]
    waiting: Annotated[int, Field(description="items that nobody has, at most 5000")]
    agreement: AgreementReply


class ReviewRequest(RequestBody):
    """What a reviewer says."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"label": "neither"}]})

    label: Annotated[
        Verdict, Field(description="the right label; skip leaves the item to other reviewers")
    ]
    note: Annotated[str | None, Field(max_length=1000, description="stored in full")] = None


@router.get("", response_model=ReviewReply, responses=GET_ERRORS | CONFLICT | {422: ERRORS[422]})
@requires("review")
async def next_items(request: Request, limit: Annotated[int, Query(ge=1, le=50)] = 1) -> Json:
    """Give the next items to the caller; until their leases run out no other reviewer gets them."""
    try:
        state = await _queue(request).next_items(_reviewer(request), limit)
    except ReviewError as error:
        raise _reported(error) from None
    classifier_of(request).metrics.review_queue(state.waiting, state.agreement.kappa)
    reply = {
        "items": [_item(item) for item in state.items],
        "reviewed": state.reviewed,
        "waiting": state.waiting,
        "agreement": state.agreement._asdict(),
    }
    return Json(reply, headers={"cache-control": "no-store"})


@router.post(
    "/{prediction_id}", response_model=FeedbackReply, responses=ERRORS | NOT_FOUND | CONFLICT
)
@requires("review")
async def give(request: Request, body: ReviewRequest, prediction_id: str) -> dict[str, str]:
    """Store the caller's label; sent again, it replaces the last one."""
    try:
        id_, reason, is_first = await _queue(request).give(
            prediction_id, _reviewer(request), body.label, body.note
        )
    except ReviewError as error:
        raise _reported(error) from None
    if is_first:
        classifier_of(request).metrics.reviewed(body.label, reason)
    return {"id": id_}


@router.delete("/{prediction_id}", status_code=204, responses=GET_ERRORS | NOT_FOUND | CONFLICT)
@requires("review")
async def undo(request: Request, prediction_id: str) -> None:
    """Remove the caller's review and give the item to the caller again."""
    try:
        await _queue(request).undo(prediction_id, _reviewer(request))
    except ReviewError as error:
        raise _reported(error) from None


def _queue(request: Request) -> ReviewQueue:
    queue: ReviewQueue = request.app.state.reviews
    return queue


def _reviewer(request: Request) -> str:
    # Only a key can have the scope, so there is a name.
    return str(request.scope["state"]["client"])


def _item(item: QueueItem) -> dict[str, Any]:
    prediction = item.prediction
    fields = ("text", "label", "scores", "toxicity", "action", "model_version", "ts")
    return {
        "prediction_id": prediction["_id"],
        **{name: prediction[name] for name in fields},
        "attributes": prediction.get("attributes"),
        "language": prediction.get("language"),
        "reason": item.reason,
        "lease_until": timestamp(item.lease_until),
    }


def _reported(error: ReviewError) -> ServiceError:
    """Return the error that the caller gets."""
    if isinstance(error, UnknownPredictionError):
        return unknown_prediction()
    if isinstance(error, NoReviewError):
        message = "There is no review of yours for this prediction"
        return ServiceError(ErrorCode.NOT_FOUND, message, field="prediction_id")
    if isinstance(error, NotLeasedError):
        message = "You do not have this item: its lease ran out, or another reviewer has it"
        return ServiceError(ErrorCode.CONFLICT, message, field="prediction_id")
    assert isinstance(error, NoTextsError)
    message = "There is nothing to review: the log stores no texts (TAGGER_STORE_TEXT is not full)"
    return ServiceError(ErrorCode.CONFLICT, message)
