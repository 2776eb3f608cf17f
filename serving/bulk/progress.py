"""Shows how far a bulk run is, on standard error: a bar on a terminal, else a line now and then.

The share is that of the inputs' bytes: how many rows a CSV file has is not known before its end.
"""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

LINE_EVERY_S = 30.0  # where standard error is not a terminal


class Progress:
    """The progress of a run whose inputs have `total` bytes; 0: not known."""

    def __init__(self, total: int) -> None:
        self.rows = 0  # that this run has scored
        self._total = total
        # By file: how much of it is done. Files may be read side by side.
        self._done: dict[int, float] = {}
        self._skipped = 0.0  # bytes whose parts an earlier run has made
        self._began = self._told = time.monotonic()
        console = Console(stderr=True)
        self._bar = Bar(
            BarColumn(), TextColumn("{task.description}"), console=console,
            disable=sys.stderr is None or not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total or None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._bar.stop()

    def skip(self, file: int, bytes_: float) -> None:
        """A file has been read up to `bytes_`, and the rows up to there have been scored before."""
        self._skipped += max(0.0, bytes_ - self._done.get(file, 0.0))
        self._done[file] = max(bytes_, self._done.get(file, 0.0))

    def advance(self, file: int, bytes_: float, rows: int) -> None:
        """A part has been written: `rows` rows of a file, which end at `bytes_`."""
        self.rows += rows
        self._done[file] = max(bytes_, self._done.get(file, 0.0))
        self._bar.update(self._task, completed=sum(self._done.values()), description=self.line())
        now = time.monotonic()
        if self._bar.disable and sys.stderr is not None and now - self._told >= LINE_EVERY_S:
            self._told = now
            sys.stderr.write(f"{self.line()}\n")

    def line(self) -> str:
        """Return rows, rows a second, the share that is done and the time left, in words."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        parts = [f"{self.rows:,} rows", f"{self.rows / seconds:,.0f} rows/s"]
        done = sum(self._done.values())
        fresh = done - self._skipped
        if self._total and fresh > 0:
            left = max(0.0, self._total - done) / fresh * seconds
            parts += [f"{done / self._total:.0%}", f"{_duration(left)} left"]
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
