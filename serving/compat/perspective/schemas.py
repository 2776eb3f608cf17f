"""Perspective API's messages, as its discovery document names them.

As protocol buffers are read from JSON: null is unset, a name may be spelled either way, and nothing
unknown may stand in them.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Message(BaseModel):
    """The base of all."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, extra="forbid", frozen=True
    )


class TextEntry(Message):
    """A text; its type is PLAIN_TEXT, unless HTML is said."""

    text: str | None = None
    type: str | None = None


class ArticleAndParentComment(Message):
    """What a comment answers."""

    article: TextEntry | None = None
    parent_comment: TextEntry | None = None


class Context(Message):
    """What a comment refers to; accepted, and not read."""

    entries: list[TextEntry] | None = None
    article_and_parent_comment: ArticleAndParentComment | None = None


class AttributeParameters(Message):
    """How an attribute is wanted."""

    score_type: str | None = None
    score_threshold: float | None = None


class Score(Message):
    """A score and its type, which is PROBABILITY."""

    value: float | None = None
    type: str | None = None


class SpanScore(Message):
    """The score of a part; offsets in UTF-16 units, the end exclusive."""

    begin: int | None = None
    end: int | None = None
    score: Score | None = None


class AttributeScores(Message):
    """An attribute's scores."""

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
    """What `comments:analyze` takes."""

    requested_attributes: dict[str, AttributeParameters | None] | None = None
    span_annotations: bool | None = None
    do_not_store: bool | None = None


class AnalyzeReply(Message):
    """What `comments:analyze` says."""

    attribute_scores: dict[str, AttributeScores]
    languages: list[str]
    client_token: str | None = None


class SuggestRequest(_Request):
    """What `comments:suggestscore` takes."""

    attribute_scores: dict[str, AttributeScores | None] | None = None


class SuggestReply(Message):
    """What `comments:suggestscore` says."""

    requested_languages: list[str] | None = None
    client_token: str | None = None


class Status(BaseModel):
    """What went wrong, as Google tells it."""

    code: int
    message: str
    status: str
    details: list[dict[str, Any]] = []


class GoogleError(BaseModel):
    """The one shape of every error."""

    error: Status
