"""Translates Perspective's requests to texts, and our attributes to its replies.

    comments:analyze       comment, attributes → scores of the comment and of its parts
    comments:suggestscore  comment, the scores that it should have → feedback

Its six production attributes are the model's own. `configs/perspective.yaml` says what happens to
requests for others. This module knows neither HTTP nor the engine.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.api.schemas import Attribute
from serving.bundle import ATTRIBUTES, LABELS
from serving.compat.perspective.errors import PerspectiveError
from serving.compat.perspective.schemas import (
    PROBABILITY,
    SCORE_TYPES,
    TEXT_TYPES,
    AnalyzeCommentRequest,
    AttributeParameters,
    AttributeScores,
    CommentRequest,
    SuggestCommentScoreRequest,
    TextEntry,
)
from serving.compat.perspective.spans import PlainText, Span, plain_text, sentences, utf16_offsets
from serving.settings import load_config

SUGGESTION_THRESHOLD = 0.5  # a suggested score from here on means: has the attribute
# The labels that a comment with the attribute can have. It has one of the others without the
# attribute. The other attributes go with any label.
SUGGESTED_LABELS = {"TOXICITY": {"hate", "offensive"}, "IDENTITY_ATTACK": {"hate"}}


class Attributes(BaseModel):
    """The content of `configs/perspective.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unsupported: Literal["refuse", "omit"]
    aliases: dict[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_@]{0,63}$")], Attribute] = {}

    @classmethod
    def load(cls, path: Path) -> "Attributes":
        """Read a table; SettingsError if the file cannot be used."""
        return load_config(path, cls)

    def supported(self, requested: Sequence[str]) -> list[str]:
        """Return the attributes that have a score here.

        Raises:
            PerspectiveError: one has none, and the table says `unsupported: refuse`.
        """
        unknown = [name for name in requested if name not in self.names]
        if unknown and self.unsupported == "refuse":
            raise PerspectiveError(f"Unknown requested attribute: {unknown[0]}", "INVALID_REQUEST")
        return [name for name in requested if name in self.names]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that can be requested: the six attributes, and the aliases."""
        return (*ATTRIBUTES, *self.aliases)

    def resolve(self, name: str) -> str:
        """Return the attribute that a requested name stands for."""
        return self.aliases.get(name, name)


class Comment:
    """A request's comment.

    source: the text as it was sent, with its markup.
    """

    def __init__(self, entry: TextEntry | None) -> None:
        """Check a comment; PerspectiveError if it is empty or of an unknown type."""
        self.source = (entry and entry.text) or ""
        text_type = entry.type if entry else None
        if text_type not in {None, *TEXT_TYPES}:
            raise PerspectiveError("Unknown text type", "INVALID_REQUEST")
        if not self.source.strip():
            raise PerspectiveError.empty()
        self._is_html = text_type == "HTML"

    @cached_property
    def _plain(self) -> PlainText | None:
        return plain_text(self.source) if self._is_html else None

    @property
    def text(self) -> str:
        """The text to classify, without markup; PerspectiveError if nothing is left."""
        if self._plain is None:
            return self.source
        if not self._plain.text.strip():
            raise PerspectiveError.empty()
        return self._plain.text

    def offsets(self, spans: Sequence[Span]) -> list[Span]:
        """Return spans of `text` as UTF-16 offsets in `source`."""
        if self._plain:
            spans = [self._plain.source_span(span) for span in spans]
        units = utf16_offsets(self.source, [position for span in spans for position in span])
        return [Span(begin, end) for begin, end in zip(units[::2], units[1::2], strict=True)]


class Analysis:
    """A checked `comments:analyze` request, and how to reply to it."""

    def __init__(
        self, body: AnalyzeCommentRequest, table: Attributes, supported: Sequence[str]
    ) -> None:
        """Check a request.

        Args:
            body: the request.
            table: which attributes are supported.
            supported: the languages of the model; the first is that of a request without one.

        Raises:
            PerspectiveError: Perspective would refuse it too.
        """
        self.comment = Comment(body.comment)
        _check_context(body)
        requested = body.requested_attributes or {}
        if not requested:
            raise PerspectiveError("Missing requested_attributes", "NO_REQUESTED_ATTRIBUTES")
        names = table.supported([*requested])
        self._parameters = {name: requested[name] or AttributeParameters() for name in names}
        for name, parameters in self._parameters.items():
            if parameters.score_type not in {None, *SCORE_TYPES}:
                score_type = str(parameters.score_type)[:40]
                message = f"Requested score type {score_type} is not supported by attribute {name}"
                raise PerspectiveError(message, "INVALID_REQUEST")
        self._languages = _languages(body, supported, next(iter(requested)))
        self._body, self._table = body, table

    def spans(self, limit: int) -> list[Span]:
        """Return the spans of the comment's text to score: its sentences if the request wants
        `spanAnnotations`, at most `limit`; otherwise the whole text.
        """
        if not self._body.span_annotations:
            return [Span(0, len(self.comment.text))]
        return sentences(self.comment.text, limit)

    def reply(
        self,
        scores: Mapping[str, float],
        spans: Sequence[Span],
        span_scores: Sequence[Mapping[str, float]],
        language: str,
    ) -> dict[str, Any]:
        """Return the reply.

        Args:
            scores: the text's attributes.
            spans: of the text.
            span_scores: the attributes of each span.
            language: that was detected.
        """
        offsets = self.comment.offsets(spans)
        attributes = {}
        for name, parameters in self._parameters.items():
            attribute = self._table.resolve(name)
            threshold = parameters.score_threshold
            minimum = -math.inf if threshold is None else threshold
            parts = [
                {"begin": begin, "end": end, "score": _score(value)}
                for (begin, end), row in zip(offsets, span_scores, strict=True)
                if (value := row[attribute]) >= minimum
            ]
            shown: dict[str, Any] = {"spanScores": parts} if parts else {}
            if scores[attribute] >= minimum:
                shown["summaryScore"] = _score(scores[attribute])
            if shown:
                attributes[name] = shown
        reply = {
            "attributeScores": attributes,
            "languages": self._languages,
            "detectedLanguages": [language],
        }
        return reply | _client_token(self._body)


class Suggestion:
    """A checked `comments:suggestscore` request, as feedback.

    label: the labels that the suggested scores allow, joined by `+`.
    attributes: the suggested scores of the six attributes.
    note: the comment that the feedback gets.
    """

    def __init__(
        self, body: SuggestCommentScoreRequest, table: Attributes, supported: Sequence[str]
    ) -> None:
        """Check a request; see `Analysis`.

        Raises:
            PerspectiveError: an attribute has no summary score, or no label fits the scores.
        """
        self.comment = Comment(body.comment)
        _check_context(body)
        suggested = body.attribute_scores or {}
        if not suggested:
            raise PerspectiveError("Missing attribute_scores", "INVALID_REQUEST")
        self.attributes: dict[str, float] = {}
        allowed, notes = set(LABELS), []
        for name in table.supported([*suggested]):
            scores = suggested[name] or AttributeScores()
            _check_suggested(name, scores)
            value = scores.summary_score.value if scores.summary_score else None
            if value is None or not 0 <= value <= 1:
                message = f"Attribute {name} needs a summary score from 0 to 1"
                raise PerspectiveError(message, "INVALID_REQUEST")
            attribute = table.resolve(name)
            self.attributes[attribute] = value
            if labels := SUGGESTED_LABELS.get(attribute):
                allowed &= labels if value >= SUGGESTION_THRESHOLD else set(LABELS) - labels
            notes.append(f"{name}={value:g}")
        if not allowed or not notes:
            raise PerspectiveError("No label fits the suggested scores", "INVALID_REQUEST")
        self._languages = _languages(body, supported, next(iter(suggested)))
        self.label = "+".join(label for label in LABELS if label in allowed)
        community = f" in {body.community_id[:200]}" if body.community_id else ""
        self.note = f"suggestscore{community}: {', '.join(notes)}"
        self._body = body

    def reply(self) -> dict[str, Any]:
        """Return the reply."""
        languages = {"requestedLanguages": self._languages} if self._body.languages else {}
        return languages | _client_token(self._body)


def _check_suggested(name: str, scores: AttributeScores) -> None:
    """Raise PerspectiveError if scores have a part that would not be stored."""
    if scores.span_scores:
        message = f"Attribute {name}: spanScores cannot be suggested, only a summary score"
        raise PerspectiveError(message, "INVALID_REQUEST")
    score_type = scores.summary_score and scores.summary_score.type
    if score_type not in {None, *SCORE_TYPES}:
        message = f"Attribute {name}: the type of a suggested score must be {PROBABILITY}"
        raise PerspectiveError(message, "INVALID_REQUEST")


def _check_context(body: CommentRequest) -> None:
    """Raise PerspectiveError if a context is of both kinds."""
    if body.context and body.context.entries and body.context.article_and_parent_comment:
        raise PerspectiveError(
            "Context can have either entries or article_and_parent_comment, but both fields were "
            "populated.",
            "INVALID_REQUEST",
        )


def _languages(body: CommentRequest, supported: Sequence[str], attribute: str) -> list[str]:
    """Return the reply's languages; PerspectiveError if the model supports none of the request's.

    Args:
        body: the request.
        supported: the languages of the model.
        attribute: that the error names.
    """
    if not body.languages:
        return [supported[0]]
    if not any(re.split("[-_]", tag.lower())[0] in supported for tag in body.languages):
        raise PerspectiveError.language(attribute, body.languages)
    return body.languages


def _score(value: float) -> dict[str, Any]:
    return {"value": value, "type": PROBABILITY}


def _client_token(body: CommentRequest) -> dict[str, str]:
    return {"clientToken": body.client_token} if body.client_token else {}
