"""The language of a text: other languages are found, and nothing English is called another one."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.inference.language import ENGLISH_WORDS, LANGUAGES, MAX_CHARS, detect_language

OTHERS = [
    ("das Buch ist dick", "de"),
    ("kannst du mir bitte das Salz geben", "de"),
    ("RT @anna: was für ein schöner Tag heute https://t.co/abc #wetter", "de"),
    ("je ne comprends pas cette question", "fr"),
    ("mañana vamos a la playa con los niños", "es"),
    ("ho dimenticato le chiavi in ufficio", "it"),
    ("não entendo nada do que você fala", "pt"),
    ("ik ben mijn sleutels op kantoor vergeten", "nl"),
    ("nie rozumiem tego pytania wcale", "pl"),
    ("bu yeni şarkıyı çok seviyorum", "tr"),
    ("saya suka sekali lagu baru ini", "id"),
    ("jag glömde mina nycklar på kontoret", "sv"),
    ("почему ты опять плачешь", "ru"),
    ("هي تعيش في بيت صغير", "ar"),
    ("आज मौसम बहुत ठंडा है", "hi"),
    ("今日はとても寒いですね", "ja"),
    ("我不明白这个问题", "zh"),
    ("오늘 날씨가 너무 추워요", "ko"),
]
SHORT = [
    "",
    " ",
    "ok",
    "idiot",
    "die bitch die",
    "hasta luego",
    "bonjour",
    "привет",
    "你好",
    "😂😂😂",
]
MIXED = [
    "hola mi amigo how are you doing today",
    "she has that je ne sais quoi about her",
    "Привет everyone how are you today",
    "こんにちは everyone from Tokyo today",
    "so my Oma said das ist mir egal and this was it",
]
SLANG = [
    "ion even know wtf dat is lmao",
    "ayo deadass finna bounce fr fr",
    "yasss queeeen slaaaay hahahaha jajaja",
    "dis foo b trippin smh nah fam",
    "@realmadrid @fcbarcelona #vamos https://t.co/abc lol",
]
EVASIONS = [
    "y o u   s t u p i d   m o r o n",
    "y.o.u s.t.u.p.i.d m.o.r.o.n",
    "y0u 5tup1d m0r0n g3t l0st",
    "уоu stuрid mоron gеt lоst",  # Cyrillic look-alikes
    "ｙｏｕ ｓｔｕｐｉｄ ｍｏｒｏｎ ｇｅｔ ｌｏｓｔ ｎｏｗ",
    "yóú ánd thís stúpíd mórón",
    "you\u200b and th\u200bis stu\u200bpid mo\u200bron",
]


@pytest.mark.parametrize(("text", "language"), OTHERS)
def test_other_languages_are_found(text: str, language: str) -> None:
    assert detect_language(text) == language
    assert detect_language(text.upper()) == language


@pytest.mark.parametrize("text", [*SHORT, *MIXED, *SLANG, *EVASIONS])
def test_short_mixed_and_disguised_texts_stay_english(text: str) -> None:
    assert detect_language(text) == "en"


def test_an_entity_is_a_letter_and_the_end_of_a_long_text_is_not_read() -> None:
    assert detect_language("sch&#246;ner als der Sommer ist nur der Fr&uuml;hling") == "de"
    assert detect_language("zwei Hunde laufen durch den Wald. " * 99 + "the and you") == "de"
    assert detect_language("x" * MAX_CHARS + " das Buch ist wirklich dick") == "en"


@given(st.text(max_size=2 * MAX_CHARS))
def test_every_text_has_a_language(text: str) -> None:
    assert detect_language(text) in LANGUAGES


@given(st.text(st.characters(), max_size=60))  # with lone surrogates
def test_no_text_raises_an_error(text: str) -> None:
    assert detect_language(f"das Buch ist wirklich dick {text}") in LANGUAGES


@given(st.text(max_size=80), st.sampled_from(sorted(w for w in ENGLISH_WORDS if "'" not in w)))
def test_english_function_words_decide(text: str, word: str) -> None:
    other = "the" if word != "the" else "and"
    text = " ".join(text.split()[:20])
    assert detect_language(f"{word} {other} {text}") == "en"


def test_the_import_loads_no_model() -> None:
    code = (
        "from serving.inference import language as l; assert not l._identifier.cache_info().misses"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
