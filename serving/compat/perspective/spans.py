"""Parts of a text: its sentences, its plain form if it is HTML, and offsets in UTF-16 units.

Perspective counts offsets as Java and JavaScript do: an emoji outside the Basic Multilingual Plane
counts two. Pure functions; they know nothing of requests or scores.
"""

import html
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# A run of marks is found from its first mark on only: a long one costs no more than its length.
_STOP = r".!?…؟۔।"
_END = re.compile(rf"(?<![{_STOP}])[{_STOP}]++[\"'”’»)\]]*+(?=\s)|[。！？]++[”’」』）]*+")
# A scanner of our own, for it is met by anybody: what is not closed reaches to the end, as browsers
# have it, so that nothing is read twice. (The standard library's parser needs 17 s for 10 KB of
# `<a <a <a`.) A tag ends at its first `>`: rather show an attribute's end than hide a word.
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


class Plain(NamedTuple):
    """A text without markup, and where in the source each of its characters begins and ends."""

    text: str
    begins: Sequence[int]
    ends: Sequence[int]

    def source(self, span: Span) -> Span:
        """Return where in the source a span of the text, which is not empty, stands."""
        return Span(self.begins[span.begin], self.ends[span.end - 1])


def sentences(text: str, most: int) -> list[Span]:
    """Return the spans of a text's sentences, in order, without the white space around them.

    A sentence ends at a line's end, after marks like `.!?` that white space follows, and after
    `。！？`. From the `most`th sentence on the rest is one span.
    """
    found: list[Span] = []
    for line in re.finditer(r"[^\r\n]+", text):
        begin = line.start()
        ends = [mark.end() for mark in _END.finditer(text, line.start(), line.end())]
        for end in [*ends, line.end()]:
            part = text[begin:end]
            stripped = part.strip()
            if stripped:
                first = begin + len(part) - len(part.lstrip())
                found.append(Span(first, first + len(stripped)))
            begin = end
    if len(found) > most:
        found = [*found[: most - 1], Span(found[most - 1].begin, found[-1].end)]
    return found


def utf16(text: str, positions: Sequence[int]) -> list[int]:
    """Return ascending character positions of a text in UTF-16 units."""
    units, at, counted = [], 0, 0
    for position in positions:
        counted += len(text[at:position].encode("utf-16-le", "surrogatepass")) // 2
        at = position
        units.append(counted)
    return units


def plain(markup: str) -> Plain:
    """Return the text that a reader of this HTML sees."""
    pieces: list[str] = []
    begins: list[int] = []
    ends: list[int] = []

    def show(piece: str, begin: Iterable[int], end: Iterable[int]) -> None:
        pieces.append(piece)
        begins.extend(begin)
        ends.extend(end)

    at = 0
    for found in _MARKUP.finditer(markup):
        begin, end = found.span()
        show(markup[at:begin], range(at, begin), range(at + 1, begin + 1))
        at = end
        if found["reference"]:
            shown = html.unescape(found["reference"])
            show(shown, [begin] * len(shown), [end] * len(shown))
        elif _BLOCK.fullmatch(found["tag"] or ""):
            show("\n", [begin], [begin])
    show(markup[at:], range(at, len(markup)), range(at + 1, len(markup) + 1))
    return Plain("".join(pieces), begins, ends)
