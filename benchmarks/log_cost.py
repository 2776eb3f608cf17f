"""Measures what the prediction log costs: requests per second with it, over those without it.

    python -m benchmarks.log_cost --bundle FOLDER [--rounds 5] [--write docs/benchmarks.md]

The same service gets the same requests, with `do_not_store` (nothing is logged) and without. A
MongoDB on the same cores takes processor time of its own: the last row shows the log after that
MongoDB has been stopped. The exit status is 1 if the log without a MongoDB costs more than a tenth.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import tweets
from benchmarks.markdown import publish, table
from benchmarks.paired import CONNECTIONS, HEAD, SETTINGS, Comparison, Kind, compare
from benchmarks.wrk import require_wrk
from tests.support.mongodb import MongoServer
from tests.support.service import Served

LOWEST_RATIO = 0.9
KINDS = {
    "without": Kind("/v1/predict", lambda text: {"texts": [text], "do_not_store": True}),
    "with": Kind("/v1/predict", lambda text: {"texts": [text]}),
}


@contextmanager
def started(bundle: Path, folder: Path, **settings: str) -> Iterator[Served]:
    """Yield a service with a log of its own."""
    folder.mkdir()
    service = Served(bundle, folder, **SETTINGS, **settings)
    try:
        yield service
    finally:
        service.stop()


def measure(bundle: Path, texts: list[str], rounds: int, seconds: int) -> dict[str, Comparison]:
    """Measure the log without MongoDB, with one, and with one that has been stopped."""

    def logged(service: Served) -> Comparison:
        return compare(service, KINDS, texts, rounds, seconds)["with"]

    with tempfile.TemporaryDirectory(prefix="log-cost-") as name:
        folder = Path(name)
        with started(bundle, folder / "alone") as service:
            results = {"log, no MongoDB": logged(service)}
        with (
            MongoServer(folder / "mongo") as mongo,
            started(bundle, folder / "both", MONGODB_URI=mongo.uri) as service,
        ):
            results["log, MongoDB on the same cores"] = logged(service)
            mongo.stop()
            results["log, that MongoDB stopped"] = logged(service)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each load")
    parser.add_argument("--write", type=Path, help="a page with the block `log-cost`")
    options = parser.parse_args()
    require_wrk()
    texts, description = tweets.load()
    results = measure(options.bundle.resolve(), texts, options.rounds, options.seconds)
    text = (
        f"{description}; one for each request, {CONNECTIONS} connections, {options.rounds} rounds "
        f"of {options.seconds} s; ratio to the same service with `do_not_store`.\n\n"
        + table(HEAD, [each.row(name) for name, each in results.items()])
    )
    publish(text, "log-cost", options.write)
    return 0 if results["log, no MongoDB"].ratio >= LOWEST_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
