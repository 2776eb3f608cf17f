import time

import pytest

from serving.compat.perspective.spans import Span, plain_text, sentences, utf16_offsets


def parts(text: str, limit: int = 99) -> list[str]:
    return [text[begin:end] for begin, end in sentences(text, limit)]


def test_sentences_of_the_example_in_perspectives_documentation() -> None:
    text = "What kind of idiot name is foo? Sorry, I like your name."
    assert sentences(text, 9) == [(0, 31), (32, 56)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  one. two!  three", ["one.", "two!", "three"]),
        ("What?! Yes... no", ["What?!", "Yes...", "no"]),
        ("a\n\n b \r\nc", ["a", "b", "c"]),
        ("3.5 is a number. see x.y", ["3.5 is a number.", "see x.y"]),
        ('He said "go." Then left.', ['He said "go."', "Then left."]),
        ("你好。再见！完", ["你好。", "再见！", "完"]),
        ("مرحبا؟ كيف الحال", ["مرحبا؟", "كيف الحال"]),
        ("😀 hi! 👩‍👩‍👧 bye", ["😀 hi!", "👩‍👩‍👧 bye"]),
        ("...", ["..."]),
        (" \n\t", []),
    ],
)
def test_sentences_end_at_marks_and_lines(text: str, wanted: list[str]) -> None:
    assert parts(text) == wanted


def test_too_many_sentences_are_joined_into_spans_of_similar_length() -> None:
    assert parts("a. b. c. d.", limit=2) == ["a. b.", "c. d."]
    text = "".join(f"This is sentence {i}.\n" for i in range(1000))
    spans = sentences(text, 256)
    assert 200 < len(spans) <= 256
    assert max(end - begin for begin, end in spans) < 2 * len(text) / 256
    assert "".join("".join(parts(text, 256)).split()) == "".join(text.split())


def test_a_long_sentence_is_split_at_white_space() -> None:
    assert parts("word " * 500) == [("word " * 200).strip()] * 2 + [("word " * 100).strip()]
    assert parts("x" * 2500) == ["x" * 1000, "x" * 1000, "x" * 500]
    assert parts("a" + " " * 3000 + "b" * 1000) == ["a", "b" * 1000]


def test_offsets_count_utf16_units_as_javascript_does() -> None:
    text = "😀é👩‍👧 x"
    units = utf16_offsets(text, range(len(text) + 1))
    assert units == [len(text[:i].encode("utf-16-le")) // 2 for i in range(len(text) + 1)]
    assert units[-1] == 10
    assert utf16_offsets(text, []) == []


@pytest.mark.parametrize(
    ("markup", "shown"),
    [
        ("<p>You i<b>di</b>ot &amp; fool</p>", "\nYou idiot & fool\n"),
        ("a<br>b<BR/>c", "a\nb\nc"),
        ("x<script>if (a < b) hide()</script>y<style>p{}</style>z", "xyz"),
        ("x<!-- <b>no</b> -->y<!doctype html>z<?php 1 ?>", "xyz"),
        ("I <3 you & 1 < 2 &c", "I <3 you & 1 < 2 &c"),
        ("&#x1F600;&#128512;&nbsp;&lt;b&gt;", "😀😀\xa0<b>"),
        ("i&#100;iot", "idiot"),
        ("left <a href='x", "left "),
        ("no markup", "no markup"),
        ("", ""),
    ],
)
def test_plain_text_is_what_a_reader_sees(markup: str, shown: str) -> None:
    assert plain_text(markup).text == shown


def test_spans_of_the_plain_text_point_into_the_source() -> None:
    markup = "<p>Hi &amp; <i>bye</i>.</p> 😀 go&#33;"
    plain = plain_text(markup)
    assert plain.text == "\nHi & bye.\n 😀 go!"
    shown = [markup[slice(*plain.source_span(span))] for span in sentences(plain.text, 9)]
    assert shown == ["Hi &amp; <i>bye</i>.", "😀 go&#33;"]
    assert plain.source_span(Span(4, 5)) == (6, 11)


@pytest.mark.parametrize(
    "unit", ["<", "<a ", "&", "<!--", "<!", "<script>", "</", "<a b='", ".", ".)", " ", "\n ", "&#"]
)
def test_the_time_is_linear_in_the_length(unit: str) -> None:
    """A quadratic scanner takes minutes at this size, a linear one less than a second."""
    text = unit * (200_000 // len(unit))
    started = time.process_time()
    plain_text(text)
    sentences(text, 256)
    assert time.process_time() - started < 5
