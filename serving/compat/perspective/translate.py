"""The dialect of Perspective API: its requests to texts, our scores to its replies.

    comments:analyze       comment, attributes → a score for each attribute, and for each sentence
    comments:suggestscore  comment, the scores that it should have → feedback

Pure translation: it knows neither HTTP nor the engine. What the attributes mean is in
`configs/perspective.yaml`. Languages are not detected: a reply has no `detectedLanguages`.
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
SUGGESTED = 0.5  # from this score on a suggestion says that the comment has the attribute


class Attributes(BaseModel):
    """The content of `configs/perspective.yaml`."""

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

    def known(self, asked: Sequence[str]) -> list[str]:
        """Return the attributes that can be answered; RefusedError if others must not be asked."""
        unknown = [name for name in asked if name not in self.attributes]
        if unknown and self.unsupported == "refuse":
            raise RefusedError(f"Unknown requested attribute: {unknown[0]}", "INVALID_REQUEST")
        return [name for name in asked if name in self.attributes]

    def score(self, name: str, scores: Mapping[str, float]) -> float:
        """Return an attribute's score of a text's probabilities, which have six decimals."""
        return min(1.0, round(math.fsum(scores[label] for label in self.attributes[name]), 6))


class Comment:
    """A request's comment: the text that is judged, and where its parts stand in what was sent."""

    def __init__(self, entry: TextEntry | None) -> None:
        """Take a comment; RefusedError if it is empty or of an unknown type."""
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
        """The text without markup; RefusedError if nothing is left."""
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
    """A checked `comments:analyze`: what to score, and how to tell of it."""

    def __init__(self, body: AnalyzeRequest, table: Attributes) -> None:
        """Check a request.

        Raises:
            RefusedError: what Perspective refuses, for Perspective's reason.
        """
        self.comment = Comment(body.comment)
        _check_context(body)
        asked = body.requested_attributes or {}
        if not asked:
            raise RefusedError("Missing requested_attributes", "NO_REQUESTED_ATTRIBUTES")
        self._asked = {name: asked[name] or AttributeParameters() for name in table.known([*asked])}
        for name, wish in self._asked.items():
            if wish.score_type not in SCORE_TYPES:
                kind = str(wish.score_type)[:40]
                message = f"Requested score type {kind} is not supported by attribute {name}"
                raise RefusedError(message, "INVALID_REQUEST")
        self._languages = _languages(body, table, next(iter(asked)))
        self._body, self._table = body, table

    def spans(self, most: int) -> list[Span]:
        """Return the parts to score: the whole text or, if asked for, its sentences."""
        if not self._body.span_annotations:
            return [Span(0, len(self.comment.text))]
        return sentences(self.comment.text, most)

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
        for name, wish in self._asked.items():
            least = -math.inf if wish.score_threshold is None else wish.score_threshold
            parts = [
                {"begin": begin, "end": end, "score": _score(value)}
                for (begin, end), row in zip(offsets, span_scores, strict=True)
                if (value := self._table.score(name, row)) >= least
            ]
            whole = self._table.score(name, scores)
            found: dict[str, Any] = {"spanScores": parts} if parts else {}
            if whole >= least:
                found["summaryScore"] = _score(whole)
            if found:
                attributes[name] = found
        reply = {"attributeScores": attributes, "languages": self._languages}
        return reply | _token(self._body.client_token)


class Suggestion:
    """A checked `comments:suggestscore`: what feedback it is."""

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
        allowed, said = set(LABELS), []
        for name in table.known([*suggested]):
            summary = (suggested[name] or AttributeScores()).summary_score
            value = summary.value if summary else None
            if value is None or not 0 <= value <= 1:
                message = f"A summary score from 0 to 1 is needed for attribute {name}"
                raise RefusedError(message, "INVALID_REQUEST")
            labels = table.attributes[name]
            allowed &= labels if value >= SUGGESTED else set(LABELS) - labels
            said.append(f"{name}={value:g}")
        if not allowed or not said:
            raise RefusedError("The suggested scores leave no label", "INVALID_REQUEST")
        self._languages = _languages(body, table, next(iter(suggested)))
        # Toxicity may be of either kind: then every label that the suggestion allows is named.
        self.label = "+".join(label for label in LABELS if label in allowed)
        community = f" in {body.community_id[:200]}" if body.community_id else ""
        self.note = f"suggestscore{community}: {', '.join(said)}"
        self._body = body

    def reply(self) -> dict[str, Any]:
        """Return the reply."""
        asked = {"requestedLanguages": self._languages} if self._body.languages else {}
        return asked | _token(self._body.client_token)


def _check_context(body: AnalyzeRequest | SuggestRequest) -> None:
    """Raise RefusedError if a context is of both kinds."""
    if body.context and body.context.entries and body.context.article_and_parent_comment:
        raise RefusedError(
            "Context can have either entries or article_and_parent_comment, but both fields were "
            "populated.",
            "INVALID_REQUEST",
        )


def _languages(
    body: AnalyzeRequest | SuggestRequest, table: Attributes, attribute: str
) -> list[str]:
    """Return a reply's languages; RefusedError if the model knows none of those that are named."""
    if not body.languages:
        return [table.languages[0]]
    if not any(re.split("[-_]", tag.lower())[0] in table.languages for tag in body.languages):
        raise RefusedError.language(attribute, body.languages)
    return body.languages


def _score(value: float) -> dict[str, Any]:
    return {"value": value, "type": PROBABILITY}


def _token(token: str | None) -> dict[str, str]:
    return {"clientToken": token} if token else {}
