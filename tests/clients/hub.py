"""huggingface_hub's InferenceClient, whose model is a URL."""

from typing import Any

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

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


def classify(service: Served, key: str, text: Any, **more: Any) -> Any:
    client = InferenceClient(model=f"{service.url}/predict", token=key)
    return client.text_classification(text, **more)


def same(world: World, text: str, asked: Any = None) -> None:
    found = classify(world.service, world.key, asked or text)
    (scores,) = world.scores(text)
    assert [(row.label, row.score) for row in found] == sorted(
        scores.items(), key=lambda pair: -pair[1]
    ), found


def options(world: World) -> None:
    top = classify(world.service, world.key, PLAIN, top_k=1, function_to_apply="softmax")
    (scores,) = world.scores(PLAIN)
    assert [row.label for row in top] == [max(scores, key=lambda label: scores[label])]


CASES = {
    "happy path": lambda world: same(world, PLAIN),
    # Of a list's replies that client returns the first.
    "list": lambda world: same(world, PLAIN, asked=[PLAIN, KIND]),
    "non-English": lambda world: same(world, GERMAN),
    "emoji": lambda world: same(world, EMOJI),
    "right-to-left": lambda world: same(world, RIGHT_TO_LEFT),
    "options": options,
    "empty text": lambda world: refused(
        lambda: classify(world.service, world.key, " "), HfHubHTTPError, 422, "validation"
    ),
    "text too long": lambda world: refused(
        lambda: classify(world.service, world.key, "x" * (MAX_CHARS + 1)), HfHubHTTPError, 413
    ),
    "not supported": lambda world: refused(
        lambda: classify(world.service, world.key, "x", function_to_apply="sigmoid"),
        HfHubHTTPError,
        422,
        "function_to_apply",
    ),
    "wrong key": lambda world: refused(
        lambda: classify(world.service, "wrong", "x"), HfHubHTTPError, 401
    ),
    "rate limit": lambda world: refused(
        until_refused(lambda: classify(world.limited, world.key, "x")), HfHubHTTPError, 429
    ),
}
