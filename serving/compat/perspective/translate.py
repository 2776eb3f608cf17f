"""Translates Perspective API's requests to texts, and our scores to its replies.

    comments:analyze       comment, attributes → a score for each attribute, and for each sentence
    comments:suggestscore  comment, the scores that it should have → feedback

configs/perspective.yaml defines the attributes. Languages are not detected: a reply has no
`detectedLanguages`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.api.schemas import Label
from serving.bundle import LABELS
from serving.compat.perspective.errors import RefusedError
from serving.compat.perspective.schemas import (
    AnalyzeRequest,
    AttributeParameters,
    AttributeScores,
    SuggestRequest,
    TextEntry,
)
from serving.compat.perspective.spans import Plain, Span, plain, sentences, utf16
from serving.settings import load_config

PROBABILITY = "PROBABILITY"
SCORE_TYPES = {None, "SCORE_TYPE_UNSPECIFIED", PROBABILITY}
TEXT_TYPES = {None, "TEXT_TYPE_UNSPECIFIED", "PLAIN_TEXT", "HTML"}
SUGGESTED = 0.5  # a suggested score of at least this means that the comment has the attribute


class Attributes(BaseModel):
    """The content of configs/perspective.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attributes: dict[
        Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_@]{0,63}$")],
        Annotated[frozenset[Label], Field(min_length=1)],
    ]
    unsupported: Literal["refuse", "omit"]
    languages: Annotated[tuple[str, ...], Field(min_length=1)]

    @classmethod
    def load(cls, path: Path) -> "Attributes":
        """Read a table; SettingsError if the file cannot be used."""
        return load_config(path, cls)

    def known(self, requested: Sequence[str]) -> list[str]:
        """Return the known attributes; RefusedError if unknown ones must be refused."""
        unknown = [name for name in requested if name not in self.attributes]
        if unknown and self.unsupported == "refuse":
            raise RefusedError(f"Unknown requested attribute: {unknown[0]}", "INVALID_REQUEST")
        return [name for name in requested if name in self.attributes]

    def score(self, name: str, scores: Mapping[str, float]) -> float:
        """Return an attribute's score from a text's probabilities, which have six decimals."""
        return min(1.0, round(math.fsum(scores[label] for label in self.attributes[name]), 6))


class Comment:
    """A request's comment: the text to classify, and its places in what was sent."""

    def __init__(self, entry: TextEntry | None) -> None:
        """Read a comment; RefusedError if it is empty or has an unknown type."""
        self.sent = (entry and entry.text) or ""
        kind = entry.type if entry else None
        if kind not in TEXT_TYPES:
            raise RefusedError("Unknown text type", "INVALID_REQUEST")
        if not self.sent.strip():
            raise RefusedError.empty()
        self._is_html = kind == "HTML"

    @cached_property
    def _plain(self) -> Plain | None:
        return plain(self.sent) if self._is_html else None

    @property
    def text(self) -> str:
        """The text without markup; RefusedError if it is empty."""
        if self._plain is None:
            return self.sent
        if not self._plain.text.strip():
            raise RefusedError.empty()
        return self._plain.text

    def offsets(self, spans: Sequence[Span]) -> list[Span]:
        """Return spans of `text` as UTF-16 offsets in what was sent."""
        if self._plain:
            spans = [self._plain.source(span) for span in spans]
        units = utf16(self.sent, [position for span in spans for position in span])
        return [Span(begin, end) for begin, end in zip(units[::2], units[1::2], strict=True)]


