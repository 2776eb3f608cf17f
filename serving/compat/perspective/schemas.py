"""Perspective API's messages, under the names that they have in its discovery document.

They are read as protocol buffers are read from JSON: null means unset, field names may be in camel
case or snake case, and unknown fields are refused. `discovery` describes these models to clients.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

PROBABILITY = "PROBABILITY"
SCORE_TYPES = ("SCORE_TYPE_UNSPECIFIED", PROBABILITY)
TEXT_TYPES = ("TEXT_TYPE_UNSPECIFIED", "PLAIN_TEXT", "HTML")

# Any string is accepted here: `translate` refuses unknown ones with Perspective's own error.
TextType = Annotated[str, Field(json_schema_extra={"enum": [*TEXT_TYPES]})]
RequestedScoreType = Annotated[str, Field(json_schema_extra={"enum": [*SCORE_TYPES]})]
ScoreType = Annotated[str, Field(json_schema_extra={"enum": [PROBABILITY]})]
Float = Annotated[float, Field(json_schema_extra={"format": "float"})]
Int32 = Annotated[int, Field(json_schema_extra={"format": "int32"})]


class Message(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )


class TextEntry(Message):
    """A text; plain, unless its type is HTML."""

    text: str | None = None
    type: TextType | None = None


class ArticleAndParentComment(Message):
    """The article and the comment that a comment replies to."""

    article: TextEntry | None = None
    parent_comment: TextEntry | None = None


class Context(Message):
    """What a comment refers to; accepted and ignored."""

    entries: list[TextEntry] | None = None
    article_and_parent_comment: ArticleAndParentComment | None = None


class AttributeParameters(Message):
    """Options of a requested attribute."""

    score_type: RequestedScoreType | None = None
    score_threshold: Float | None = None


class Score(Message):
    """A probability."""

    value: Float | None = None
    type: ScoreType | None = None


class SpanScore(Message):
    """The score of a part of the text; offsets count UTF-16 units, the end is exclusive."""

    begin: Int32 | None = None
    end: Int32 | None = None
    score: Score | None = None


class AttributeScores(Message):
    """An attribute's scores, of the whole text and of its parts."""

    summary_score: Score | None = None
    span_scores: list[SpanScore] | None = None


class CommentRequest(Message):
    """The fields that both requests have."""

    comment: TextEntry | None = None
    context: Context | None = None
    languages: list[str] | None = None
    client_token: str | None = None
    session_id: str | None = None
    community_id: str | None = None


class AnalyzeCommentRequest(CommentRequest):
    """A comment to score."""

    requested_attributes: dict[str, AttributeParameters | None] | None = None
    span_annotations: bool | None = None
    do_not_store: bool | None = None


class AnalyzeCommentResponse(Message):
    """The scores of each attribute."""

    attribute_scores: dict[str, AttributeScores]
    languages: list[str]
    detected_languages: list[str]
    client_token: str | None = None


class SuggestCommentScoreRequest(CommentRequest):
    """A comment and the scores that it should have."""

    attribute_scores: dict[str, AttributeScores | None] | None = None


class SuggestCommentScoreResponse(Message):
    """The suggestion is stored."""

    requested_languages: list[str] | None = None
    client_token: str | None = None


class GoogleStatus(BaseModel):
    """The cause of an error."""

    code: int
    message: str
    status: str
    details: list[dict[str, Any]] = []


class GoogleError(BaseModel):
    """Every error has this shape."""

    error: GoogleStatus
