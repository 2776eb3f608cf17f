"""Micro-batches: callers queue items, and inference threads run them in batches.

    submit ──> scheduler: queues, choice of a batch ──> run(batch) in a thread ──> futures

There is no timer: an idle thread takes a single item at once, and while it works the next batch
collects by itself. The scheduler decides what a batch holds; this module has the threads, the lock,
the futures and the clock. It knows neither text nor HTTP, and nothing of an item but its size.

    BatcherError
    ├── QueueFullError    a new item would wait longer than `Capacity.max_wait`
    ├── DeadlineError     a new item would not be finished at its deadline
    └── BatcherDeadError  no thread is left that could run a batch
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import Generic, TypeVar

from serving.inference.scheduler import Priority, Scheduler

__all__ = [
    "BatchReport",
    "Batcher",
    "BatcherDeadError",
    "BatcherError",
    "Capacity",
    "DeadlineError",
    "Priority",
    "QueueFullError",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

NICE = 5  # of the inference threads, so that the event loop goes first
STUCK_AFTER_S = 60.0  # a thread in one batch for longer counts as stuck
JOIN_S = 1.5  # how long `close` waits for each thread


class BatcherError(Exception):
    """The batcher gives no result."""


class QueueFullError(BatcherError):
    """The expected wait is too long; `wait` has it in seconds."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"the wait would be {ceil(wait)} s")
        self.wait = wait


class DeadlineError(BatcherError):
    """The result would come after the deadline; `wait` has the expected wait in seconds."""

    def __init__(self, wait: float = 0.0) -> None:
        super().__init__("the deadline cannot be met")
        self.wait = wait


