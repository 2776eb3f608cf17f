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
    WITH_ATTRIBUTE,
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
    for result, row in zip(reply.results, world.predictions(*texts), strict=True):
        shown, hate, attributes = result.category_scores, row["scores"]["hate"], row["attributes"]
        threat = attributes["THREAT"]
        assert (shown.hate, shown.hate_threatening) == (hate, min(hate, threat)), result
        assert shown.harassment == max(attributes["INSULT"], threat), result
        assert shown.harassment_threatening == threat, result


def check_category(world: World, name: str, category: str) -> None:
    """Check that a text with an attribute scores higher in a category than a harmless one."""
    harmless, other = moderate(world.service, world.key, [KIND, WITH_ATTRIBUTE[name]]).results
    low, high = (getattr(row.category_scores, category) for row in (harmless, other))
    assert 0 <= low < high <= 1, (low, high)


def options(world: World) -> None:
    parts = [{"type": "text", "text": OFFENSIVE}, {"type": "text", "text": KIND}]
    (row,) = moderate(world.service, world.key, parts).results
    assert row.category_scores.hate == world.scores(f"{OFFENSIVE}\n{KIND}")[0]["hate"]
    with openai.OpenAI(base_url=f"{world.service.url}/v1", api_key=world.key) as client:
        reply = client.moderations.with_raw_response.create(input=OFFENSIVE)
    categories = "harassment, harassment/threatening, hate, hate/threatening"
    assert reply.headers["x-categories-judged"] == categories
    (row,) = reply.parse().results
    assert row.category_applied_input_types.violence == []
    assert row.category_applied_input_types.hate_threatening == ["text"]
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
    "TOXICITY": lambda world: check_category(world, "TOXICITY", "harassment"),
    "IDENTITY_ATTACK": lambda world: check_category(world, "IDENTITY_ATTACK", "hate"),
    "SEVERE_TOXICITY": lambda world: check_category(world, "SEVERE_TOXICITY", "harassment"),
    "INSULT": lambda world: check_category(world, "INSULT", "harassment"),
    # No category is profanity: the text has the scores that the other attributes give it.
    "PROFANITY": lambda world: check(world, WITH_ATTRIBUTE["PROFANITY"]),
    "THREAT": lambda world: check_category(world, "THREAT", "harassment_threatening"),
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
