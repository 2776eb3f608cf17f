"""Checks that the service at a URL is ready, serves the wanted model, predicts and explains.

    python -m deploy.smoke URL [--version VERSION] [--wait SECONDS]

Needs Python only. The first failed check prints one line and exits with 1.
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
    """A check failed; the text has the URL, what it returned and what was wanted."""


def ask(url: str, body: object = None) -> Any:
    """Return the JSON that a URL returns; SmokeError if it returns none."""
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
    """Wait for the service; return the version of the model that it serves.

    Raises:
        SmokeError: after `seconds` it is still not ready or still serves another version.
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
    """Check the service; return one line about it. SmokeError is the first failed check."""
    served = wait_until_ready(url, version, seconds)
    reply = ask(f"{url}/v1/predict", {"texts": [TEXT], "do_not_store": True})
    (prediction,) = reply["predictions"]
    if reply["model"]["version"] != served or abs(sum(prediction["scores"].values()) - 1) > 1e-3:
        raise SmokeError(f"{url}/v1/predict: got {reply}, wanted scores by {served}")
    words = ask(f"{url}/v1/explain", {"text": TEXT})["words"]
    if not words:
        raise SmokeError(f"{url}/v1/explain: got no words for {TEXT!r}")
    label = prediction["label"]
    return f"{url} serves {served}: {TEXT!r} is {label}, explained by {len(words)} words"


def main() -> None:
    """Run the checks that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--version")
    parser.add_argument("--wait", type=float, default=30)
    options = parser.parse_args()
    try:
        print(smoke(options.url.rstrip("/"), options.version, options.wait))
    except SmokeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
