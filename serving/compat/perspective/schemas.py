"""Perspective API's messages; the discovery document is generated from them.

They are read like protocol buffers in JSON: null means unset, a name may have camelCase or
snake_case, and unknown fields are errors.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Message(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, extra="forbid", frozen=True
    )


class TextEntry(Message):
    """A text; its type is PLAIN_TEXT or HTML."""

    text: str | None = None
    type: str | None = None


class ArticleAndParentComment(Message):
    """The article and the comment that a comment replies to."""

    article: TextEntry | None = None
    parent_comment: TextEntry | None = None


class Context(Message):
    """The context of a comment; accepted and ignored."""

    entries: list[TextEntry] | None = None
    article_and_parent_comment: ArticleAndParentComment | None = None


class AttributeParameters(Message):
    """Options for an attribute."""

    score_type: str | None = None
    score_threshold: float | None = None


class Score(Message):
    """A score; its type is PROBABILITY."""

    value: float | None = None
    type: str | None = None


class SpanScore(Message):
    """The score of a span; offsets count UTF-16 units, the end is exclusive."""

    begin: int | None = None
    end: int | None = None
    score: Score | None = None


class AttributeScores(Message):
    """The scores of an attribute."""

    summary_score: Score | None = None
    span_scores: list[SpanScore] | None = None


class _Request(Message):
    comment: TextEntry | None = None
    context: Context | None = None
    languages: list[str] | None = None
    client_token: str | None = None
    session_id: str | None = None
    community_id: str | None = None


class AnalyzeRequest(_Request):
    """A request for `comments:analyze`."""

    requested_attributes: dict[str, AttributeParameters | None] | None = None
    span_annotations: bool | None = None
    do_not_store: bool | None = None


class AnalyzeReply(Message):
    """A reply of `comments:analyze`."""

    attribute_scores: dict[str, AttributeScores]
    languages: list[str]
    client_token: str | None = None


class SuggestRequest(_Request):
    """A request for `comments:suggestscore`."""

    attribute_scores: dict[str, AttributeScores | None] | None = None


class SuggestReply(Message):
    """A reply of `comments:suggestscore`."""

    requested_languages: list[str] | None = None
    client_token: str | None = None


class Status(BaseModel):
    """An error as Google describes it."""

    code: int
    message: str
    status: str
    details: list[dict[str, Any]] = []


class GoogleError(BaseModel):
    """Every error has this shape."""

    error: Status
