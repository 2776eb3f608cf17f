"""The only text normalisation: a `tokenizers` normalizer that is stored in tokenizer.json.

    text ─> entities ─> hashtags ─> table of characters ─> NFKD, lower case ─> links, mentions,
            `&#105;`    `#YouFool`  emoji, quotes, Cf      accents             disguised words

`prepare` compares texts by it, and `train` puts it into the tokenizer that training and serving
share. Nothing else cleans text.
"""

import re
import sys
import unicodedata

from tokenizers import Regex, normalizers

from training.data.charsmap import build_charsmap

# The base vocabulary has no emoji, so each becomes words. These read better than their Unicode
# names, or are written so often that one word for several is enough.
EMOJI = {
    "laughing": "😂🤣😆😹💀",
    "crying": "😭😢😩😫",
    "love": "❤♥😍😘💕💜💙💛💚💗💞🥰",
    "angry": "😡😠🤬👿",
    "disgust": "🤢🤮😒🙄😑",
    "fire": "🔥💯",
    "clap": "👏🙌",
    "middle finger": "🖕",
    "happy": "😊😀😁😃😄🙂😉😎☺",
    "sad": "😔😞😟🙁☹😕",
    "sleeping": "😴😪💤",
    "smirk": "😏😌",
    "embarrassed": "😳🙈",
    "tongue out": "😜😝😛",
    "devil": "😈",
    "thinking": "🤔",
    "monkey": "🐒🐵🙊🙉",
    "gun": "🔫",
    "shrug": "🤷",
    "facepalm": "🤦",
    "thumbs up": "👍👌",
    "thumbs down": "👎",
    "peace": "✌",
    "fist": "👊✊",
    "raised hand": "✋👐👋",
    "no": "🙅",
    "hair flip": "💁💅",
    "looking": "👀",
    "pray": "🙏",
    "sex": "💦🍆🍑",
    "pig": "🐷🐖",
    "dog": "🐶🐕",
    "clown": "🤡",
    "poop": "💩",
    "knife": "🔪🗡",
    "vomit": "🤮",
    "money": "💰💸💵",
    "man": "👨♂",
    "woman": "👩♀",
    "person": "🧑👤",
    "people": "👥",
    "old person": "🧓",
    "transgender": "⚧",
    "man with turban": "👳",
    "woman with headscarf": "🧕",
    "man with chinese cap": "👲",
    "mosque": "🕌",
    "swastika": "卐卍",
    "flag": "🏳",
    "down": "👇",
    "left": "👈",
    "up": "👆☝",
    "right": "👉",
    "you": "🫵",
}
# Words of a Unicode name that say how the sign is drawn.
_DRAWN = frozenset(
    {"with", "face", "sign", "symbol", "mark", "of", "and", "the", "shaped", "ornament", "emoji"}
    | {"component", "heavy", "black", "white"}
)
_DRAWN_IN_COLOUR = _DRAWN - {"black", "white"}  # 🖤 is black, ★ ("black star") is filled
_EMOJI_BLOCKS = (
    range(0x2600, 0x27C0),
    range(0x1F300, 0x1F700),
    range(0x1F7E0, 0x1F7F0),
    range(0x1F90C, 0x1FA00),
    range(0x1FA70, 0x1FB00),
)
# A skin tone is read after a person only. With hands it would teach the model who claps.
_PERSON = re.compile(
    r"\b(man|men|woman|women|person|people|boy|girl|baby|child|adult|princess|prince|bride|family"
    r"|police|worker|guardsman|dancer|santa|father|mother|elf|fairy|couple|runner|swimmer)\b"
)
_SKIN_TONES = {"light skin": "🏻🏼", "brown skin": "🏽", "dark skin": "🏾🏿"}
# Private characters, between the table of characters and the rules behind it.
_DELETED, _AFTER_PERSON, _FLAG = "\ue000", "\ue001", "\ue002"
_TONES = dict(zip(_SKIN_TONES, "\ue003\ue004\ue005", strict=True))