class BatcherDeadError(BatcherError):
    """An inference thread died, or the batcher is closed."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """Measurements of one batch, for metrics.

    rows: number of items.
    tokens: their sizes together.
    padded: rows times the largest size.
    seconds: duration of the run.
    queued: seconds in the queue of each request whose first item is in this batch.
    failed: whether `run` raised for any item.
    ended: when the run ended, on `perf_counter`'s clock.
    traced: of each request in this batch that is traced, what `trace` returned for it, and its
        seconds in the queue, or None if another batch had its first item.
    """

    rows: int
    tokens: int
    padded: int
    seconds: float
    queued: tuple[float, ...]
    failed: bool
    ended: float = 0.0
    traced: tuple[tuple[object, float | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Capacity:
    """Limits on work in progress.

    threads: number of threads that run batches.
    batch_tokens: size limit of a batch, padding included; a larger item is a batch alone.
    max_wait: longest expected time in seconds until a new high-priority item is finished if it has
        to wait for others, and until any other item starts; above it the item is refused.
    """

    threads: int
    batch_tokens: int
    max_wait: float


class _Request(Generic[Result]):
    """The items of one `submit` call, and their results so far."""

    __slots__ = ("future", "is_done", "missing", "results", "since", "started", "trace")

    def __init__(
        self, future: "asyncio.Future[list[Result]]", count: int, trace: object | None
    ) -> None:
        self.future, self.is_done = future, future.done
        self.results: list[Result | None] = [None] * count
        self.missing = count
        self.since = perf_counter()
        self.started = False
        self.trace = trace


class _Entry(Generic[Item, Result]):
    """One item; its result goes to `request.results[index]`."""

    __slots__ = ("index", "item", "request", "size")

    def __init__(self, item: Item, size: int, request: _Request[Result], index: int) -> None:
        self.item, self.size, self.request, self.index = item, size, request, index


class Batcher(Generic[Item, Result]):
    """Runs `run` on batches of submitted items, in threads of its own."""

    def __init__(
        self,
        run: Callable[[Sequence[Item], bool], Sequence[Result]],
        *,
        size: Callable[[Item], int],
        capacity: Capacity,
        observe: Callable[[BatchReport], None],
        trace: Callable[[], object | None] | None = None,
    ) -> None:
        """Make a batcher; `start` starts it.

        Args:
            run: returns one result for each item of a batch. It is called in an inference thread.
                Its second argument says whether the machine is otherwise idle: nothing else runs
                or waits, and no low-priority batch ran just now.
            size: returns an item's length in tokens.
            capacity: limits on work in progress.
            observe: receives a report of each batch, on the event loop.
            trace: returns what identifies the trace of a `submit` call's request, or None if it
                has none; None: nothing is traced.
        """
        self._run, self._size, self._observe, self._trace = run, size, observe, trace
        self._max_wait = capacity.max_wait
        self._scheduler: Scheduler[_Entry[Item, Result]] = Scheduler(
            capacity.batch_tokens, capacity.threads, perf_counter
        )
        self._ready = threading.Condition()  # guards the scheduler and the next three fields
        self._idle = 0  # threads that wait for work
        self._closing = False
        self._died: BaseException | None = None
        self._busy_since: list[float | None] = [None] * capacity.threads
        self._busy_tokens = [0] * capacity.threads  # of each thread's batch; valid while it runs
        self._threads = [
            threading.Thread(target=self._work, args=(i,), name=f"inference-{i}", daemon=True)
            for i in range(capacity.threads)
        ]
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Start the threads. Results are delivered on the event loop that runs now."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    async def close(self) -> None:
        """Finish all waiting items and stop the threads; idempotent."""
        with self._ready:
            self._closing = True
            self._ready.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                await asyncio.to_thread(thread.join, JOIN_S)

    @property
    def alive(self) -> bool:
        """Whether every thread lives and none has been in one batch for over a minute."""
        now = perf_counter()
        stuck = any(since and now - since > STUCK_AFTER_S for since in self._busy_since)
        return not stuck and all(thread.is_alive() for thread in self._threads)

    @property
    def waiting_tokens(self) -> int:
        """Tokens in the queues, padding not counted."""
        return self._scheduler.waiting_tokens

    def check_capacity(self, priority: Priority, pending: int = 0) -> None:
        """Raise QueueFullError if an item that arrived now would wait too long.

        `pending` further items are expected to arrive before it; see `Scheduler.expected_wait`.
        """
        wait = self._expected_wait(priority, pending)
        self._check_wait(wait, self._scheduler.expected_run(), priority)

    def _expected_wait(self, priority: Priority, pending: int = 0) -> float:
        """Return the seconds until an item that arrived now would start.

        The rest of the batches that run now counts too.
        """
        wait = self._scheduler.expected_wait(priority, pending)
        if self._idle:
            return wait
        now, left = perf_counter(), 0.0
        for since, tokens in zip(self._busy_since, self._busy_tokens, strict=True):
            if since is not None:
                run = self._scheduler.expected_run(longest=tokens)
                left += max(0.0, run - (now - since))
        return wait + left / len(self._threads)

    def _check_wait(self, wait: float, run: float, priority: Priority) -> None:
        # A longer list, or a chunk of an explanation, takes the time that it takes. If half of the
        # limit were not kept for the wait, a request as long as the limit would need an idle
        # service.
        own = min(run, self._max_wait / 2) if priority is Priority.HIGH else 0.0
        if wait + own > self._max_wait:
            raise QueueFullError(wait)

    def submit(
        self, items: Sequence[Item], priority: Priority, deadline: float | None = None
    ) -> "asyncio.Future[list[Result]]":
        """Queue items. The future gets their results in the same order; cancel it to give up.

        Args:
            items: of one caller.
            priority: of all of them.
            deadline: in the event loop's time. A later result is of no use to the caller, who
                cancels the future then.

        Raises:
            QueueFullError: the expected wait is too long.
            DeadlineError: others wait, and behind them the items would be finished too late.
            BatcherDeadError: an inference thread died, or the batcher is closed.
        """
        assert self._loop is not None, "not started"
        sizes = [self._size(item) for item in items]
        wait = self._expected_wait(priority)
        run = self._scheduler.expected_run(sum(sizes), max(sizes, default=0))
        self._check_wait(wait, run, priority)
        # With nothing ahead it is tried, whatever the estimate: otherwise it never would be.
        if deadline is not None and wait and self._loop.time() + wait + run > deadline:
            raise DeadlineError(wait)
        future: asyncio.Future[list[Result]] = self._loop.create_future()
        if not items:
            future.set_result([])
            return future
        trace = None if self._trace is None else self._trace()
        request: _Request[Result] = _Request(future, len(items), trace)
        entries = [
            _Entry(item, size, request, i)
            for i, (item, size) in enumerate(zip(items, sizes, strict=True))
        ]
        with self._ready:
            if self._died or self._closing:
                raise BatcherDeadError("no inference thread is left")
            self._scheduler.add(entries, priority)
            if self._idle:
                self._ready.notify(len(entries))
        return future

    def _work(self, thread: int) -> None:
        """Run batches until the batcher closes; `thread` is this thread's index."""
        batch: list[_Entry[Item, Result]] = []
        ended = 0.0
        if sys.platform == "linux":  # elsewhere only whole processes have a priority
            # The event loop goes first: it needs little time, and every request waits for it.
            # Without root a thread may only become nicer.
            nice = max(NICE, os.getpriority(os.PRIO_PROCESS, 0))
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
        try:
            while batch := self._take():
                tokens = sum(entry.size for entry in batch)
                self._busy_tokens[thread] = tokens
                self._busy_since[thread] = started = perf_counter()
                traced = () if self._trace is None else _traced(batch, started)
                queued = _queue_times(batch, started)
                is_idle = self._is_idle()
                results = self._results(batch, is_idle)
                # The time between two batches also slows down waiting items, so it counts.
                could_start = max(ended, min(entry.request.since for entry in batch))
                ended = perf_counter()
                self._busy_since[thread] = None
                # Alone, it had all threads' processors; the speed is that of one thread.
                taken = (ended - could_start) * (len(self._threads) if is_idle else 1)
                self._scheduler.note_speed(len(batch), tokens, taken)
                padded = len(batch) * max(entry.size for entry in batch)
                failed = any(isinstance(result, Exception) for result in results)
                seconds = ended - started
                report = BatchReport(
                    len(batch), tokens, padded, seconds, queued, failed, ended, traced
                )
                self._call_on_loop(self._deliver, batch, results, report)
        except BaseException as error:  # a thread that ended silently would leave callers waiting
            self._die(error, batch)

    def _take(self) -> "list[_Entry[Item, Result]]":
        """Wait for items and return a batch; an empty one once closing and nothing is left."""
        with self._ready:
            while True:
                batch = self._scheduler.next_batch(self._idle)
                if batch or self._closing or self._died:
                    return batch
                self._idle += 1
                self._ready.wait()
                self._idle -= 1

    def _is_idle(self) -> bool:
        """Say whether the machine has nothing to do but the calling thread's batch.

        A low-priority batch never has it to itself, so that other work finds processors free.
        """
        if self._idle < len(self._threads) - 1 or self._scheduler.waiting_tokens:
            return False
        return not self._scheduler.expects_low_priority()

    def _results(
        self, batch: "list[_Entry[Item, Result]]", is_idle: bool
    ) -> "list[Result | Exception]":
        """Run a batch. If it fails, run each item alone, so that a bad one fails by itself."""
        try:
            return list(self._run([entry.item for entry in batch], is_idle))
        except Exception as error:
            if len(batch) == 1:
                return [error]
        return [result for entry in batch for result in self._results([entry], is_idle)]

    def _deliver(
        self,
        batch: "list[_Entry[Item, Result]]",
        results: "list[Result | Exception]",
        report: BatchReport,
    ) -> None:
        """On the event loop: put the results into their requests' futures."""
        for entry, result in zip(batch, results, strict=True):
            request = entry.request
            if request.is_done():
                continue
            if isinstance(result, Exception):
                request.future.set_exception(result)
                continue
            request.results[entry.index] = result
            request.missing -= 1
            if not request.missing:
                request.future.set_result(request.results)  # type: ignore[arg-type]  # no None left
        self._observe(report)

    def _die(self, error: BaseException, batch: "list[_Entry[Item, Result]]") -> None:
        """Fail the items of a dead thread's batch and all that wait, and stop the other threads."""
        with self._ready:
            self._died = error
            lost = [*batch, *self._scheduler.clear()]
            self._ready.notify_all()
        self._call_on_loop(self._fail, lost)

    def _fail(self, entries: "list[_Entry[Item, Result]]") -> None:
        for entry in entries:
            if not entry.request.is_done():
                entry.request.future.set_exception(BatcherDeadError("its inference thread died"))

    def _call_on_loop(self, function: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)


def _traced(
    batch: "list[_Entry[Item, Result]]", now: float
) -> tuple[tuple[object, float | None], ...]:
    """Return `BatchReport.traced`; call it before `_queue_times`, which marks what has started."""
    requests = {id(entry.request): entry.request for entry in batch}.values()
    return tuple(
        (request.trace, None if request.started else now - request.since)
        for request in requests
        if request.trace is not None
    )


def _queue_times(batch: "list[_Entry[Item, Result]]", now: float) -> tuple[float, ...]:
    """Return how long each request waited whose first items are in this batch."""
    times = []
    for entry in batch:
        if not entry.request.started:
            entry.request.started = True
            times.append(now - entry.request.since)
    return tuple(times)
