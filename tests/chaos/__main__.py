"""Breaks things under load and counts: every id answered with 200 is stored, once, as answered.

    python -m tests.chaos --bundle FOLDER [--short] [--only "kill -9;SIGTERM"]

Each scenario has its own outbox and database; MongoDB is a secantusdb of its own. Texts are
unique, so that a question that was stored twice shows. Stored and not acknowledged is what was in
the log when its reply was lost: the log may know more than the caller, never less.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType

from pymongo import MongoClient

from tests.chaos.scenarios import FULL, SCENARIOS, SHORT, World
from tests.chaos.service import rows
from tests.support.mongodb import MongoServer

ENOUGH = 20_000
HEAD = ["scenario", "acknowledged", "stored", "lost", "duplicated", "unacknowledged", "seconds"]


def stored(world: World) -> dict[str, str]:
    """Return the texts of all predictions, by id, in MongoDB and in what is left of the outbox."""
    found = rows(world.outbox) if world.outbox.exists() else {}
    with MongoClient(world.mongo.uri) as client:
        for document in client[world.database]["predictions"].find({}, {"text": 1}):
            found[document["_id"]] = document["text"]
    return {key: text for key, text in found.items() if text.startswith(world.name)}


def judge(world: World) -> dict[str, int]:
    """Compare what was told with what is stored."""
    told = world.load.told.texts if world.load else {}
    kept = stored(world)
    return {
        "acknowledged": len(told),
        "stored": len(kept),
        "lost": sum(kept.get(key) != text for key, text in told.items()),
        "duplicated": sum(n - 1 for n in Counter(kept.values()).values()),
        "unacknowledged": len(kept.keys() - told.keys()),
    }


def run(name: str, world: World) -> dict[str, int] | None:
    """Play a scenario; None if it did not go as it should."""
    if not world.mongo.running:
        world.mongo.start()
    began = time.monotonic()
    try:
        asyncio.run(SCENARIOS[name](world))
        found = judge(world)
    except Exception:
        traceback.print_exc()
        log = world.folder / "service.log"
        print(log.read_text()[-3000:] if log.exists() else "", file=sys.stderr)
        return None
    found["seconds"] = round(time.monotonic() - began)
    return found


def line(cells: list[str], note: str) -> str:
    """Return a line of the table."""
    return f"{cells[0]:20}" + "".join(f"{cell:>15}" for cell in cells[1:]) + f"  {note}"


def interrupted(number: int, frame: FrameType | None) -> None:
    """Leave by the way of an exception, so that every child is ended."""
    raise KeyboardInterrupt


def main() -> int:
    """Run; the exit status is 1 if anything was lost, doubled, or did not go as it should."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--short", action="store_true", help="less of everything")
    parser.add_argument("--only", default="", help="; ".join(SCENARIOS))
    options = parser.parse_args()
    wanted = [name.strip() for name in options.only.split(";") if name] or list(SCENARIOS)
    signal.signal(signal.SIGTERM, interrupted)
    size = SHORT if options.short else FULL
    total, well = 0, True
    with tempfile.TemporaryDirectory(prefix="chaos-") as work, MongoServer(Path(work)) as mongo:
        print("MongoDB: secantusdb, its own process")
        print(line(HEAD, "note"), flush=True)
        for number, name in enumerate(wanted):
            folder = Path(work) / str(number)
            folder.mkdir()
            world = World(name, folder, options.bundle, mongo, size)
            found = run(name, world)
            if found is None:
                print(line([name], "FAILED"), flush=True)
                well = False
                continue
            total += found["acknowledged"]
            well &= not found["lost"] and not found["duplicated"]
            print(line([name, *map(str, found.values())], world.note), flush=True)
    print(f"\n{total} acknowledged in all; {'none lost, none doubled' if well else 'NOT WELL'}")
    if len(wanted) == len(SCENARIOS) and not options.short and total < ENOUGH:
        print(f"too few to say so: wanted {ENOUGH}")
        well = False
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