FLAGS = {
    "us": "american", "gb": "british", "ca": "canadian", "mx": "mexican", "fr": "french",
    "de": "german", "it": "italian", "es": "spanish", "ie": "irish", "pl": "polish",
    "ru": "russian", "ua": "ukraine", "cn": "chinese", "jp": "japanese", "kr": "korean",
    "in": "indian", "pk": "pakistan", "il": "israel", "ps": "palestine", "ir": "iran",
    "iq": "iraq", "sy": "syrian", "sa": "saudi", "tr": "turkish", "ng": "nigerian",
}  # fmt: skip

# Latin letters that NFKD does not fold, in alphabetical order where a letter is skipped by a space.
_LETTERS = {
    "abcdefghijklm nop  rstu vw  yz": "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍ ɴᴏᴘ  ʀꜱᴛᴜ ᴠᴡ  ʏᴢ",
    "abcdefghijklmnopqrstuvwxyz": "🅐🅑🅒🅓🅔🅕🅖🅗🅘🅙🅚🅛🅜🅝🅞🅟🅠🅡🅢🅣🅤🅥🅦🅧🅨🅩",
    "abcdefghijklmnopqrstuvwxyz ": "🅰🅱🅲🅳🅴🅵🅶🅷🅸🅹🅺🅻🅼🅽🅾🅿🆀🆁🆂🆃🆄🆅🆆🆇🆈🆉 ",
    "aegijlov": "ɑɛɡıȷɭøʋ",
    "0123456789": "⓿➊➋➌➍➎➏➐➑➒",
}

# Cyrillic, Greek and Armenian letters that look Latin, in a word with a Latin letter.
LOOK_ALIKES = {
    "a": "аα", "b": "вβ", "c": "сϲ", "d": "ԁ", "e": "еε", "g": "ց", "h": "нһհ", "i": "іι",
    "j": "јϳ", "k": "кκ", "l": "ӏ", "m": "м", "n": "ոηп", "o": "оοօσ", "p": "рρ", "q": "ԛ",
    "r": "г", "s": "ѕ", "t": "тτ", "u": "υս", "v": "ν", "w": "ԝω", "x": "хχ", "y": "уγ",
}  # fmt: skip
# Digits and signs that replace a letter in a word; its regular expression is in `_leet`.
LEET = {"a": "@4", "e": "3", "i": "1!", "o": "0", "s": "5$", "t": "7"}


def _emoji_words(code: int) -> str:
    astral = code > 0xFFFF
    name = unicodedata.name(chr(code)).lower().replace("-", " ")
    words = [word for word in name.split() if word not in (_DRAWN_IN_COLOUR if astral else _DRAWN)]
    return " ".join(words) or name


def _characters() -> dict[str, str]:
    """Return what each single character becomes, before lower case and NFKD."""
    table: dict[str, str] = {}
    for code in range(1, sys.maxunicode + 1):
        # All invisible format characters: zero-width and direction marks, joiners, tags of flags.
        category = unicodedata.category(chr(code))
        if category == "Cf":
            table[chr(code)] = _DELETED
        elif category == "Cc":
            table[chr(code)] = " "
    # Variation selectors, Hangul fillers and the enclosing keycap are invisible too.
    for code in (*range(0xFE00, 0xFE10), 0x34F, 0x115F, 0x1160, 0x3164, 0xFFA0, 0x20E3):
        table[chr(code)] = _DELETED
    names = {
        chr(code): _emoji_words(code)
        for block in _EMOJI_BLOCKS
        for code in block
        if unicodedata.category(chr(code)) == "So"
    }
    names |= {sign: words for words, signs in EMOJI.items() for sign in signs}
    for sign, words in names.items():
        table[sign] = f" {words}{_AFTER_PERSON if _PERSON.search(words) else ' '}"
    for tone, signs in _SKIN_TONES.items():
        table |= dict.fromkeys(signs, _TONES[tone])
    for letters, signs in _LETTERS.items():
        table |= {sign: letter for letter, sign in zip(letters, signs, strict=True) if sign != " "}
    table |= {chr(0x1F1E6 + i): f"{_FLAG}{chr(ord('a') + i)}" for i in range(26)}
    table |= dict.fromkeys("‘’‚‛ʼ`´′ꞌ", "'") | dict.fromkeys("“”„‟«»″❝❞", '"')
    table |= dict.fromkeys("\u2028\u2029\u2800\ufffd", " ")
    # A text's own private characters must not be taken for ours.
    table |= {chr(0xE000 + i): " " for i in range(6)}
    return table


