"""openai, pointed here by its `base_url`."""

from typing import Any

import openai

from tests.clients.world import (
    EMOJI,
    GERMAN,
    KIND,
    MAX_CHARS,
    PLAIN,
    RIGHT_TO_LEFT,
    World,
    refused,
    until_refused,
)
from tests.support.service import Served


def moderate(service: Served, key: str, text: Any) -> Any:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0) as client:
        return client.moderations.create(model="omni-moderation-latest", input=text)


def same(world: World, *texts: str) -> None:
    found = moderate(world.service, world.key, texts[0] if len(texts) == 1 else list(texts))
    pairs = [(row.category_scores.hate, row.category_scores.harassment) for row in found.results]
    assert pairs == [(row["hate"], row["offensive"]) for row in world.scores(*texts)], pairs


def options(world: World) -> None:
    parts = [{"type": "text", "text": PLAIN}, {"type": "text", "text": KIND}]
    (row,) = moderate(world.service, world.key, parts).results
    assert row.category_scores.hate == world.scores(f"{PLAIN}\n{KIND}")[0]["hate"]
    with openai.OpenAI(base_url=f"{world.service.url}/v1", api_key=world.key) as client:
        reply = client.moderations.with_raw_response.create(input=PLAIN)
    assert reply.headers["x-categories-judged"] == "hate, harassment"
    (row,) = reply.parse().results
    assert row.category_applied_input_types.violence == []
    assert row.category_applied_input_types.hate == ["text"]
    assert row.flagged == (row.categories.hate or row.categories.harassment)


def image(world: World) -> None:
    parts = [
        {"type": "text", "text": PLAIN},
        {"type": "image_url", "image_url": {"url": "https://images.example/a.png"}},
    ]
    refused(
        lambda: moderate(world.service, world.key, parts),
        openai.BadRequestError,
        400,
        "images are not supported",
        "input[1].type",
    )


CASES = {
    "happy path": lambda world: same(world, PLAIN),
    "list": lambda world: same(world, PLAIN, KIND, EMOJI, PLAIN),
    "non-English": lambda world: same(world, GERMAN),
    "emoji": lambda world: same(world, EMOJI),
    "right-to-left": lambda world: same(world, RIGHT_TO_LEFT),
    "options": options,
    "empty text": lambda world: refused(
        lambda: moderate(world.service, world.key, ["x", " "]),
        openai.BadRequestError,
        400,
        "input[1]",
    ),
    "text too long": lambda world: refused(
        lambda: moderate(world.service, world.key, ["x" * (MAX_CHARS + 1)]),
        openai.BadRequestError,
        400,
        "string_above_max_length",
    ),
    "not supported": image,
    "wrong key": lambda world: refused(
        lambda: moderate(world.service, "wrong", "x"),
        openai.AuthenticationError,
        401,
        "invalid_api_key",
    ),
    "rate limit": lambda world: refused(
        until_refused(lambda: moderate(world.limited, world.key, "x")),
        openai.RateLimitError,
        429,
        "rate_limit_exceeded",
    ),
}
