"""Measures this service, a bare ONNX Runtime loop and the servers that people use instead.

    python -m tests.bench --bundle FOLDER [--only ours,infinity] [--rounds 3]

Prints what it found and writes reports/bench.md. The exit status is 1 if a bar was
missed or a server did not run.
"""

import argparse
import datetime
import signal
import sys
from pathlib import Path
from types import FrameType

from tests.bench import report
from tests.bench.bench import OVERLOAD, Bench
from tests.bench.figures import checks
from tests.bench.process import machine
from tests.bench.targets import ROOT, TARGETS, Models

REPORT = ROOT / "reports" / "bench.md"


def interrupted(number: int, frame: FrameType | None) -> None:
    """Leave by the way of an exception, so that every child is ended."""
    raise KeyboardInterrupt


def main() -> int:
    """Run."""
    names = [each.name for each in TARGETS]
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--parent", type=Path, default=Path("models"), help="of finetuned/")
    parser.add_argument("--only", default="", help=f"of {', '.join(names)}; all if empty")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="a load")
    parser.add_argument("--overload", type=float, default=60.0, help="seconds; 0: none")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else names
    if unknown := set(wanted) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    signal.signal(signal.SIGTERM, interrupted)
    parent = options.parent.resolve()
    bench = Bench(
        Models(options.bundle.resolve(), parent / "finetuned", parent / "fp32.onnx"),
        [each for each in TARGETS if each.name in wanted],
        rounds=options.rounds,
        seconds=options.seconds,
        overload_seconds=options.overload,
    )
    bench.run()
    found = checks(bench.outcomes, bench.overload, bench.explaining)
    setting = report.Setting(
        when=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        machine=machine(),
        bundle=bench.version,
        texts=bench.texts_are,
        rounds=options.rounds,
        seconds=options.seconds,
        overload_seconds=options.overload,
        overload_factor=OVERLOAD,
        ceiling=bench.ceiling,
    )
    text = report.document(
        setting, bench.bare, bench.outcomes, bench.overload, bench.explaining, found
    )
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {REPORT.relative_to(ROOT)}")
    failed = any(each.failed for each in bench.outcomes.values())
    return 0 if not failed and all(check.passed for check in found) else 1


if __name__ == "__main__":
    sys.exit(main())
