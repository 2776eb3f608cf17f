"""The words of a text and their offsets: the units that an explanation weighs.

    text ──> a class letter for each character (offsets stay valid) ──> regular expression ──> words

A link, a mention, a hashtag, an emoji with all its joiners, an ideograph, "don't", "b!tch", "f**k"
and "i d i o t" are one word each. Patterns that depend on spelling, such as links, are found in the
text itself first. It knows no model and no tokenizer: a word can have several tokens.
"""

import html
import re
import unicodedata
from dataclasses import dataclass
from itertools import groupby

# Words by spelling: links, HTML character references, three to 42 letters with gaps between
# (without a bound, every letter of "a-b-c-…-yz" would look ahead to its end).
_SPELLED = re.compile(
    r"(?:https?://|www\.)\S+|\bt\.co/\S+"
    r"|&#x?[0-9a-f]{2,7};|&[a-z]{2,8};"
    r"|(?<![\w*])[a-z]([ .\-_*])[a-z](?:\1[a-z]){1,40}(?![.\-_*]?\w)",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"&#?\w+;")
# w letter, digit   h ideograph   m mark   z joiner, direction   e emoji, symbol   s skin tone
# r half a flag   t tag of a flag   a @ or #   l sign in a letter's place   j apostrophe
# U u first and further characters of a word by spelling   - anything else
_WORD = re.compile(
    r"Uu*"
    r"|(?:a(?=w))?w(?:[wm]|z+(?=[wm])|[jla]+(?=w))*"
    r"|hm*"
    r"|rr?"
    r"|e[ms]*(?:z+e[ms]*)*t*"
)
_SIGNS = {"@": "a", "#": "a", "'": "j", "’": "j", "ʼ": "j", "$": "l", "!": "l", "*": "l", "_": "w"}
_RANGES = [
    (0x3400, 0x4DBF, "h"), (0x4E00, 0x9FFF, "h"), (0xF900, 0xFAFF, "h"), (0x20000, 0x3FFFF, "h"),
    (0x1F1E6, 0x1F1FF, "r"), (0x1F3FB, 0x1F3FF, "s"), (0xE0020, 0xE007F, "t"),
]  # fmt: skip
_CATEGORIES = {"L": "w", "N": "w", "M": "m", "Cf": "z", "So": "e", "Co": "e"}


@dataclass(frozen=True, slots=True)
class Word:
    """One occurrence of a word; `begin` and `end` are offsets in characters, end exclusive."""

    text: str
    begin: int
    end: int

    @property
    def key(self) -> str:
        """The same for all occurrences of a word, whatever their case."""
        return self.text.casefold()


def split(text: str) -> list[Word]:
    """Return a text's words in order, without the punctuation and space between them."""
    classes = _classes(text)
    return [
        Word(text[match.start() : match.end()], match.start(), match.end())
        for match in _WORD.finditer(classes)
    ]


def group_occurrences(words: list[Word]) -> list[list[Word]]:
    """Return the occurrences of each distinct word, ordered by the first of them."""
    first = {word.key: i for i, word in reversed(list(enumerate(words)))}
    by_key = sorted(words, key=lambda word: (first[word.key], word.begin))
    return [list(group) for _, group in groupby(by_key, key=lambda word: word.key)]


def _classes(text: str) -> str:
    """Return the class letter of each character; the comment above _WORD lists them."""
    classes = [_class(character) for character in text]
    for match in _SPELLED.finditer(text):
        begin, end = match.span()
        letters = "U" + "u" * (end - begin - 1)
        if _REFERENCE.fullmatch(match[0]):
            character = html.unescape(match[0])
            kind = _class(character) if len(character) == 1 else "-"
            # As in don&#8217;t, where the reference stands for an apostrophe.
            letters = letters if kind in "whe" else kind * (end - begin)
        classes[begin:end] = letters
    return "".join(classes)


def _class(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    point = ord(character)
    for first, last, letter in _RANGES:
        if first <= point <= last:
            return letter
    category = unicodedata.category(character)
    return _CATEGORIES.get(category) or _CATEGORIES.get(category[0], "-")
