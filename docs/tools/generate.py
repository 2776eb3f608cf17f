"""Write the generated parts of the documentation, between their markers.

    python -m docs.tools.generate                     configuration.md, from serving/settings.py
    python -m docs.tools.generate --bundle FOLDER     and model.md, from the bundle's model card

A test compares docs/configuration.md with the settings.
"""

import argparse
from pathlib import Path

from benchmarks.markdown import replace_block
from serving import settings

DOCS = Path("docs")


def write(page: str, block: str, text: str) -> None:
    """Replace a block of a page.

    Raises:
        ValueError: the page does not have the block exactly once.
    """
    path = DOCS / page
    path.write_text(replace_block(path.read_text(encoding="utf-8"), block, text), encoding="utf-8")


def card_body(bundle: Path) -> str:
    """Return a bundle's model card without its heading; the table in it names the version."""
    card = (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    heading, _, body = card.partition("\n")
    return f"**{heading.removeprefix('# ')}**\n{body}"


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(prog="python -m docs.tools.generate")
    parser.add_argument("--bundle", type=Path, help="folder with the model card for docs/model.md")
    bundle = parser.parse_args().bundle
    write("configuration.md", "settings", settings.table())
    if bundle:
        write("model.md", "model", card_body(bundle))


if __name__ == "__main__":
    main()
