"""Rehearses replicas without a cluster: restarts and kills them under load, and counts.

    python -m tests.replicas --bundle FOLDER [--short] [--only "rolling restart"]

Three services run behind HAProxy with the settings, the readiness probe and the grace time of
deploy/kubernetes/overlays/production. HAProxy forwards half of the clients' traffic by request, as
an Ingress does, and half by connection, as a Service does. Every acknowledged prediction must be in
MongoDB in the end, once, and with its text. `failed` counts requests without a 200; only a kill may
have any.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.chaos.__main__ import interrupt
from tests.chaos.compare import compare
from tests.replicas.manifests import load_manifests
from tests.replicas.scenarios import FULL, SCENARIOS, SHORT, Setup
from tests.support.mongodb import MongoServer

HEAD = ["scenario", "requests", "failed", "acknowledged", "stored", "lost", "duplicated", "seconds"]


def run(name: str, setup: Setup) -> dict[str, int] | None:
    """Run a scenario; return its counts, or None if something in it did not hold."""
    started = time.monotonic()
    try:
        asyncio.run(SCENARIOS[name](setup))
        counts = compare(setup)
    except Exception:
        traceback.print_exc()
        for log in sorted(setup.folder.glob("*/stderr")):
            print(f"{log.parent.name}:\n{log.read_text()[-1500:]}", file=sys.stderr)
        return None
    assert setup.load
    replies = setup.load.replies
    return {
        "requests": replies.statuses.total() + replies.unanswered,
        "failed": setup.failed,
        **{key: counts[key] for key in ("acknowledged", "stored", "lost", "duplicated")},
        "seconds": round(time.monotonic() - started),
    }


def table_row(cells: list[str], note: str) -> str:
    return f"{cells[0]:16}" + "".join(f"{cell:>13}" for cell in cells[1:]) + f"  {note}"


def main() -> int:
    """Run; the exit status is 1 if a prediction was lost or duplicated, or a scenario failed."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--short", action="store_true", help="fewer restarts and predictions")
    parser.add_argument("--only", default="", help="; ".join(SCENARIOS))
    options = parser.parse_args()
    names = [name.strip() for name in options.only.split(";") if name] or list(SCENARIOS)
    signal.signal(signal.SIGTERM, interrupt)
    manifests, size = load_manifests(), SHORT if options.short else FULL
    passed = True
    with tempfile.TemporaryDirectory(prefix="replicas-") as work, MongoServer(Path(work)) as mongo:
        print(table_row(HEAD, "note"), flush=True)
        for i, name in enumerate(names):
            (folder := Path(work) / f"scenario-{i}").mkdir()
            setup = Setup(name, folder, options.bundle, mongo, manifests, size)
            counts = run(name, setup)
            if counts is None:
                print(table_row([name], "FAILED"), flush=True)
                passed = False
                continue
            passed &= not counts["lost"] and not counts["duplicated"]
            print(table_row([name, *map(str, counts.values())], setup.note), flush=True)
    print("none lost, none duplicated" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
