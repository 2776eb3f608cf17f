"""The client `openai` from npm in Chromium, on a page of another origin."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from playwright.sync_api import sync_playwright

from tests.clients.npm import FOLDER
from tests.clients.world import EMOJI, KIND, MAX_CHARS, OFFENSIVE, World
from tests.support.chromium import launch
from tests.support.service import Served

# The client sends headers such as x-stainless-os, so that the browser asks for leave first.
CALL = """async ({ url, key, input }) => {
  const { default: OpenAI } = await import("/node_modules/openai/index.mjs");
  const client = new OpenAI({
    baseURL: `${url}/v1`, apiKey: key, maxRetries: 0, dangerouslyAllowBrowser: true,
  });
  try {
    const { data, response } = await client.moderations.create({ input }).withResponse();
    return { data, headers: Object.fromEntries(response.headers) };
  } catch (error) {
    const { status, code, message } = error;
    return { name: error.constructor.name, status, code, message };
  }
}"""


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def pages() -> Iterator[str]:
    """Serve this folder, with its node_modules, on an origin of its own; yield the origin."""
    handler = partial(_Handler, directory=str(FOLDER))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def moderate(world: World, service: Served, key: str, *inputs: Any) -> list[dict[str, Any]]:
    """Return what the client says of each input: data and headers, or its error."""
    with sync_playwright() as playwright, launch(playwright) as browser:
        page = browser.new_page()
        page.goto(f"{world.origin}/package.json")
        calls = [{"url": service.url, "key": key, "input": value} for value in inputs]
        return [page.evaluate(CALL, call) for call in calls]


def check(world: World, *texts: str) -> None:
    value = texts[0] if len(texts) == 1 else list(texts)
    (result,) = moderate(world, world.service, world.key, value)
    assert "data" in result, result
    for row, scores in zip(result["data"]["results"], world.scores(*texts), strict=True):
        assert row["category_scores"]["hate"] == scores["hate"], row


def options(world: World) -> None:
    long = "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * MAX_CHARS  # of 18 letters
    first, second = moderate(world, world.service, world.key, OFFENSIVE, [KIND, long])
    assert "harassment" in first["headers"]["x-categories-judged"], first
    assert "x-request-id" in first["headers"], first
    assert [row["truncated"] for row in world.predictions(KIND, long)] == [False, True]
    assert second["headers"]["x-truncated-inputs"] == "1", second["headers"]


def assert_error(result: dict[str, Any], name: str, status: int, code: str) -> None:
    actual = tuple(result.get(key) for key in ("name", "status", "code"))
    assert actual == (name, status, code), result


def wrong_key(world: World) -> None:
    (result,) = moderate(world, world.service, "wrong", "x")
    assert_error(result, "AuthenticationError", 401, "invalid_api_key")


def rate_limit(world: World) -> None:
    results = moderate(world, world.limited, world.key, *"xxxxx")
    errors = [result for result in results if "data" not in result]
    assert errors, "no error"
    assert_error(errors[0], "RateLimitError", 429, "rate_limit_exceeded")


def empty_text(world: World) -> None:
    (result,) = moderate(world, world.service, world.key, ["x", " "])
    assert_error(result, "BadRequestError", 400, "invalid_value")


CASES = {
    "single text": lambda world: check(world, OFFENSIVE),
    "list": lambda world: check(world, OFFENSIVE, KIND, EMOJI),
    "options": options,
    "empty text": empty_text,
    "wrong key": wrong_key,
    "rate limit": rate_limit,
}
