import pytest

from training.data.normalize import build_normalizer, words

NORMALIZER = build_normalizer()


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
        ("see https://t.co/a1b2 now", "see url now"),
        ("RT @someone: hi", "@user hi"),
        ("@a @b @c: hello", "@user hello"),
        ("😂", "laughing"),
        ("&#128514;", "laughing"),
        ("👏🏽", "clap"),
    ],
)
def test_links_mentions_and_emoji_become_words(raw: str, clean: str) -> None:
    assert " ".join(NORMALIZER.normalize_str(raw).split()) == clean


@pytest.mark.parametrize(
    "text", ["in 2014 we won 3 to 1", "meet me at 5pm", "i am 4 you", "covid-19", "привет мир"]
)
def test_numbers_and_other_scripts_stay(text: str) -> None:
    assert NORMALIZER.normalize_str(text).split() == build_folded(text).split()


def build_folded(text: str) -> str:
    import unicodedata

    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).lower()


def test_words_leave_out_mentions_links_and_punctuation() -> None:
    normal = NORMALIZER.normalize_str("RT @bob: Look, at https://t.co/x THIS!!")
    assert words(normal) == ["look", "at", "this"]


def test_normalizing_twice_changes_nothing() -> None:
    once = NORMALIZER.normalize_str("RT @bob: sooo &amp; h@ppy 😂 https://t.co/x i d i o t")
    assert NORMALIZER.normalize_str(once).split() == once.split()
