"""Parts of a text: its sentences, its plain text if it is HTML, and offsets in UTF-16 units.

Perspective counts offsets as Java and JavaScript do: a character outside the Basic Multilingual
Plane, such as most emoji, counts two. These are pure functions.
"""

import html
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# The lookbehind and the possessive quantifiers keep this linear: a run of marks is matched only
# from its first mark on.
_STOP = r".!?…؟۔।"
_END = re.compile(rf"(?<![{_STOP}])[{_STOP}]++[\"'”’»)\]]*+(?=\s)|[。！？]++[”’」』）]*+")
# At most 1,000 characters, up to the end of a word if there is one: the model reads all of that.
_PART = re.compile(r"\S(?:.{0,998}\S)?(?!\S)|\S{1000}", re.DOTALL)
# A scanner of our own, because any caller can send any markup: the standard library's HTML parser
# takes 17 s for 10 KB of `<a <a <a`. Markup that is not closed extends to the end of the text, as
# in browsers, so that no character is read twice. A tag ends at its first `>`, even in an
# attribute's value: it is better to show the rest of an attribute than to hide words.
_MARKUP = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(script|style|template|title|textarea)\b.*?(?:</\1\b[^>]*(?:>|\Z)|\Z)"
    r"|</?(?P<tag>[a-z][^\s/>]*)[^>]*(?:>|\Z)"
    r"|<[!?/][^>]*(?:>|\Z)"
    r"|(?P<reference>&(?:\#\d{1,7}|\#x[\da-f]{1,6}|[a-z][a-z\d]{1,31});?)",
    re.IGNORECASE | re.DOTALL,
)
_BLOCK = re.compile(
    r"address|article|aside|blockquote|br|d[dlt]|div|fig(?:ure|caption)|footer|form|h[1-6r]|header"
    r"|li|main|nav|ol|p|pre|section|table|t[dhr]|ul",
    re.IGNORECASE,
)


class Span(NamedTuple):
    """A part of a text, in characters; the end is exclusive."""

    begin: int
    end: int


class PlainText(NamedTuple):
    """A text without its markup.

    begins, ends: where each of its characters begins and ends in the source.
    """

    text: str
    begins: Sequence[int]
    ends: Sequence[int]

    def source_span(self, span: Span) -> Span:
        """Return the span of the source that a non-empty span of the text comes from."""
        return Span(self.begins[span.begin], self.ends[span.end - 1])


def sentences(text: str, limit: int) -> list[Span]:
    """Return the spans of a text's sentences, in order, without the white space around them.

    A sentence ends at the end of a line, after marks like `.!?` if white space follows, and after
    `。！？`. One of more than 1,000 characters is split at white space. If there are more than
    `limit`, neighbours are joined so that the longest span is as short as it can be.
    """
    spans: list[Span] = []
    for line in re.finditer(r"[^\r\n]+", text):
        begin = line.start()
        ends = [mark.end() for mark in _END.finditer(text, line.start(), line.end())]
        for end in [*ends, line.end()]:
            part = text[begin:end]
            stripped = part.strip()
            if stripped:
                first = begin + len(part) - len(part.lstrip())
                parts = _PART.finditer(text, first, first + len(stripped))
                spans += [Span(*match.span()) for match in parts]
            begin = end
    if len(spans) <= limit:
        return spans
    lengths = range(len(text) + 1)
    shortest = bisect_left(lengths, True, key=lambda length: len(_join(spans, length)) <= limit)
    return _join(spans, shortest)


def _join(spans: Sequence[Span], length: int) -> list[Span]:
    """Return spans in which neighbours are one as long as that has at most `length` characters."""
    joined = [spans[0]]
    for span in spans[1:]:
        if span.end - joined[-1].begin <= length:
            joined[-1] = Span(joined[-1].begin, span.end)
        else:
            joined.append(span)
    return joined


def utf16_offsets(text: str, positions: Sequence[int]) -> list[int]:
    """Return ascending character positions of a text in UTF-16 units."""
    offsets, previous, units = [], 0, 0
    for position in positions:
        units += len(text[previous:position].encode("utf-16-le", "surrogatepass")) // 2
        previous = position
        offsets.append(units)
    return offsets


def plain_text(markup: str) -> PlainText:
    """Return the text that a reader of this HTML sees."""
    pieces: list[str] = []
    begins: list[int] = []
    ends: list[int] = []

    def show(piece: str, begin: Iterable[int], end: Iterable[int]) -> None:
        pieces.append(piece)
        begins.extend(begin)
        ends.extend(end)

    position = 0
    for match in _MARKUP.finditer(markup):
        begin, end = match.span()
        show(markup[position:begin], range(position, begin), range(position + 1, begin + 1))
        position = end
        if match["reference"]:
            shown = html.unescape(match["reference"])
            show(shown, [begin] * len(shown), [end] * len(shown))
        elif _BLOCK.fullmatch(match["tag"] or ""):
            show("\n", [begin], [begin])
    end = len(markup)
    show(markup[position:], range(position, end), range(position + 1, end + 1))
    return PlainText("".join(pieces), begins, ends)
