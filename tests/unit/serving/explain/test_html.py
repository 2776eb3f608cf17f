import base64
import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.explain.explainer import Explanation
from serving.explain.html import escaped, render
from serving.explain.lime import WordWeight
from serving.explain.words import split

# LIME does not close its script's file.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*bundle.js:ResourceWarning")

HOSTILE = (
    "you </script><script>alert(1)</script> \"'`\\ <!-- \u2028 \u202e clown 😂 ${x} \ue000u0041"
)


def explanation(text: str, label: str = "offensive") -> Explanation:
    weights = tuple(WordWeight(word, 0.5 - i / 10) for i, word in enumerate(split(text)))
    scores = {"hate": 0.1, "offensive": 0.7, "neither": 0.2, "TOXICITY": 0.8, "THREAT": 0.04}
    return Explanation(label, weights, 0.9, 8, True, 0, scores, ("name", "1"), (0, len(text)))


@given(st.text())
def test_an_escaped_text_is_a_string_literal_of_plain_characters(text: str) -> None:
    literal = escaped(text).replace("\ue000", "\\")
    assert json.loads(f'"{literal}"') == text
    assert re.fullmatch(r"[A-Za-z0-9 \\]*", literal)


@pytest.mark.parametrize("text", ["you clown", HOSTILE, "?!"])
def test_the_policy_allows_the_pages_two_scripts_only(text: str) -> None:
    page = render(explanation(text), text)
    scripts = re.findall(r"<script>(.*?)</script>", page.html, re.DOTALL)
    assert len(scripts) == page.html.count("</script") == 2
    allowed = re.search(r"script-src ([^;]*)", page.policy)
    assert allowed
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    assert allowed[1].split() == [f"'sha256-{base64.b64encode(d).decode()}'" for d in digests]
    assert "default-src 'none'" in page.policy
    assert "alert(" not in page.html
    assert "\ue000" not in page.html


def test_offsets_count_utf16_units_as_javascript_does() -> None:
    text = "😂 you 😂 clown"
    script = render(explanation(text), text).html.rpartition("show_raw_text(")[2]
    places = re.findall(r'\["([^"]*)", (\d+), ', script)
    units = text.encode("utf-16-le")
    for word, begin in places:
        content = json.loads(f'"{word}"').encode("utf-16-le")
        assert units[2 * int(begin) :].startswith(content)
    assert len(places) == 4


def test_the_page_of_an_attribute_shows_its_probability_and_that_of_its_absence() -> None:
    page = render(explanation("you clown", "THREAT"), "you clown").html
    assert '["not THREAT", "THREAT"], [0.96, 0.04]' in page
    labels = render(explanation("you clown"), "you clown").html
    assert '["hate", "offensive", "neither"], [0.1, 0.7, 0.2]' in labels