class Analysis:
    """A valid `comments:analyze` request: what to score, and how to reply."""

    def __init__(self, body: AnalyzeRequest, table: Attributes) -> None:
        """Check a request.

        Raises:
            RefusedError: Perspective would refuse it.
        """
        self.comment = Comment(body.comment)
        _check_context(body)
        requested = body.requested_attributes or {}
        if not requested:
            raise RefusedError("Missing requested_attributes", "NO_REQUESTED_ATTRIBUTES")
        names = table.known([*requested])
        self._options = {name: requested[name] or AttributeParameters() for name in names}
        for name, options in self._options.items():
            if options.score_type not in SCORE_TYPES:
                score_type = str(options.score_type)[:40]
                message = f"Requested score type {score_type} is not supported by attribute {name}"
                raise RefusedError(message, "INVALID_REQUEST")
        self._languages = _languages(body, table, next(iter(requested)))
        self._body, self._table = body, table

    def spans(self, limit: int) -> list[Span]:
        """Return the spans to score: the whole text or, if requested, its sentences."""
        if not self._body.span_annotations:
            return [Span(0, len(self.comment.text))]
        return sentences(self.comment.text, limit)

    def reply(
        self,
        scores: Mapping[str, float],
        spans: Sequence[Span],
        span_scores: Sequence[Mapping[str, float]],
    ) -> dict[str, Any]:
        """Return the reply.

        Args:
            scores: the text's probabilities.
            spans: parts of the text.
            span_scores: their probabilities.
        """
        offsets = self.comment.offsets(spans)
        attributes = {}
        for name, options in self._options.items():
            threshold = -math.inf if options.score_threshold is None else options.score_threshold
            parts = [
                {"begin": begin, "end": end, "score": _score(value)}
                for (begin, end), row in zip(offsets, span_scores, strict=True)
                if (value := self._table.score(name, row)) >= threshold
            ]
            whole = self._table.score(name, scores)
            result: dict[str, Any] = {"spanScores": parts} if parts else {}
            if whole >= threshold:
                result["summaryScore"] = _score(whole)
            if result:
                attributes[name] = result
        reply = {"attributeScores": attributes, "languages": self._languages}
        return reply | _token(self._body.client_token)


class Suggestion:
    """A valid `comments:suggestscore` request, as feedback."""

    def __init__(self, body: SuggestRequest, table: Attributes) -> None:
        """Check a request.

        Raises:
            RefusedError: no score is suggested for the whole comment, or they leave no label.
        """
        self.comment = Comment(body.comment)
        _check_context(body)
        suggested = body.attribute_scores or {}
        if not suggested:
            raise RefusedError("Missing attribute_scores", "INVALID_REQUEST")
        allowed, notes = set(LABELS), []
        for name in table.known([*suggested]):
            summary = (suggested[name] or AttributeScores()).summary_score
            value = summary.value if summary else None
            if value is None or not 0 <= value <= 1:
                message = f"A summary score from 0 to 1 is needed for attribute {name}"
                raise RefusedError(message, "INVALID_REQUEST")
            labels = table.attributes[name]
            allowed &= labels if value >= SUGGESTED else set(LABELS) - labels
            notes.append(f"{name}={value:g}")
        if not allowed or not notes:
            raise RefusedError("The suggested scores leave no label", "INVALID_REQUEST")
        self._languages = _languages(body, table, next(iter(suggested)))
        # A suggestion may allow several labels, as toxicity does: then it is a partial label.
        self.label = "+".join(label for label in LABELS if label in allowed)
        community = f" in {body.community_id[:200]}" if body.community_id else ""
        self.note = f"suggestscore{community}: {', '.join(notes)}"
        self._body = body

    def reply(self) -> dict[str, Any]:
        """Return the reply."""
        languages = {"requestedLanguages": self._languages} if self._body.languages else {}
        return languages | _token(self._body.client_token)


def _check_context(body: AnalyzeRequest | SuggestRequest) -> None:
    """Raise RefusedError if a context has both forms."""
    if body.context and body.context.entries and body.context.article_and_parent_comment:
        raise RefusedError(
            "Context can have either entries or article_and_parent_comment, but both fields were "
            "populated.",
            "INVALID_REQUEST",
        )


def _languages(
    body: AnalyzeRequest | SuggestRequest, table: Attributes, attribute: str
) -> list[str]:
    """Return a reply's languages; RefusedError if the model knows none of the requested ones."""
    if not body.languages:
        return [table.languages[0]]
    if not any(re.split("[-_]", tag.lower())[0] in table.languages for tag in body.languages):
        raise RefusedError.language(attribute, body.languages)
    return body.languages


def _score(value: float) -> dict[str, Any]:
    return {"value": value, "type": PROBABILITY}


def _token(token: str | None) -> dict[str, str]:
    return {"clientToken": token} if token else {}
