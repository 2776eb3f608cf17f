"""Tries the real clients of other services on a running one, and prints a table: client by case.

    python -m tests.clients [--bundle FOLDER]

Each client comes from its own registry and is used as its documentation says; what it returns is
compared with what `/v1/predict` says of the same text. Ends with 1 if a case fails.
"""

import argparse
import sys
import tempfile
import traceback
from importlib.metadata import version
from pathlib import Path

from serving.model_manager import bundle_folder
from tests.clients import google, hub, npm, openai_sdk
from tests.clients.world import CASES, MAX_CHARS, Case, World, keys
from tests.support.service import Served

NPM = "perspective-api-client"
CLIENTS: dict[str, dict[str, Case]] = {
    "google-api-python-client": google.CASES,
    NPM: npm.CASES,
    "openai": openai_sdk.CASES,
    "huggingface_hub": hub.CASES,
}
NONE = "·"  # that client has no such case


def attempt(case: Case, world: World) -> str | None:
    """Return why a case fails; None if it passes."""
    try:
        case(world)
    except Exception:  # whatever a client does wrong is a finding
        return traceback.format_exc()
    return None


def table(found: dict[tuple[str, str], str | None]) -> str:
    """Return the outcomes, a row a case and a column a client."""
    width = max(map(len, CASES))
    lines = ["  ".join([" " * width, *CLIENTS])]
    for case in CASES:
        cells = []
        for client in CLIENTS:
            outcome = found.get((client, case), NONE)
            shown = outcome if outcome == NONE else "FAILED" if outcome else "ok"
            cells.append(shown.ljust(len(client)))
        lines.append("  ".join([case.ljust(width), *cells]).rstrip())
    return "\n".join(lines)


def main() -> int:
    """Try everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="default: the one that `make serve` takes")
    bundle = bundle_folder(parser.parse_args().bundle).resolve()
    npm.install()
    names = {client: client.partition("-")[0] for client in CLIENTS}
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch, name) for name in ("service", "limited")]
        for folder in folders:
            folder.mkdir()
        settings = {"API_KEYS": keys(list(names.values())), "MAX_CHARS": str(MAX_CHARS)}
        service = Served(bundle, folders[0], **settings)
        limited = Served(bundle, folders[1], **settings, REQUESTS_PER_MINUTE="1")
        found = {}
        try:
            for client, cases in CLIENTS.items():
                world = World(service, limited, names[client], folders[0] / "outbox.db")
                for name, case in cases.items():
                    found[client, name] = attempt(case, world)
        finally:
            service.stop()
            limited.stop()
    unknown = {name for _, name in found} - set(CASES)
    assert not unknown, unknown
    failed = {at: why for at, why in found.items() if why}
    for (client, case), why in failed.items():
        print(f"{client}: {case}\n{why}", file=sys.stderr)
    print(table(found))
    versions = [
        f"{client} {npm.version() if client == NPM else version(client)}" for client in CLIENTS
    ]
    print(f"\n{len(found) - len(failed)} of {len(found)} cases pass: {', '.join(versions)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
