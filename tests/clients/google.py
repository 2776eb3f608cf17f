"""google-api-python-client, which learns the API from the discovery document."""

from functools import partial
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
    WITH_ATTRIBUTE,
    World,
    assert_raises,
    repeated,
)
from tests.support.service import Served

ATTRIBUTES = {name: {} for name in WITH_ATTRIBUTE}


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


def values(world: World, text: str) -> dict[str, float]:
    rows = analyze(world, text)["attributeScores"]
    return {name: row["summaryScore"]["value"] for name, row in rows.items()}


def check(world: World, text: str) -> None:
    assert [values(world, text)] == world.attributes(text)


def check_attribute(world: World, name: str) -> None:
    assert 0 <= values(world, KIND)[name] < values(world, WITH_ATTRIBUTE[name])[name] <= 1


def sentences(world: World) -> None:
    text = f"{EMOJI}! {KIND}."
    reply = analyze(world, text, spanAnnotations=True)
    units = text.encode("utf-16-le")
    spans = reply["attributeScores"]["IDENTITY_ATTACK"]["spanScores"]
    parts = [units[row["begin"] * 2 : row["end"] * 2].decode("utf-16-le") for row in spans]
    assert parts == [f"{EMOJI}!", f"{KIND}."], parts
    expected = [row["IDENTITY_ATTACK"] for row in world.attributes(*parts)]
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
    (attributes,) = world.attributes(OFFENSIVE)
    assert summary == {"value": attributes["IDENTITY_ATTACK"], "type": "PROBABILITY"}
    assert (reply["languages"], reply["clientToken"]) == (["en"], "token")


def batch(world: World) -> None:
    """Three calls in one request; the second has an error of its own."""
    results: dict[str, Any] = {}

    def collect(request_id: str, reply: Any, error: HttpError | None) -> None:
        results[request_id] = error or reply

    with client(world.service, world.key) as api:
        calls = api.new_batch_http_request(callback=collect)
        for text in (OFFENSIVE, "", GERMAN):
            body = {"comment": {"text": text}, "requestedAttributes": ATTRIBUTES}
            calls.add(api.comments().analyze(body=body))
        calls.execute()
    first, error, last = (results[name] for name in sorted(results))
    for reply, attributes in zip((first, last), world.attributes(OFFENSIVE, GERMAN), strict=True):
        scores = reply["attributeScores"]
        assert {name: row["summaryScore"]["value"] for name, row in scores.items()} == attributes
    assert isinstance(error, HttpError), error
    assert error.resp.status == 400
    assert "COMMENT_EMPTY" in str(error)


def partial_response(world: World) -> None:
    body = {"comment": {"text": KIND}, "requestedAttributes": ATTRIBUTES}
    with client(world.service, world.key) as api:
        reply = api.comments().analyze(body=body, fields="languages").execute()
    assert reply == {"languages": ["en"]}


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
        lambda: analyze(world, "x", requestedAttributes={"FLIRTATION": {}}),
        HttpError,
        400,
        "Unknown requested attribute: FLIRTATION",
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
    "batch": batch,
    "partial response": partial_response,
    "non-English": lambda world: check(world, GERMAN),
    "emoji": lambda world: check(world, EMOJI),
    "right-to-left": lambda world: check(world, RIGHT_TO_LEFT),
    "options": options,
    **{name: partial(check_attribute, name=name) for name in WITH_ATTRIBUTE},
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
