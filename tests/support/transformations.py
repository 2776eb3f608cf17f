"""Disguises of a text that a reader sees through, by name.

Each is a function of a text and a random generator. It changes one word: an abusive one where the
text has one, else a random one of four letters or more. A text that it cannot change stays as it
is. The same functions test the normalisation and can measure a model: what a disguise costs an
abusive text's recall, and how many clean texts it turns into false positives.
"""

import random
import re
import sys
import unicodedata
from collections.abc import Callable

ABUSIVE_WORDS = (
    "asshole", "bastard", "bitch", "bitches", "cunt", "dickhead", "faggot", "fucking", "idiot",
    "imbecile", "loser", "moron", "nigger", "pussy", "retard", "scumbag", "shit", "skank", "slut",
    "stupid", "twat", "whore",
)  # fmt: skip

Transformation = Callable[[str, random.Random], str]

_ABUSIVE = re.compile(rf"\b(?:{'|'.join(ABUSIVE_WORDS)})\b", re.IGNORECASE)
_WORD = re.compile(r"(?<![\w#@&/])[A-Za-z]{4,}(?![\w;])")
_LOWER = "abcdefghijklmnopqrstuvwxyz"
_CYRILLIC = str.maketrans("aceijopsxy", "асеіјорѕху")
_FORMAT = [
    chr(code) for code in range(0x80, sys.maxunicode) if unicodedata.category(chr(code)) == "Cf"
]


def _change(text: str, rng: random.Random, change: Callable[[str], str]) -> str:
    found = list(_ABUSIVE.finditer(text)) or list(_WORD.finditer(text))
    if not found:
        return text
    word = rng.choice(found)
    return text[: word.start()] + change(word[0]) + text[word.end() :]


def _word(change: Callable[[str, random.Random], str]) -> Transformation:
    return lambda text, rng: _change(text, rng, lambda word: change(word, rng))


def _letters(first: str, upper: str | None = None) -> Transformation:
    """Return the transformation into an alphabet that begins with `first`."""

    def change(letter: str) -> str:
        start = ord(upper if upper and letter.isupper() else first)
        return chr(start + ord(letter.lower()) - ord("a"))

    return _word(lambda word, _: "".join(map(change, word)))


def _substitute(pattern: str, to: str) -> Transformation:
    return _word(lambda word, _: re.sub(pattern, to, word, flags=re.IGNORECASE))


def _small_capitals(word: str, _: random.Random) -> str:
    table = str.maketrans("abcdefghijklmnoprstuvwyz", "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ")
    return word.lower().translate(table)


def _digits(word: str, _: random.Random) -> str:
    table = str.maketrans("aeio", "4310")
    return word[0] + word[1:-1].translate(table) + word[-1]


def _reference(write: Callable[[str], str]) -> Transformation:
    def change(word: str, rng: random.Random) -> str:
        share = rng.choice((0.3, 1))
        return "".join(write(letter) if rng.random() < share else letter for letter in word)

    return _word(change)


def _invisible(word: str, rng: random.Random) -> str:
    return word[0] + "".join(rng.choice(_FORMAT) + letter for letter in word[1:])


def _hashtag(text: str, rng: random.Random) -> str:
    """Return the text with up to five words, among them an abusive one, as one hashtag."""
    runs = list(re.finditer(r"[A-Za-z]+(?: [A-Za-z]+){1,4}", text))
    runs = [run for run in runs if _ABUSIVE.search(run[0])] or runs
    if not runs:
        return text
    run = rng.choice(runs)
    tag = "#" + "".join(word.capitalize() for word in run[0].split())
    return text[: run.start()] + tag + text[run.end() :]


def _glued(sign: str) -> Transformation:
    def change(text: str, rng: random.Random) -> str:
        return re.sub(r"(?<=[a-z]) (?=\x00)", sign, _change(text, rng, "\x00{}".format)).replace(
            "\x00", ""
        )

    return change


def _link(end: str) -> Transformation:
    def change(word: str, rng: random.Random) -> str:
        return "https://t.co/" + "".join(rng.choices(_LOWER + "0123456789", k=10)) + end + word

    return _word(change)


TRANSFORMATIONS: dict[str, Transformation] = {
    "@ for a": _substitute(r"(?<!^)a(?!$)|^a(?=ss|rse)", "@"),
    "$ for s": _substitute(r"s(?!$)", "$"),
    "5 for s": _substitute(r"s(?!s?$)", "5"),
    "! for i": _substitute(r"(?<=^.)i|(?<=id)i|(?<=up)i", "!"),
    "digits": _word(_digits),
    "underscores": _word(lambda word, _: "_".join(word)),
    "dots": _word(lambda word, _: ".".join(word)),
    "spaced dots": _word(lambda word, _: " . ".join(word)),
    "spaces": _word(lambda word, _: " ".join(word)),
    "spaced capitals": _word(lambda word, _: " ".join(word.upper())),
    "squared": _letters("🅰"),
    "squared in outline": _letters("🄰"),
    "circled": _letters("ⓐ", "Ⓐ"),
    "circled in black": _letters("🅐"),
    "regional indicators": _letters("🇦"),
    "full width": _letters("ａ", "Ａ"),
    "mathematical bold": _letters("𝐚", "𝐀"),
    "mathematical monospace": _letters("𝚊", "𝙰"),
    "small capitals": _word(_small_capitals),
    "Cyrillic look-alikes": _word(lambda word, _: word.translate(_CYRILLIC)),
    "format characters": _word(_invisible),
    "decimal references": _reference(lambda letter: f"&#{ord(letter)};"),
    "hexadecimal references": _reference(lambda letter: f"&#x{ord(letter):X};"),
    "&quot;": _word(lambda word, _: f"&quot;{word}&quot;"),
    "hashtag": _hashtag,
    "glued by !": _glued("!"),
    "glued by .": _glued("."),
    "glued to a link": _link(""),
    "glued to a link by )": _link(")"),
}
