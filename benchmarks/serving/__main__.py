"""Measures this service, a bare ONNX Runtime loop, and other servers for the same model.

    python -m benchmarks.serving --bundle FOLDER [--only ours,infinity] [--write docs/benchmarks.md]

The exit status is 1 if a limit is not met or a server does not run.
"""

import argparse
import datetime
import signal
import sys
from pathlib import Path

from benchmarks.markdown import publish
from benchmarks.serving.figures import checks
from benchmarks.serving.process import machine
from benchmarks.serving.report import document
from benchmarks.serving.run import Benchmark
from benchmarks.serving.targets import TARGETS, Models
from benchmarks.wrk import require_wrk


def interrupt(*_: object) -> None:
    """Turn SIGTERM into an exception, so that every child process is ended."""
    raise KeyboardInterrupt


def arguments() -> argparse.Namespace:
    names = [each.name for each in TARGETS]
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--parent", type=Path, default=Path("models"), help="has finetuned/")
    parser.add_argument("--only", default="", help=f"some of {', '.join(names)}; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of each load")
    parser.add_argument("--overload", type=int, default=60, help="seconds; 0: none")
    parser.add_argument("--write", type=Path, help="a page with the block `serving`")
    options = parser.parse_args()
    options.only = options.only.split(",") if options.only else names
    if unknown := set(options.only) - set(names):
        parser.error(f"got --only {', '.join(sorted(unknown))}, wanted some of {', '.join(names)}")
    return options


def main() -> int:
    options = arguments()
    require_wrk()
    signal.signal(signal.SIGTERM, interrupt)
    parent = options.parent.resolve()
    run = Benchmark(
        Models(options.bundle.resolve(), parent / "finetuned", parent / "fp32.onnx"),
        [each for each in TARGETS if each.name in options.only],
        rounds=options.rounds,
        seconds=options.seconds,
        overload_seconds=options.overload,
    )
    run.run()
    now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    setting = (
        f"Measured {now} on {machine()}. Bundle {run.version}; {run.description}. "
        f"Medians of {options.rounds} rounds of {options.seconds} s for each load."
    )
    text = document(setting, run.bare, run.results, run.overload, run.explanations)
    publish(text, "serving", options.write)
    limits = checks(run.results, run.overload, run.explanations)
    failed = any(each.failed for each in run.results.values())
    return 0 if not failed and all(check.passed for check in limits) else 1


if __name__ == "__main__":
    sys.exit(main())
