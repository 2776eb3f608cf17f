import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.explain.words import group_occurrences, split

FAMILY = "👨\u200d👩\u200d👧\u200d👦"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("You are, well: fine.", ["You", "are", "well", "fine"]),
        ("don't, don’t and rock'n'roll", ["don't", "don’t", "and", "rock'n'roll"]),
        ("@user_1: see #tag and https://t.co/a?b=1 now", ["@user_1", "see", "#tag", "and",
                                                         "https://t.co/a?b=1", "now"]),
        (f"lol😂😂{FAMILY}👍🏽 ❤️", ["lol", "😂", "😂", FAMILY, "👍🏽", "❤️"]),
        ("🇺🇸🇩🇪 \U0001f3f4\U000e0067\U000e0062\U000e007f", ["🇺🇸", "🇩🇪",
                                               "\U0001f3f4\U000e0067\U000e0062\U000e007f"]),
        ("#हिन्दी עִבְרִית العربيّة ภาษา", ["#हिन्दी", "עִבְרִית", "العربيّة", "ภาษา"]),
        ("你好 world", ["你", "好", "world"]),
        ("b!tch a$$ f**k i d i o t f.u.c.k", ["b!tch", "a", "f**k", "i d i o t", "f.u.c.k"]),
        ("it&#8217;s &#128514;&#128514; &amp; &#8220;so&#8221;",
         ["it&#8217;s", "&#128514;", "&#128514;", "so"]),
        ("\u202eabc\u202c d\u200be", ["abc", "d\u200be"]),
        ("<script>alert('x')</script>", ["script", "alert", "x", "script"]),
        ("", []),
        (" \n\t!!! ... ?", []),
    ],
)  # fmt: skip
def test_a_text_is_split_into_words(text: str, words: list[str]) -> None:
    assert [word.text for word in split(text)] == words


@given(st.text())
def test_offsets_point_at_the_words_in_order(text: str) -> None:
    end = 0
    for word in split(text):
        assert end <= word.begin < word.end <= len(text)
        assert text[word.begin : word.end] == word.text
        assert word.text.strip()
        end = word.end


@given(st.lists(st.sampled_from(["no", "No", "yes", "ok"]), max_size=12))
def test_occurrences_are_grouped_by_word_in_the_order_of_their_first(
    words: list[str],
) -> None:
    groups = group_occurrences(split(" ".join(words)))
    assert [group[0].key for group in groups] == list(
        dict.fromkeys(word.casefold() for word in words)
    )
    assert sum(map(len, groups)) == len(words)
    for group in groups:
        assert {word.key for word in group} == {group[0].key}
        assert [word.begin for word in group] == sorted(word.begin for word in group)


@pytest.mark.parametrize("unit", ["a-b-c-", "a.b.", "x_", "a b ", "ab'", "a\u200d", "&a", "#"])
def test_the_time_to_split_a_text_grows_with_its_length(unit: str) -> None:
    def seconds(length: int) -> float:
        text = (unit * length)[:length] + "ab"
        times = []
        for _ in range(3):
            started = time.process_time()
            split(text)
            times.append(time.process_time() - started)
        return min(times)

    assert seconds(10_000) < 12 * seconds(2_000)
