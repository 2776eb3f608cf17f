"""npm's perspective-api-client, run by node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.clients.world import (
    EMOJI,
    GERMAN,
    KIND,
    MAX_CHARS,
    PLAIN,
    RIGHT_TO_LEFT,
    World,
)
from tests.support.service import Served

FOLDER = Path(__file__).resolve().parent
ATTRIBUTES = ["toxicity", "identity_attack", "profanity"]


def install() -> None:
    """Bring the client from npm's registry, unless it is there."""
    if shutil.which("npm") is None:
        raise AssertionError("npm is missing (Debian: apt-get install nodejs npm)")
    if not (FOLDER / "node_modules" / "perspective-api-client").exists():
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(command, cwd=FOLDER, check=True, timeout=300)


def version() -> str:
    """Say which version is tried."""
    manifest = FOLDER / "node_modules" / "perspective-api-client" / "package.json"
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


def same(world: World, text: str) -> None:
    answer = analyze(world.service, world.key, text, attributes=ATTRIBUTES)
    rows = answer["reply"]["attributeScores"]
    (scores,) = world.scores(text)
    assert {name: row["summaryScore"]["value"] for name, row in rows.items()} == {
        "TOXICITY": round(scores["hate"] + scores["offensive"], 6),
        "IDENTITY_ATTACK": scores["hate"],
        "PROFANITY": scores["offensive"],
    }, answer
    # Offsets are JavaScript's own: its string's length, in which an emoji counts two.
    (span,) = rows["TOXICITY"]["spanScores"]
    assert (span["begin"], span["end"]) == (0, len(text.encode("utf-16-le")) // 2)


def options(world: World) -> None:
    resource = {
        "comment": {"text": f"{PLAIN}! {KIND}."},
        "requestedAttributes": {"IDENTITY_ATTACK": {"scoreThreshold": 0}},
        "spanAnnotations": True,
        "languages": ["en"],
        "clientToken": "token",
    }
    reply = analyze(world.service, world.key, resource)["reply"]
    assert (reply["languages"], reply["clientToken"]) == (["en"], "token")
    spans = reply["attributeScores"]["IDENTITY_ATTACK"]["spanScores"]
    assert [(row["begin"], row["end"]) for row in spans] == [(0, 19), (20, 38)]


def nothing_stored(world: World) -> None:
    before = world.stored()
    analyze(world.service, world.key, KIND, doNotStore=True)
    assert world.stored() == before


def told(answer: dict[str, Any], status: int, reason: str | None, *words: str) -> None:
    assert answer["name"] == "ResponseError", answer
    assert answer["status"] == status, answer
    details = answer["body"]["error"].get("details", [{}])
    assert details[0].get("errorType", details[0].get("reason")) == reason, answer
    # The client takes our message for its own.
    assert all(word in answer["message"] for word in words), answer


def rate_limit(world: World) -> None:
    answers = [analyze(world.limited, world.key, "x") for _ in range(3)]
    refused = [answer for answer in answers if "reply" not in answer]
    assert refused, "never refused"
    told(refused[0], 429, "RATE_LIMIT_EXCEEDED", "Quota exceeded")


def empty(world: World) -> None:
    answer = analyze(world.service, world.key, " ", validate=False)
    told(answer, 400, "COMMENT_EMPTY", "Comment must be non-empty.")


def not_supported(world: World) -> None:
    answer = analyze(world.service, world.key, "x", attributes=["threat"])
    told(answer, 400, "INVALID_REQUEST", "Unknown requested attribute: THREAT")


CASES = {
    "happy path": lambda world: same(world, PLAIN),
    "non-English": lambda world: same(world, GERMAN),
    "emoji": lambda world: same(world, EMOJI),
    "right-to-left": lambda world: same(world, RIGHT_TO_LEFT),
    "options": options,
    "nothing stored on wish": nothing_stored,
    "empty text": empty,
    "text too long": lambda world: told(
        analyze(world.service, world.key, "x" * (MAX_CHARS + 1)), 400, "COMMENT_TOO_LONG"
    ),
    "not supported": not_supported,
    "wrong key": lambda world: told(
        analyze(world.service, "wrong", "x"), 400, "API_KEY_INVALID", "API key not valid"
    ),
    "rate limit": rate_limit,
}