def _entity(text: str) -> str:
    """Return a pattern for the numeric references to any character of `text`."""
    decimal = "|".join(str(ord(character)) for character in text)
    # Hexadecimal digits in either case; the group is only tried behind "&#x".
    hexadecimal = "|".join(f"{ord(character):x}" for character in text)
    return f"&#(?:0*(?:{decimal})|[xX]0*(?i:{hexadecimal}));"


_IN_REFERENCES = (
    "laughing", "crying", "love", "angry", "disgust", "fire", "clap", "middle finger", "happy",
    "sad", "sleeping", "smirk", "embarrassed", "tongue out", "devil", "monkey", "gun", "thumbs up",
    "thumbs down", "peace", "fist", "raised hand", "no", "hair flip", "looking", "pray", "sex",
)  # fmt: skip

# Oniguruma patterns, in order. Most of their cost is the scan for a first character, so each begins
# with what is rarest in a tweet, not with a look-behind: one that begins with "&#" costs a quarter
# of one that begins with alternatives.
_ENTITIES = [
    (r"&amp;", "&"),
    (rf"&(?:quot|[lr]dquo);|{_entity(chr(34) + '“”')}", '"'),
    (rf"&(?:apos|[lr]squo);|{_entity(chr(39) + '‘’')}", "'"),
    (r"&lt;", "<"),
    (r"&gt;", ">"),
    (r"&(?:nbsp|hellip|[mn]dash|bull);", " "),
    (_entity("\u200b\u200c\u200d\u00ad\u2060\ufe0f\ufeff🏻🏼🏽🏾🏿"), ""),
    *((_entity(letter + letter.upper()), letter) for letter in "abcdefghijklmnopqrstuvwxyz"),
    *((_entity(sign), sign) for sign in "0123456789@$!"),
    # Davidson's file spells emoji as references.
    *((_entity(EMOJI[words]), f" {words} ") for words in _IN_REFERENCES),
    (_entity("🇺") + _entity("🇸"), " american flag "),
    (r"&#(?:[0-9]+|[xX][0-9a-fA-F]+);", " "),
]
_BEFORE_TABLE = [
    # "#YouFool" → "#You Fool": a match begins at "#" or, by \G, where the last one ended.
    (r"(?:#|\G(?!\A))[A-Za-z]*?(?:[a-z]\K(?=[A-Z])|[A-Z]\K(?=[A-Z][a-z]))", " "),
    # Format characters that form a grapheme with the next letter: the table would take both.
    ("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd]", ""),
    # "$hit", not "$TSLA".
    (r"\$(?<![\w$].)(?=[a-z]{2})", "s"),
]
_AFTER_TABLE = [
    (_DELETED, ""),
    *((_AFTER_PERSON + mark, f" {tone} ") for tone, mark in _TONES.items()),
    ("|".join((_AFTER_PERSON, *_TONES.values())), " "),
    # Two regional indicators are a flag, more of them may spell a word: a flag begins a run, or
    # follows itself, and no single one is left behind it.
    *(
        (
            rf"{_FLAG}{a}(?<!{_FLAG}[^{b}]{_FLAG}{a}){_FLAG}{b}(?!{_FLAG}.(?!{_FLAG}))",
            f" {name} flag ",
        )
        for a, b, name in ((code[0], code[1], name) for code, name in FLAGS.items())
    ),
    (f"(?<!{_FLAG}.){_FLAG}(?=.{_FLAG}.(?!{_FLAG}))", " flag "),
    (_FLAG, ""),
]

