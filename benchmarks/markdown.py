"""Results as Markdown, and where they go: standard output, or the marked block of a page.

<!-- begin: serving -->
what the next run replaces
<!-- end: serving -->
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def replace_block(page: str, name: str, text: str) -> str:
    """Return the page with `text` between the markers of the block `name`.

    Raises:
        ValueError: the page does not have the block exactly once.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    replaced, count = pattern.subn(lambda _: f"{begin}\n{text.strip()}\n{end}", page)
    if count != 1:
        raise ValueError(f"got {count} blocks {begin} … {end}, wanted 1")
    return replaced


def publish(text: str, name: str, page: Path | None) -> None:
    """Print the results, and write them into the block `name` of a page if one is given."""
    sys.stdout.write(f"\n{text.strip()}\n")
    if page:
        content = page.read_text(encoding="utf-8")
        page.write_text(replace_block(content, name, text), encoding="utf-8")
