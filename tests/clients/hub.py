"""huggingface_hub's `InferenceClient`, with the service's URL as its model."""

from functools import partial
from typing import Any

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

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


def classify(service: Served, key: str, text: Any, **more: Any) -> Any:
    client = InferenceClient(model=f"{service.url}/predict", token=key)
    return client.text_classification(text, **more)


def check(world: World, text: str, inputs: Any = None) -> None:
    rows = classify(world.service, world.key, inputs or text)
    (scores,) = world.scores(text)
    assert [(row.label, row.score) for row in rows] == sorted(
        scores.items(), key=lambda pair: -pair[1]
    ), rows


def options(world: World) -> None:
    top = classify(world.service, world.key, OFFENSIVE, top_k=1, function_to_apply="softmax")
    (scores,) = world.scores(OFFENSIVE)
    assert [row.label for row in top] == [max(scores, key=lambda label: scores[label])]


def check_attribute(world: World, name: str) -> None:
    """Check that a text with an attribute is likelier to be toxic: this API has the labels only."""
    label = "hate" if name == "IDENTITY_ATTACK" else "neither"
    low, high = (
        next(row.score for row in classify(world.service, world.key, text) if row.label == label)
        for text in (KIND, WITH_ATTRIBUTE[name])
    )
    assert (low < high) == (label == "hate"), (low, high)


CASES = {
    "single text": lambda world: check(world, OFFENSIVE),
    # The client returns the result of the first text only.
    "list": lambda world: check(world, OFFENSIVE, inputs=[OFFENSIVE, KIND]),
    "non-English": lambda world: check(world, GERMAN),
    "emoji": lambda world: check(world, EMOJI),
    "right-to-left": lambda world: check(world, RIGHT_TO_LEFT),
    "options": options,
    **{name: partial(check_attribute, name=name) for name in WITH_ATTRIBUTE},
    "empty text": lambda world: assert_raises(
        lambda: classify(world.service, world.key, " "), HfHubHTTPError, 422, "validation"
    ),
    "text too long": lambda world: assert_raises(
        lambda: classify(world.service, world.key, "x" * (MAX_CHARS + 1)), HfHubHTTPError, 413
    ),
    "not supported": lambda world: assert_raises(
        lambda: classify(world.service, world.key, "x", function_to_apply="sigmoid"),
        HfHubHTTPError,
        422,
        "function_to_apply",
    ),
    "wrong key": lambda world: assert_raises(
        lambda: classify(world.service, "wrong", "x"), HfHubHTTPError, 401
    ),
    "rate limit": lambda world: assert_raises(
        repeated(lambda: classify(world.limited, world.key, "x")), HfHubHTTPError, 429
    ),
}