_VOWEL, _CONSONANT = "[aeiouy]", "[b-df-hj-np-tv-xz]"
_START, _END = "[^a-z0-9]", "(?![a-z0-9])"
_SIGNS = "".join(LEET.values())
# What follows a sign inside a word: no digit at the end, as a code has ("xf4gt7").
# Words end within 30 characters: else every sign of "a$a$a$…" would look at all the rest.
_REST = rf"[a-z](?>(?:[a-z']|[{_SIGNS}]{{1,2}}+(?=[a-z])){{0,30}})(?:(?<=[rl])3s?\b|(?![0-9]))"
_NO_WORD = r"(?![\w-])"


def _leet() -> str:
    """Return a pattern for the place before a sign that is read as a letter."""

    def inside(sign: str, others: str) -> str:  # one or two signs
        return rf"{sign}(?<=[a-z@].|[a-z@][{others}].)(?=[{others}]?{_REST})"

    def begins(signs: str, word: str) -> str:
        return rf"[{signs}](?<![a-z0-9$@.].)(?={word})"

    parts = [
        inside("[013457]", "013457@"),
        inside(r"\$", "$"),  # not beside a digit: "us$5m"
        # Not the @ of an e-mail address.
        inside("@", "013457") + r"(?![a-z0-9.-]*\.[a-z]{2})",
        # "@sshole" is written as a mention is: a short list.
        begins(
            "@4",
            r"[s5$]{2}(?:es\b|hole|hat|wipe|face|clown|lick|kiss|fuck|bag|(?![\w-]))"
            rf"|rse(?:hole|s?{_NO_WORD})|(?:nal|nus){_NO_WORD}",
        ),
        begins("1", "diot|mbecile|nbred"),
        begins("5$", r"h[i1!]t|lut|kank|cum|uck|tup[i1!]d|tfu\b|pastic"),
        begins("7", r"wat\b|ranny"),
        r"3(?<=[o0][rl].)(?=s?\b)",  # "wh0r3"
        r"\$(?<=[a-z@].|[a-z@]\$.)(?=\$?(?![\w$]| ?[0-9]))",  # "a$$", "bitche$", but "us$ 5"
        # "sh!t", "stup!d", but "shut up!idiot".
        rf"!(?<=\b{_CONSONANT}.|\b[stcpbdfgkw][hlrwtkp].|\bstr.|\bthr.|bullsh.)(?=[a-z])",
        r"!(?<=[a-z].)(?=(?:[dt]|st|ng|ck|c|tch|le)s?\b)|!(?<=\bid.)(?=ots?\b)",
    ]
    return f"(?={'|'.join(parts)})"


_ALIKE = "[" + "".join(LOOK_ALIKES.values()) + "]"
# A prepended mark forms one grapheme with the character behind it, so the table of disguises sees
# both: one pattern says where a disguise is, and one pass undoes all of them.
_DISGUISED = "\u0600"
_DISGUISES = {
    f"{_DISGUISED}{sign}": letter
    for table in (LOOK_ALIKES, LEET)
    for letter, signs in table.items()
    for sign in signs
}


def _gaps(gap: str, width: int) -> str:
    """Return a pattern for a gap between single letters, three of them or more."""
    any_gap = "." * width
    before = f"{_START}[a-z]{any_gap}"
    longer = f"{_START}[a-z]{any_gap}[a-z]{any_gap}"
    return (
        f"{gap}(?:(?<={before})(?=[a-z]{gap}[a-z]{_END})"
        f"|(?<={longer})(?<={gap}[a-z]{any_gap})(?=[a-z]{_END}))"
    )


