"""Tries the whole circle: log, review, sources, train, gates, promote, serve.

    python -m tests.learning

A model is trained on a small data set of its own, promoted and served, with MongoDB behind it. Then
a coined insult enters the traffic. Users complain, reviewers label what the queue gives them, the
drift check raises its flag, the next model learns from the log, and the service takes it over. The
figures of each step are printed; the exit status is 1 if one does not hold.

Everything happens in a copy of the checkout, with sources and gates that are written for it (see
tests/learning/checkout.py), and with a model of one layer, so that training takes seconds.
"""

import logging
import signal
import sys
import tempfile
import textwrap
import time
import traceback
from pathlib import Path

from tests.chaos.__main__ import interrupt
from tests.learning.checkout import Checkout
from tests.learning.people import api_keys
from tests.learning.steps import DATABASE, STEPS, Circle
from tests.learning.texts import Writer
from tests.support.mongodb import MongoServer

WIDTH = 100


def settings_of(mongo: MongoServer, folder: Path) -> dict[str, str]:
    """Return the service's settings. Many reviews are random: estimates need some dozens."""
    return {
        "MONGODB_URI": f"{mongo.uri}{DATABASE}",
        "OUTBOX": str(folder / "outbox.db"),
        "API_KEYS": api_keys(),
        "WATCH_SECONDS": "1",
        "REVIEW_RANDOM_SHARE": "0.5",
        "DRIFT_REPORT": str(folder / "drift" / "drift.json"),
        "MAX_QUEUE_SECONDS": "20",  # no 429 on a busy machine
    }


def run(name: str, circle: Circle) -> bool:
    """Run a step and print its figures; return whether it held."""
    started = time.monotonic()
    try:
        figures = STEPS[name](circle)
    except Exception:
        figures = "FAILED"
        traceback.print_exc()
        log = circle.folder / "stderr"
        print(log.read_text()[-2000:] if log.exists() else "", file=sys.stderr)
    seconds = f"{time.monotonic() - started:5.0f} s  "
    indent = " " * (16 + len(seconds))
    print(textwrap.fill(figures, WIDTH, initial_indent=f"{name:16}{seconds}",
                        subsequent_indent=indent), flush=True)  # fmt: skip
    return figures != "FAILED"


def main() -> int:
    """Run all steps; each needs those before it."""
    signal.signal(signal.SIGTERM, interrupt)
    logging.disable(logging.WARNING)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="learning-") as work:
        folder = Path(work)
        with MongoServer(folder / "mongodb") as mongo:
            settings = settings_of(mongo, folder)
            writer = Writer(21)
            checkout = Checkout(folder, settings, writer)
            circle = Circle(checkout, mongo, folder, settings, writer)
            try:
                held = all(run(name, circle) for name in STEPS)
            finally:
                if circle.service:
                    circle.service.stop()
    print(f"{'the circle is closed' if held else 'FAILED'}, {time.monotonic() - started:.0f} s")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
