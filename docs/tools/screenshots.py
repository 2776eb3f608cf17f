"""Take the screenshot of the page that README.md shows: docs/images/page.png.

    service on a bundle -> headless Chromium -> type, classify, explain -> PNG of at most 200 KB

`make screenshots` runs it. CHROMIUM names the browser; the default is Debian's.
"""

import argparse
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.support.service import Served

TEXT = "Lovely photo, you absolute clown, now delete your account"
TARGET = Path("docs/images/page.png")
MAX_BYTES = 200_000
WIDTH, SCALE = 960, 2
COLOURS = 256  # of the palette
TIMEOUT_MS = 60_000


def explain_on_page(page: Page, url: str) -> None:
    """Classify TEXT on the page and wait for the explanation of its label."""
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(url)
    page.fill("#text", TEXT)
    page.press("#text", "Control+Enter")
    page.wait_for_selector("#weights tr")
    page.evaluate("document.activeElement.blur()")


def capture(url: str) -> bytes:
    """Return a PNG of the page, from its top to the end of the explanation."""
    browser_path = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=flags)
        page = browser.new_page(
            viewport={"width": WIDTH, "height": 1400},
            device_scale_factor=SCALE,
            color_scheme="light",
            reduced_motion="reduce",
        )
        explain_on_page(page, url)
        box = page.locator("article", has=page.locator("#weights")).bounding_box()
        assert box, "the explanation is not visible"
        height = box["y"] + box["height"] + 10
        shot = page.screenshot(clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
        browser.close()
    return shot


def compressed(png: bytes) -> bytes:
    """Return the picture with a palette of COLOURS."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    palette = picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    """Write TARGET; exit 1 if it is larger than MAX_BYTES."""
    parser = argparse.ArgumentParser(prog="python -m docs.tools.screenshots")
    parser.add_argument("--bundle", type=Path, required=True, help="model bundle to serve")
    bundle = parser.parse_args().bundle.resolve()
    with tempfile.TemporaryDirectory() as log:
        service = Served(bundle, Path(log), MONGODB_URI="", MAX_QUEUE_SECONDS="60")
        try:
            service.predict("a first request takes longer")
            png = compressed(capture(service.url))
        finally:
            service.stop()
    if len(png) > MAX_BYTES:
        sys.exit(f"{TARGET}: got {len(png)} bytes, wanted at most {MAX_BYTES}")
    TARGET.write_bytes(png)
    print(f"{TARGET}: {len(png)} bytes")


if __name__ == "__main__":
    main()
