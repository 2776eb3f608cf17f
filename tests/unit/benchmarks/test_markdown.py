"""The generated block of a page."""

import pytest

from benchmarks.markdown import replace_block, table

PAGE = "# Page\n<!-- begin: a -->\nold\n<!-- end: a -->\ntext\n<!-- begin: b --><!-- end: b -->\n"


def test_a_block_is_replaced_and_the_rest_stays() -> None:
    new = replace_block(PAGE, "a", "new \\1\n")
    assert new == PAGE.replace("old", "new \\1")
    assert replace_block(new, "a", "old") == PAGE


def test_a_page_without_the_block_is_an_error() -> None:
    with pytest.raises(ValueError, match="wanted 1"):
        replace_block(PAGE, "c", "new")


def test_a_table_has_a_line_for_each_row() -> None:
    assert table(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"
