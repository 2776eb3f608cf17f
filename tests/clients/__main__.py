"""Tests the real clients of other services on this one, and prints a table of clients and cases.

    python -m tests.clients [--bundle FOLDER]

Each client comes from its own registry and is used as its documentation says; its results are
compared with those of `/v1/predict` for the same texts. Exits with 1 if a case fails.
"""

import argparse
import re
import sys
import tempfile
import traceback
from importlib.metadata import version
from pathlib import Path

from serving.model_manager import bundle_folder
from serving.settings import Settings
from tests.clients import browser, google, hub, npm, openai_sdk
from tests.clients.world import CASES, MAX_CHARS, Case, World, api_keys
from tests.support.service import Served

NPM = "perspective-api-client"
BROWSER = "openai (npm)"
CLIENTS: dict[str, dict[str, Case]] = {
    "google-api-python-client": google.CASES,
    NPM: npm.CASES,
    "openai": openai_sdk.CASES,
    BROWSER: browser.CASES,
    "huggingface_hub": hub.CASES,
}
NO_CASE = "·"
Results = dict[tuple[str, str], str | None]  # by client and case: why it failed; None if it passed


def run_case(case: Case, world: World) -> str | None:
    """Return the traceback of a case that fails; None if it passes."""
    try:
        case(world)
    except Exception:  # whatever a client raises is a result
        return traceback.format_exc()
    return None


def run_all(bundle: Path) -> Results:
    """Run every case of every client."""
    keys = {client: re.sub("[^a-z]", "", client) for client in CLIENTS}
    settings = {"API_KEYS": api_keys([*keys.values()]), "MAX_CHARS": str(MAX_CHARS)}
    results = {}
    with tempfile.TemporaryDirectory() as folder, browser.pages() as origin:
        settings["CORS_ORIGINS"] = origin
        folders = [Path(folder, name) for name in ("service", "limited")]
        for path in folders:
            path.mkdir()
        service = Served(bundle, folders[0], **settings)
        limited = Served(bundle, folders[1], **settings, REQUESTS_PER_MINUTE="1")
        try:
            for client, cases in CLIENTS.items():
                outbox = folders[0] / "outbox.db"
                world = World(service, limited, keys[client], outbox, origin)
                for name, case in cases.items():
                    results[client, name] = run_case(case, world)
        finally:
            service.stop()
            limited.stop()
    return results


def table(results: Results) -> str:
    """Return the results as a table, with a row for each case and a column for each client."""
    width = max(map(len, CASES))
    lines = ["  ".join([" " * width, *CLIENTS])]
    for case in CASES:
        cells = []
        for client in CLIENTS:
            result = results.get((client, case), NO_CASE)
            shown = result if result == NO_CASE else "FAILED" if result else "ok"
            cells.append(shown.ljust(len(client)))
        lines.append("  ".join([case.ljust(width), *cells]).rstrip())
    return "\n".join(lines)


def main() -> int:
    """Run the cases and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="default: the one that `make serve` uses")
    bundle = bundle_folder(Settings(bundle=parser.parse_args().bundle)).resolve()
    unknown = {case for cases in CLIENTS.values() for case in cases} - set(CASES)
    assert not unknown, unknown
    npm.install()
    results = run_all(bundle)
    failed = {key: reason for key, reason in results.items() if reason}
    for (client, case), reason in failed.items():
        print(f"{client}: {case}\n{reason}", file=sys.stderr)
    print(table(results))
    installed = {NPM: npm.version(), BROWSER: npm.version("openai")}
    versions = [f"{client} {installed.get(client) or version(client)}" for client in CLIENTS]
    passed = len(results) - len(failed)
    print(f"\n{passed} of {len(results)} cases pass: {', '.join(versions)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
