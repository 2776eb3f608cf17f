"""The client `openai`, with its `base_url` set to the service."""

from typing import Any

import openai

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


def moderate(service: Served, key: str, text: Any) -> Any:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0) as client:
        return client.moderations.create(model="omni-moderation-latest", input=text)


def check(world: World, *texts: str) -> None:
    reply = moderate(world.service, world.key, texts[0] if len(texts) == 1 else list(texts))
    pairs = [(row.category_scores.hate, row.category_scores.harassment) for row in reply.results]
    assert pairs == [(row["hate"], row["offensive"]) for row in world.scores(*texts)], pairs


def options(world: World) -> None:
    parts = [{"type": "text", "text": OFFENSIVE}, {"type": "text", "text": KIND}]
    (row,) = moderate(world.service, world.key, parts).results
    assert row.category_scores.hate == world.scores(f"{OFFENSIVE}\n{KIND}")[0]["hate"]
    with openai.OpenAI(base_url=f"{world.service.url}/v1", api_key=world.key) as client:
        reply = client.moderations.with_raw_response.create(input=OFFENSIVE)
    assert reply.headers["x-categories-judged"] == "hate, harassment"
    (row,) = reply.parse().results
    assert row.category_applied_input_types.violence == []
    assert row.category_applied_input_types.hate == ["text"]
    assert row.flagged == (row.categories.hate or row.categories.harassment)


def image(world: World) -> None:
    parts = [
        {"type": "text", "text": OFFENSIVE},
        {"type": "image_url", "image_url": {"url": "https://images.example/a.png"}},
    ]
    assert_raises(
        lambda: moderate(world.service, world.key, parts),
        openai.BadRequestError,
        400,
        "Images are not supported",
        "input[1].type",
    )


CASES = {
    "single text": lambda world: check(world, OFFENSIVE),
    "list": lambda world: check(world, OFFENSIVE, KIND, EMOJI, OFFENSIVE),
    "non-English": lambda world: check(world, GERMAN),
    "emoji": lambda world: check(world, EMOJI),
    "right-to-left": lambda world: check(world, RIGHT_TO_LEFT),
    "options": options,
    "empty text": lambda world: assert_raises(
        lambda: moderate(world.service, world.key, ["x", " "]),
        openai.BadRequestError,
        400,
        "input[1]",
    ),
    "text too long": lambda world: assert_raises(
        lambda: moderate(world.service, world.key, ["x" * (MAX_CHARS + 1)]),
        openai.BadRequestError,
        400,
        "string_above_max_length",
    ),
    "not supported": image,
    "wrong key": lambda world: assert_raises(
        lambda: moderate(world.service, "wrong", "x"),
        openai.AuthenticationError,
        401,
        "invalid_api_key",
    ),
    "rate limit": lambda world: assert_raises(
        repeated(lambda: moderate(world.limited, world.key, "x")),
        openai.RateLimitError,
        429,
        "rate_limit_exceeded",
    ),
}
