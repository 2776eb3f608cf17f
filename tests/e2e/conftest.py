"""A real service and a real browser. Collected only by `make e2e`, which sees to both."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "reports" / "screenshots"
PATIENCE_MS = 120_000  # a machine may have much else to do

collect_ignore_glob = [] if os.environ.get("E2E") else ["test_*.py"]


@contextmanager
def serving(bundle: Path, outbox: Path, **settings: str) -> Iterator[str]:
    """Run a service; yield its URL."""
    environment = os.environ | {
        "BUNDLE": str(bundle), "OUTBOX": str(outbox), "PORT": "0", "HOST": "127.0.0.1",
        "MAX_QUEUE_SECONDS": "60", "MONGODB_URI": "", "API_KEYS": "", **settings,
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "serving", "serve"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert " on http://" in line, "the service did not start"
        try:
            yield line.split(" on ")[1].split()[0]
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def bundle() -> Path:
    return Path(os.environ["BUNDLE"]).resolve()


@pytest.fixture(scope="session")
def outbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "outbox.db"


@pytest.fixture(scope="session")
def url(bundle: Path, outbox: Path) -> Iterator[str]:
    with serving(bundle, outbox) as found:
        yield found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses root
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=flags)
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The demo page; a script error, a dialog or a broken policy fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda m: wrong.append(m.text) if "Security Policy" in m.text else None)
    page.goto(url)
    yield page
    context.close()
    assert not wrong
