"""perspective-api-client from npm, run by node."""

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from tests.clients.world import (
    EMOJI,
    GERMAN,
    KIND,
    MAX_CHARS,
    OFFENSIVE,
    RIGHT_TO_LEFT,
    WITH_ATTRIBUTE,
    World,
)
from tests.support.service import Served

FOLDER = Path(__file__).resolve().parent
ATTRIBUTES = [name.lower() for name in WITH_ATTRIBUTE]


def install() -> None:
    """Install the clients from the npm registry if one is missing."""
    if shutil.which("npm") is None:
        raise AssertionError("npm is missing (Debian: apt-get install nodejs npm)")
    packages = [FOLDER / "node_modules" / name for name in ("perspective-api-client", "openai")]
    if not all(package.exists() for package in packages):
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(command, cwd=FOLDER, check=True, timeout=300)


def version(name: str = "perspective-api-client") -> str:
    """Return a client's version."""
    manifest = FOLDER / "node_modules" / name / "package.json"
    return json.loads(manifest.read_text())["version"]


def analyze(service: Served, key: str, text: Any, **options: Any) -> dict[str, Any]:
    options = {"stripHTML": False, "doNotStore": False} | options
    run = subprocess.run(
        ["node", "perspective.js", service.url, key, json.dumps(text), json.dumps(options)],
        cwd=FOLDER,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return json.loads(run.stdout)


def check(world: World, text: str) -> None:
    result = analyze(world.service, world.key, text, attributes=ATTRIBUTES)
    rows = result["reply"]["attributeScores"]
    (attributes,) = world.attributes(text)
    assert {name: row["summaryScore"]["value"] for name, row in rows.items()} == attributes, result
    # Offsets are JavaScript's own, in which an emoji counts two.
    (span,) = rows["TOXICITY"]["spanScores"]
    assert (span["begin"], span["end"]) == (0, len(text.encode("utf-16-le")) // 2)


def check_attribute(world: World, name: str) -> None:
    kind, other = (
        analyze(world.service, world.key, text, attributes=ATTRIBUTES)["reply"]["attributeScores"]
        for text in (KIND, WITH_ATTRIBUTE[name])
    )
    low, high = (row[name]["summaryScore"]["value"] for row in (kind, other))
    assert 0 <= low < high <= 1, (low, high)


def options(world: World) -> None:
    resource = {
        "comment": {"text": f"{OFFENSIVE}! {KIND}."},
        "requestedAttributes": {"IDENTITY_ATTACK": {"scoreThreshold": 0}},
        "spanAnnotations": True,
        "languages": ["en"],
        "clientToken": "token",
    }
    reply = analyze(world.service, world.key, resource)["reply"]
    assert (reply["languages"], reply["clientToken"]) == (["en"], "token")
    spans = reply["attributeScores"]["IDENTITY_ATTACK"]["spanScores"]
    assert [(row["begin"], row["end"]) for row in spans] == [(0, 19), (20, 38)]


def do_not_store(world: World) -> None:
    before = world.stored()
    analyze(world.service, world.key, KIND, doNotStore=True)
    assert world.stored() == before


def assert_error(result: dict[str, Any], status: int, reason: str, *words: str) -> None:
    assert result["name"] == "ResponseError", result
    assert result["status"] == status, result
    details = result["body"]["error"].get("details", [{}])
    assert details[0].get("errorType", details[0].get("reason")) == reason, result
    assert all(word in result["message"] for word in words), result


def rate_limit(world: World) -> None:
    results = [analyze(world.limited, world.key, "x") for _ in range(3)]
    errors = [result for result in results if "reply" not in result]
    assert errors, "no error"
    assert_error(errors[0], 429, "RATE_LIMIT_EXCEEDED", "Quota exceeded")


def empty_text(world: World) -> None:
    result = analyze(world.service, world.key, " ", validate=False)
    assert_error(result, 400, "COMMENT_EMPTY", "Comment must be non-empty.")


def not_supported(world: World) -> None:
    result = analyze(world.service, world.key, "x", attributes=["flirtation"])
    assert_error(result, 400, "INVALID_REQUEST", "Unknown requested attribute: FLIRTATION")


CASES = {
    "single text": lambda world: check(world, OFFENSIVE),
    "non-English": lambda world: check(world, GERMAN),
    "emoji": lambda world: check(world, EMOJI),
    "right-to-left": lambda world: check(world, RIGHT_TO_LEFT),
    "options": options,
    **{name: partial(check_attribute, name=name) for name in WITH_ATTRIBUTE},
    "do not store": do_not_store,
    "empty text": empty_text,
    "text too long": lambda world: assert_error(
        analyze(world.service, world.key, "x" * (MAX_CHARS + 1)), 400, "COMMENT_TOO_LONG"
    ),
    "not supported": not_supported,
    "wrong key": lambda world: assert_error(
        analyze(world.service, "wrong", "x"), 400, "API_KEY_INVALID", "API key not valid"
    ),
    "rate limit": rate_limit,
}
