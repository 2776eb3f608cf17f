"""The words of a text and where they stand: what an explanation can weigh.

    classes:   every character becomes one letter of CLASS, so that places stay as they are
    patterns:  what one word is, over those letters; over the text itself for what has a spelling

A link, a mention, a hashtag, an emoji with all its joiners, an ideograph, "don't", "b!tch", "f**k"
and "i d i o t" are one word each. It knows no model; what a model makes of a word is its own.
"""

import html
import re
import unicodedata
from dataclasses import dataclass
from itertools import groupby

# Spelt wholes: links, numeric references of characters, three or more letters with gaps between.
_SPELT = re.compile(
    r"(?:https?://|www\.)\S+|\bt\.co/\S+"
    r"|&#x?[0-9a-f]{2,7};|&[a-z]{2,8};"
    r"|(?<![\w*])[a-z]([ .\-_*])[a-z](?:\1[a-z])+(?![.\-_*]?\w)",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"&#?\w+;")
# w letter, digit   h ideograph   m mark   z joiner, direction   e emoji, symbol   s skin tone
# r half a flag   t tag of a flag   a @ or #   l sign in a letter's place   j apostrophe
# U u a spelt whole   - anything else
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
    """One occurrence; `begin` and `end` count characters, end exclusive."""

    text: str
    begin: int
    end: int

    @property
    def key(self) -> str:
        """What occurrences of the same word share."""
        return self.text.casefold()


def split(text: str) -> list[Word]:
    """Return a text's words in order; what lies between them is punctuation and space."""
    classes = _classes(text)
    return [
        Word(text[found.start() : found.end()], found.start(), found.end())
        for found in _WORD.finditer(classes)
    ]


def distinct(words: list[Word]) -> list[list[Word]]:
    """Return the occurrences of each distinct word, in the order of their first."""
    in_order = {word.key: at for at, word in reversed(list(enumerate(words)))}
    by_key = sorted(words, key=lambda word: (in_order[word.key], word.begin))
    return [list(group) for _, group in groupby(by_key, key=lambda word: word.key)]


def _classes(text: str) -> str:
    classes = [_class(character) for character in text]
    for found in _SPELT.finditer(text):
        begin, end = found.span()
        whole = "U" + "u" * (end - begin - 1)
        if _REFERENCE.fullmatch(found[0]):
            named = html.unescape(found[0])
            kind = _class(named) if len(named) == 1 else "-"
            # As `&#8217;` in don&#8217;t: the reference stands for the character.
            whole = whole if kind in "whe" else kind * (end - begin)
        classes[begin:end] = whole
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
