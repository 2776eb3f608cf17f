"""Spans of a text: its sentences, its plain text if it is HTML, and offsets in UTF-16 units.

Perspective counts offsets like Java and JavaScript: a character outside the Basic Multilingual
Plane, such as most emoji, counts two.
"""

import html
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# A run of marks is matched only from its first mark on, so its cost is linear in its length.
_STOP = r".!?…؟۔।"
_END = re.compile(rf"(?<![{_STOP}])[{_STOP}]++[\"'”’»)\]]*+(?=\s)|[。！？]++[”’」』）]*+")
# A scanner of our own, because anybody may send markup: the standard library's parser needs 17 s
# for 10 KB of `<a <a <a`. Here an element that is not closed reaches to the end, as in browsers, so
# that nothing is read twice. A tag ends at its first `>`: showing the end of an attribute is better
# than hiding a word.
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
    """A part of a text in characters; the end is exclusive."""

    begin: int
    end: int


class Plain(NamedTuple):
    """A text without markup, and the begin and end of each of its characters in the source."""

    text: str
    begins: Sequence[int]
    ends: Sequence[int]

    def source(self, span: Span) -> Span:
        """Return the span in the source of a non-empty span of the text."""
        return Span(self.begins[span.begin], self.ends[span.end - 1])


def sentences(text: str, limit: int) -> list[Span]:
    """Return the spans of a text's sentences, in order, without the white space around them.

    A sentence ends at the end of a line, after marks like `.!?` before white space, and after
    `。！？`. There are at most `limit` spans; the last one has the rest.
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
                spans.append(Span(first, first + len(stripped)))
            begin = end
    if len(spans) > limit:
        spans = [*spans[: limit - 1], Span(spans[limit - 1].begin, spans[-1].end)]
    return spans


def utf16(text: str, positions: Sequence[int]) -> list[int]:
    """Return ascending character positions of a text in UTF-16 units."""
    units, start, count = [], 0, 0
    for position in positions:
        count += len(text[start:position].encode("utf-16-le", "surrogatepass")) // 2
        start = position
        units.append(count)
    return units


def plain(markup: str) -> Plain:
    """Return the text that a reader of this HTML sees, with its places in the markup."""
    pieces: list[str] = []
    begins: list[int] = []
    ends: list[int] = []

    def show(piece: str, begin: Iterable[int], end: Iterable[int]) -> None:
        pieces.append(piece)
        begins.extend(begin)
        ends.extend(end)

    start = 0
    for match in _MARKUP.finditer(markup):
        begin, end = match.span()
        show(markup[start:begin], range(start, begin), range(start + 1, begin + 1))
        start = end
        if match["reference"]:
            shown = html.unescape(match["reference"])
            show(shown, [begin] * len(shown), [end] * len(shown))
        elif _BLOCK.fullmatch(match["tag"] or ""):
            show("\n", [begin], [begin])
    show(markup[start:], range(start, len(markup)), range(start + 1, len(markup) + 1))
    return Plain("".join(pieces), begins, ends)
