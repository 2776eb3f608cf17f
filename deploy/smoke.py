"""Is the service at a URL up, is it the right model, and does it answer and explain?

    python -m deploy.smoke URL [--version VERSION] [--wait SECONDS]

Needs nothing but Python. Exit 1 with one line on the first thing that is not so.
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any

TEXT = "have a lovely day, everyone"


class SmokeError(Exception):
    """What was asked and what came instead."""


def ask(url: str, body: object = None) -> Any:
    """Return a route's JSON; SmokeError if there is none."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310
            return json.load(reply)
    except urllib.error.HTTPError as error:
        raise SmokeError(
            f"{url}: {error.code} {error.read(200).decode(errors='replace')}"
        ) from None
    except (OSError, ValueError) as error:
        raise SmokeError(f"{url}: {error}") from None


def wait_until_ready(url: str, version: str | None, seconds: float) -> str:
    """Return the version that a ready service serves.

    Raises:
        SmokeError: it is not ready, or serves another version, when the time is over.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            ask(f"{url}/readyz")
            served = str(ask(f"{url}/v1/model")["manifest"]["version"])
            if version in {None, served}:
                return served
            problem = SmokeError(f"{url}: serves {served}, wanted {version}")
        except SmokeError as error:
            problem = error
        if time.monotonic() > deadline:
            raise problem
        time.sleep(min(1.0, seconds / 10 + 0.1))


def smoke(url: str, version: str | None, seconds: float) -> str:
    """Return what was seen, in one line; SmokeError if anything is not as it should be."""
    served = wait_until_ready(url, version, seconds)
    answer = ask(f"{url}/v1/predict", {"texts": [TEXT], "do_not_store": True})
    (found,) = answer["predictions"]
    if answer["model"]["version"] != served or abs(sum(found["scores"].values()) - 1) > 1e-3:
        raise SmokeError(f"{url}/v1/predict: got {answer}, wanted scores by {served}")
    words = ask(f"{url}/v1/explain", {"text": TEXT})["words"]
    if not words:
        raise SmokeError(f"{url}/v1/explain: no words of {TEXT!r}")
    return f"{url} serves {served}: {TEXT!r} is {found['label']}, explained by {len(words)} words"


def main() -> None:
    """Read the URL from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--version")
    parser.add_argument("--wait", type=float, default=30)
    asked = parser.parse_args()
    try:
        print(smoke(asked.url.rstrip("/"), asked.version, asked.wait))
    except SmokeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
