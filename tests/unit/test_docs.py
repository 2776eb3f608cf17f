"""What mkdocs does not check: the generated table, and links and names outside docs/."""

import re
from pathlib import Path

import pytest

from serving import settings

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
NAMED_LINK = re.compile(r"\[`([\w.]+)`\]\(([\w/.]+\.py)\)")  # [`function`](file.py)
NAMED_FILE = re.compile(r"`([\w/]+\.py)`, `([\w.]+)`")  # `file.py`, `function`


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def test_the_configuration_page_has_the_table_of_the_settings() -> None:
    """If this fails: python -m docs.tools.generate."""
    assert settings.table() in text("docs/configuration.md")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_linked_files_exist(page: str) -> None:
    assert [link for link in LINK.findall(text(page)) if not (ROOT / link).exists()] == []


def test_named_functions_are_in_the_files_that_are_named_with_them() -> None:
    pairs = [(path, name) for name, path in NAMED_LINK.findall(text("README.md"))]
    pairs += NAMED_FILE.findall(text("docs/architecture.md"))
    assert len(pairs) > 15
    for path, name in pairs:
        for part in name.split("."):
            assert re.search(rf"\b(def|class) {part}\b", text(path)), f"{name} is not in {path}"


def test_the_readme_stays_short_and_has_pictures() -> None:
    readme = text("README.md")
    assert len(readme.splitlines()) <= 150
    assert readme.count("![") >= 2
    assert (ROOT / "docs/images/page.png").stat().st_size <= 200_000