_GAP_SIGN = r"[._\-*~|/+]"
_LETTER_END = r"(?![a-z0-9'])"
_AFTER_FOLDING = [
    # Links are left out: a word in their place would separate the words around it. A link ends at a
    # bracket, a quote or a comma, and t.co's after ten characters: what follows is a word of the
    # text.
    (
        r"(?:https?://(?!t\.co/)|www\.)(?:[^\s()\[\]{}<>\"',;!|*]|\([^\s()]*\))*"
        r"|(?:https?://|\b)t\.co/[a-z0-9]{0,10}|[\[<]url[\]>]",
        " ",
    ),
    # What corpora write for a mention.
    (r"[\[<]user[\]>]", " @user "),
    (r"\brt\b(?=\W*@)", " "),
    (
        rf"(?={_ALIKE}(?:(?<=[a-z].|[a-z]{_ALIKE}.|[a-z]{_ALIKE}{{2}}.)|{_ALIKE}{{0,30}}[a-z]))",
        _DISGUISED,
    ),
    (_leet(), _DISGUISED),
]
_AFTER_DISGUISES = [
    # A run of mentions becomes one: names carry no meaning, and more of them only add tokens.
    (r"(?<!\w)(\.?@\w+[:,]?\s*)+", " @user "),
    # "sooooo" → "soo"
    (r"([^0-9])(?=\1\1)", ""),
    # "i . d . i . o . t", "f.u.c.k", "b_a_s_t_a_r_d".
    (_gaps(f" {_GAP_SIGN} ", 3), ""),
    (_gaps(_GAP_SIGN, 1), ""),
    # "i d i o t", but not "A S S B C", a list: four letters or more with a vowel behind the first.
    # The look-ahead judges the whole run at its first gap, and \G goes on from gap to gap.
    # "a", "i" and "u" are words of their own, but for a few that begin with them.
    (
        rf" (?<={_START}[b-hj-tv-z].)(?<!{_START}[b-hj-tv-z] [a-z].)"
        rf"(?:(?<=[cpst].)|(?!{_CONSONANT} {_CONSONANT} ))"
        rf"(?=(?:[a-z] ){{2,}}[a-z]{_LETTER_END})(?=(?:[a-z] )*{_VOWEL}{_LETTER_END})"
        rf"|\G(?!\A)[a-z]\K (?=[a-z]{_LETTER_END})(?!i [a-z]{{2}})"
        rf"| (?<={_START}a.)(?=(?:s s|r s e)(?: h o l e)?(?: e?s)?(?! ?[a-z]{_LETTER_END}))"
        rf"| (?<={_START}i.)(?=d i o t|m b e c i l e|n b r e d|n c e l)| (?<={_START}u.)(?=g l y)",
        "",
    ),
]


def build_normalizer() -> normalizers.Sequence:
    """Return the normalizer: lower case, accents folded (NFKD), links and mentions as words."""

    def replace(rules: list[tuple[str, str]]) -> list[normalizers.Replace]:
        return [normalizers.Replace(Regex(pattern), to) for pattern, to in rules]

    return normalizers.Sequence(
        [
            # Inserting a character before the first one makes tokenizers 0.22 panic.
            normalizers.Prepend(" "),
            *replace(_ENTITIES + _BEFORE_TABLE),
            normalizers.Precompiled(build_charsmap(_characters())),
            *replace(_AFTER_TABLE),
            *(normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()),
            *replace(_AFTER_FOLDING),
            normalizers.Precompiled(build_charsmap(_DISGUISES)),
            *replace(_AFTER_DISGUISES),
        ]
    )


_WORD = re.compile(r"\w+")
_MENTION = re.compile(r"@user\b")


def words(normalized: str) -> list[str]:
    """Return the words of a normalised text, without mentions and punctuation."""
    return _WORD.findall(_MENTION.sub(" ", normalized))
