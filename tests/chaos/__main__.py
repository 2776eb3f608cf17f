"""Breaks things under load, and compares the acknowledged predictions with the stored ones.

    python -m tests.chaos --bundle FOLDER [--short] [--only "kill -9;SIGTERM"]

A prediction is acknowledged if its reply had status 200. Each one must be stored, once, and with
its text. More may be stored than acknowledged: a reply can be lost after its predictions were
stored. Each scenario has its own outbox and its own database in a MongoDB server (secantusdb).
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import FrameType

from tests.chaos.compare import compare
from tests.chaos.scenarios import FULL, SCENARIOS, SHORT, Setup
from tests.support.mongodb import MongoServer

MIN_ACKNOWLEDGED = 20_000  # of a full run
HEAD = ["scenario", "acknowledged", "stored", "lost", "duplicated", "unacknowledged", "seconds"]


def run(name: str, setup: Setup) -> dict[str, int] | None:
    """Run a scenario; return its figures, or None if it failed."""
    if not setup.mongo.running:
        setup.mongo.start()
    started = time.monotonic()
    try:
        asyncio.run(SCENARIOS[name](setup))
        figures = compare(setup)
    except Exception:
        traceback.print_exc()
        log = setup.folder / "stderr"
        print(log.read_text()[-3000:] if log.exists() else "", file=sys.stderr)
        return None
    figures["seconds"] = round(time.monotonic() - started)
    return figures


def table_row(cells: list[str], note: str) -> str:
    return f"{cells[0]:20}" + "".join(f"{cell:>15}" for cell in cells[1:]) + f"  {note}"


def interrupt(number: int, frame: FrameType | None) -> None:
    """Leave with an exception, so that every child process is stopped."""
    raise KeyboardInterrupt


def main() -> int:
    """Run; the exit status is 1 if a prediction was lost or duplicated, or a scenario failed."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--short", action="store_true", help="fewer kills, shorter outages")
    parser.add_argument("--only", default="", help="; ".join(SCENARIOS))
    options = parser.parse_args()
    names = [name.strip() for name in options.only.split(";") if name] or list(SCENARIOS)
    signal.signal(signal.SIGTERM, interrupt)
    size = SHORT if options.short else FULL
    total, passed = 0, True
    with tempfile.TemporaryDirectory(prefix="chaos-") as work, MongoServer(Path(work)) as mongo:
        print(table_row(HEAD, "note"), flush=True)
        for i, name in enumerate(names):
            folder = Path(work) / str(i)
            folder.mkdir()
            setup = Setup(name, folder, options.bundle, mongo, size)
            figures = run(name, setup)
            if figures is None:
                print(table_row([name], "FAILED"), flush=True)
                passed = False
                continue
            total += figures["acknowledged"]
            passed &= not figures["lost"] and not figures["duplicated"]
            print(table_row([name, *map(str, figures.values())], setup.note), flush=True)
    print(f"\n{total} acknowledged; {'none lost, none duplicated' if passed else 'FAILED'}")
    if len(names) == len(SCENARIOS) and not options.short and total < MIN_ACKNOWLEDGED:
        print(f"too few predictions for a conclusion: wanted {MIN_ACKNOWLEDGED}")
        passed = False
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
