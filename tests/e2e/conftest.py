"""A real service and a real browser. The tests run only with `make e2e`, which provides both."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.chromium import launch
from tests.support.service import Served

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "reports" / "screenshots"
TIMEOUT_MS = 120_000  # for a busy machine

collect_ignore_glob = [] if os.environ.get("E2E") else ["test_*.py"]


@contextmanager
def serving(bundle: Path, log: Path, **settings: str) -> Iterator[str]:
    """Run a service whose outbox is in the folder `log`; yield its URL."""
    service = Served(bundle, log, **{"MAX_QUEUE_SECONDS": "60", **settings})
    try:
        yield service.url
    finally:
        service.stop()


@pytest.fixture(scope="session")
def bundle() -> Path:
    return Path(os.environ["BUNDLE"]).resolve()


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="session")
def url(bundle: Path, log: Path) -> Iterator[str]:
    with serving(bundle, log) as url:
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """Open a page of its own, with the `options` of a browser context.

    A script error, a dialog or a broken policy fails the test.
    """
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda m: wrong.append(m.text) if "Security Policy" in m.text else None)
    page.goto(url)
    yield page
    page.unroute_all(behavior="ignoreErrors")
    context.close()
    assert not wrong


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The demo page."""
    with opened(browser, url, accept_downloads=True) as page:
        yield page
