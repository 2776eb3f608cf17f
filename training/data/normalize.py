"""The only text normalisation: a `tokenizers` normalizer that is stored in tokenizer.json.

`prepare` compares texts by it, and `train` puts it into the tokenizer that training and serving
share. Nothing else cleans text.
"""

import re

from tokenizers import Regex, normalizers

# The base vocabulary has no emoji, so a group of them becomes a word. Davidson's file spells the
# same characters as numeric references.
EMOJI = {
    "laughing": "😂🤣😆😹💀",
    "crying": "😭😢😩😫",
    "love": "❤♥😍😘💕💜💙💛💚💗💞🥰",
    "angry": "😡😠🤬👿",
    "disgust": "🤢🤮😒🙄😑",
    "fire": "🔥💯",
    "clap": "👏🙌",
    "middle finger": "🖕",
    "happy": "😊😀😁😃😄🙂😉😎",
    "thinking": "🤔",
    "monkey": "🐒🐵🙈🙊🙉",
    "gun": "🔫",
    "shrug": "🤷🤦",
    "thumbs up": "👍👌",
    "pray": "🙏",
    "sex": "💦🍆🍑",
    "pig": "🐷🐖",
    "clown": "🤡",
    "poop": "💩",
    "knife": "🔪",
}

# Cyrillic, Greek and Armenian letters that look Latin, beside a Latin letter.
LOOK_ALIKES = {
    "a": "аα", "b": "вβ", "c": "с", "e": "еε", "h": "н", "i": "іι", "j": "ј", "k": "кκ", "m": "м",
    "n": "ո", "o": "оο", "p": "рρ", "s": "ѕ", "t": "тτ", "u": "υ", "x": "хχ", "y": "у",
}  # fmt: skip

# Digits and signs that replace a letter between two Latin letters.
LEET = {"a": "@4", "e": "3", "i": "1!", "o": "0", "s": r"$5"}

_GAP = r"[ .\-_*]"

# Oniguruma patterns, in order. Most of their cost is the scan for a first character, so each begins
# with what is rarest in a tweet, not with a look-behind. Characters beyond ASCII are alternatives,
# not a class: for alternatives the scan looks for a first byte, for a class it stops everywhere.
_BEFORE_FOLDING = [
    (r"&amp;", "&"),
    (r"&(lt|gt|quot|nbsp|[lr]dquo|hellip|[mn]dash);", " "),
    (r"&(#8217|#8216|#0?39|[lr]squo|apos);", "'"),
    *(
        (f"{'|'.join(signs)}|&#({'|'.join(str(ord(sign)) for sign in signs)});", f" {word} ")
        for word, signs in EMOJI.items()
    ),
    (r"🇺🇸|&#127482;&#127480;", " american flag "),
    (r"&#[0-9]+;", " "),
    # Zero-width and direction marks, soft hyphens, variation selectors, skin tones; then controls.
    ("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff\U0001f3fb-\U0001f3ff]", ""),
    (r"[\x00-\x1f\x7f-\x9f\ufffd]", " "),
]
_AFTER_FOLDING = [
    ("‘|’|ʼ|`|´", "'"),
    (r"(https?://|www\.)\S+|\bt\.co/\S+", " url "),
    (r"\brt\b(?=\W*@)", " "),
    # A run of mentions becomes one: names carry no meaning, and more of them only add tokens.
    (r"(?<!\w)(\.?@\w+[:,]?\s*)+", " @user "),
    *(
        (rf"(?:{'|'.join(signs)})(?:(?<=[a-z].)|(?=[a-z]))", letter)
        for letter, signs in LOOK_ALIKES.items()
    ),
    *((rf"[{signs}](?<=[a-z].)(?=[a-z])", letter) for letter, signs in LEET.items()),
    # "sooooo" → "soo"
    (r"(.)(?=\1\1)", ""),
    # "i d i o t", "f.u.c.k": three or more single letters are one word.
    (rf"{_GAP}(?<=\b[a-z].)(?=[a-z]{_GAP}[a-z]\b)|{_GAP}(?<=\b[a-z]{_GAP}[a-z].)(?=[a-z]\b)", ""),
]


def build_normalizer() -> normalizers.Sequence:
    """Return the normalizer: lower case, accents folded (NFKD), links and mentions as words."""
    folding = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    return normalizers.Sequence(
        [
            *(normalizers.Replace(Regex(pattern), to) for pattern, to in _BEFORE_FOLDING),
            *folding,
            *(normalizers.Replace(Regex(pattern), to) for pattern, to in _AFTER_FOLDING),
        ]
    )


_WORD = re.compile(r"\w+")
_MEDIUM = re.compile(r"@user\b|\burl\b")


def words(normalized: str) -> list[str]:
    """Return the words of a normalised text, without mentions, URLs and punctuation."""
    return _WORD.findall(_MEDIUM.sub(" ", normalized))
