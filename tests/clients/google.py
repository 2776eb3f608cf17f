"""google-api-python-client, which learns the API from the discovery document."""

from typing import Any

from googleapiclient import discovery
from googleapiclient.errors import HttpError

from tests.clients.world import (
    EMOJI,
    GERMAN,
    KIND,
    MAX_CHARS,
    OFFENSIVE,
    RIGHT_TO_LEFT,
    World,
    assert_raises,
    repeated,
)
from tests.support.service import Served

ATTRIBUTES = {name: {} for name in ("TOXICITY", "IDENTITY_ATTACK", "PROFANITY")}


def client(service: Served, key: str | None) -> Any:
    return discovery.build(
        "commentanalyzer",
        "v1alpha1",
        developerKey=key,
        discoveryServiceUrl=f"{service.url}/$discovery/rest?version=v1alpha1",
        static_discovery=False,
    )


def analyze(world: World, text: str, **more: Any) -> Any:
    body = {"comment": {"text": text}, "requestedAttributes": ATTRIBUTES} | more
    with client(world.service, world.key) as api:
        return api.comments().analyze(body=body).execute()


def check(world: World, text: str) -> None:
    values = {
        name: row["summaryScore"]["value"]
        for name, row in analyze(world, text)["attributeScores"].items()
    }
    (scores,) = world.scores(text)
    assert values == {
        "TOXICITY": round(scores["hate"] + scores["offensive"], 6),
        "IDENTITY_ATTACK": scores["hate"],
        "PROFANITY": scores["offensive"],
    }, values


def sentences(world: World) -> None:
    text = f"{EMOJI}! {KIND}."
    reply = analyze(world, text, spanAnnotations=True)
    units = text.encode("utf-16-le")
    spans = reply["attributeScores"]["IDENTITY_ATTACK"]["spanScores"]
    parts = [units[row["begin"] * 2 : row["end"] * 2].decode("utf-16-le") for row in spans]
    assert parts == [f"{EMOJI}!", f"{KIND}."], parts
    expected = [scores["hate"] for scores in world.scores(*parts)]
    assert [row["score"]["value"] for row in spans] == expected


def options(world: World) -> None:
    reply = analyze(
        world,
        f"<p>{OFFENSIVE}</p>",
        comment={"text": f"<b>{OFFENSIVE}</b>", "type": "HTML"},
        requestedAttributes={"TOXICITY": {"scoreThreshold": 1}, "IDENTITY_ATTACK": {}},
        languages=["en"],
        clientToken="token",
        sessionId="1",
        communityId="here",
    )
    assert list(reply["attributeScores"]) == ["IDENTITY_ATTACK"]
    summary = reply["attributeScores"]["IDENTITY_ATTACK"]["summaryScore"]
    assert summary == {"value": world.scores(OFFENSIVE)[0]["hate"], "type": "PROBABILITY"}
    assert (reply["languages"], reply["clientToken"]) == (["en"], "token")


def feedback(world: World) -> None:
    suggested = {"TOXICITY": {"summaryScore": {"value": 0}}}
    body = {"comment": {"text": KIND}, "attributeScores": suggested, "clientToken": "c"}
    with client(world.service, world.key) as api:
        assert api.comments().suggestscore(body=body).execute() == {"clientToken": "c"}


def do_not_store(world: World) -> None:
    before = world.stored()
    analyze(world, KIND, doNotStore=True)
    assert world.stored() == before
    analyze(world, KIND)
    assert world.stored() == [*before, ("perspective", KIND)]


def not_supported(world: World) -> None:
    assert_raises(
        lambda: analyze(world, "x", requestedAttributes={"THREAT": {}}),
        HttpError,
        400,
        "Unknown requested attribute: THREAT",
        "INVALID_REQUEST",
    )
    assert_raises(
        lambda: analyze(world, GERMAN, languages=["de"]),
        HttpError,
        400,
        "Attribute TOXICITY does not support request languages: de",
        "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
    )


def call(service: Served, key: str | None) -> None:
    body = {"comment": {"text": "x"}, "requestedAttributes": ATTRIBUTES}
    with client(service, key) as api:
        api.comments().analyze(body=body).execute()


CASES = {
    "single text": lambda world: check(world, OFFENSIVE),
    "list": sentences,
    "non-English": lambda world: check(world, GERMAN),
    "emoji": lambda world: check(world, EMOJI),
    "right-to-left": lambda world: check(world, RIGHT_TO_LEFT),
    "options": options,
    "feedback": feedback,
    "do not store": do_not_store,
    "empty text": lambda world: assert_raises(
        lambda: analyze(world, ""), HttpError, 400, "must be non-empty", "COMMENT_EMPTY"
    ),
    "text too long": lambda world: assert_raises(
        lambda: analyze(world, "x" * (MAX_CHARS + 1)), HttpError, 400, "COMMENT_TOO_LONG"
    ),
    "not supported": not_supported,
    "wrong key": lambda world: assert_raises(
        lambda: call(world.service, "wrong"), HttpError, 400, "API key not valid", "API_KEY_INVALID"
    ),
    "no key": lambda world: assert_raises(
        lambda: call(world.service, None), HttpError, 403, "unregistered callers"
    ),
    "rate limit": lambda world: assert_raises(
        repeated(lambda: call(world.limited, world.key)),
        HttpError,
        429,
        "Quota exceeded",
        "RATE_LIMIT_EXCEEDED",
    ),
}
