"""Compares the compatible APIs with `/v1/predict`: requests per second at 64 connections.

python -m benchmarks.apis --bundle FOLDER [--rounds 6] [--write docs/benchmarks.md]
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks import tweets
from benchmarks.markdown import publish, table
from benchmarks.paired import CONNECTIONS, HEAD, SETTINGS, Kind, compare
from benchmarks.wrk import require_wrk
from tests.support.service import Served

KINDS = {
    "`/v1/predict`": Kind("/v1/predict", lambda text: {"texts": [text]}),
    "Perspective's `comments:analyze`": Kind(
        "/v1alpha1/comments:analyze",
        lambda text: {
            "comment": {"text": text},
            "languages": ["en"],
            "requestedAttributes": {"TOXICITY": {}},
        },
    ),
    "OpenAI's `/v1/moderations`": Kind(
        "/v1/moderations", lambda text: {"input": text, "model": "omni-moderation-latest"}
    ),
    "Hugging Face's `/predict`": Kind("/predict", lambda text: {"inputs": text, "parameters": {}}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=4, help="of each load")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--write", type=Path, help="a page with the block `apis`")
    options = parser.parse_args()
    require_wrk()
    texts, description = tweets.load()
    with tempfile.TemporaryDirectory() as folder:
        service = Served(options.bundle.resolve(), Path(folder), **SETTINGS)
        try:
            compared = compare(service, KINDS, texts, options.rounds, options.seconds)
        finally:
            service.stop()
    text = (
        f"{description}; one for each request, {CONNECTIONS} connections, {options.rounds} rounds "
        f"of {options.seconds} s; ratio to `/v1/predict` in the same round.\n\n"
        + table(HEAD, [each.row(name) for name, each in compared.items()])
    )
    publish(text, "apis", options.write)


if __name__ == "__main__":
    main()
