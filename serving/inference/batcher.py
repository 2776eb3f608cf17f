"""Micro-batches: callers wait in a queue, inference threads take from it what fits together.

    submit ──> three queues by priority ──> take: a run of like sizes ──> run(batch) ──> futures

Nothing waits for a timer: an idle thread takes a lonely item at once, and while it works the next
batch fills by itself. A batch is padded to its longest item, and padding is not free, so items of
like sizes go together; `Capacity.batch_tokens` bounds rows times the longest size. Each batch
begins with who has waited longest, so that nobody is passed over for being unlike the others. It
knows neither text nor HTTP, nor what an item is beyond its size.

    BatcherError
    ├── QueueFullError    who came now would wait too long
    └── BatcherDeadError  no thread is left that could answer
"""

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import ceil, inf
from time import perf_counter
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WINDOW = 256  # waiting items among which a batch's like sizes are sought
OLDEST_EVERY = 8  # every so many batches begin with the oldest item of all, so that nobody starves
NICE = 5  # of the inference threads
LOW_PRIORITY_QUIET_S = (
    0.1  # seconds without low priority: before, more of it will come while a batch runs
)
STUCK_AFTER_S = 60.0  # in one batch
JOIN_S = 1.5  # for the batches that run when it closes
SMOOTHING = 0.1  # weight of the newest batch in the measured speed and size


class Priority(IntEnum):
    """Who goes first. A batch holds one kind only."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class BatcherError(Exception):
    """The batcher gives no result."""


class QueueFullError(BatcherError):
    """The wait would be too long; `wait` is it, in seconds."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"the wait would be {ceil(wait)} s")
        self.wait = wait


class BatcherDeadError(BatcherError):
    """No inference thread is left, or the batcher is closed."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What one batch was: for metrics."""

    rows: int
    tokens: int
    padded: int
    seconds: float
    queued: tuple[float, ...]  # seconds that each caller whose items begin here has waited
    failed: bool


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much is done at one time.

    threads: that run batches.
    batch_tokens: of a batch, padding included; a larger item goes alone.
    max_wait: seconds; who would wait longer is refused.
    """

    threads: int
    batch_tokens: int
    max_wait: float


class _Group(Generic[Result]):
    """The items of one caller."""

    __slots__ = ("future", "left", "priority", "results", "since", "taken")

    def __init__(
        self, future: "asyncio.Future[list[Result]]", count: int, priority: Priority
    ) -> None:
        self.future, self.priority = future, priority
        self.results: list[Result | None] = [None] * count
        self.left = count
        self.since = perf_counter()
        self.taken = False


class _Entry(Generic[Item, Result]):
    __slots__ = ("at", "group", "item", "size")

    def __init__(self, item: Item, size: int, group: _Group[Result], at: int) -> None:
        self.item, self.size, self.group, self.at = item, size, group, at


class Batcher(Generic[Item, Result]):
    """Runs `run` on batches of what callers submit, in threads of its own."""

    def __init__(
        self,
        run: Callable[[Sequence[Item], bool], Sequence[Result]],
        *,
        size: Callable[[Item], int],
        capacity: Capacity,
        observe: Callable[[BatchReport], None],
    ) -> None:
        """Make a batcher; `start` starts it.

        Args:
            run: returns a result for each item of a batch; called in an inference thread, and told
                whether the machine is its own: nothing else runs or waits, and nothing of a low
                priority has run of late.
            size: of an item, in tokens.
            capacity: threads, and what they take on.
            observe: is told of each batch, on the event loop.
        """
        self._run, self._size, self._observe = run, size, observe
        self._budget, self._max_wait = capacity.batch_tokens, capacity.max_wait
        self._ready = threading.Condition()
        self._queues: tuple[deque[_Entry[Item, Result]], ...] = tuple(deque() for _ in Priority)
        self._tokens = [0 for _ in Priority]  # waiting in each queue
        # Tokens a second of one thread, and an item's usual size in tokens; 0: not yet measured.
        self._pace = 0.0, 0.0
        self._low_began = -inf  # the last batch of low priority
        self._idle = 0
        self._batches = 0
        self._closing = False
        self._died: BaseException | None = None
        self._busy_since: list[float | None] = [None] * capacity.threads
        self._threads = [
            threading.Thread(target=self._work, args=(at,), name=f"inference-{at}", daemon=True)
            for at in range(capacity.threads)
        ]
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Start the threads; the running event loop is where results will arrive."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    async def close(self) -> None:
        """Finish what waits and stop; idempotent."""
        with self._ready:
            self._closing = True
            self._ready.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                await asyncio.to_thread(thread.join, JOIN_S)

    @property
    def alive(self) -> bool:
        """Whether every thread is there and none has been in one batch for a minute."""
        now = perf_counter()
        stuck = any(since and now - since > STUCK_AFTER_S for since in self._busy_since)
        return not stuck and all(thread.is_alive() for thread in self._threads)

    @property
    def waiting_tokens(self) -> int:
        """How much waits, padding not counted."""
        return sum(self._tokens)

    def expected_wait(self, priority: Priority, pending: int = 0) -> float:
        """Return the seconds until an item that came now would begin; 0 if that is not known.

        `pending` more items, of the usual size, are on their way here.
        """
        speed, usual_size = self._pace
        ahead = sum(self._tokens[: priority + 1]) + pending * usual_size
        return ahead / (speed * len(self._threads)) if speed else 0.0

    def check_capacity(self, priority: Priority, pending: int = 0) -> None:
        """Raise QueueFullError if who came now would wait too long; see `expected_wait`."""
        wait = self.expected_wait(priority, pending)
        if wait > self._max_wait:
            raise QueueFullError(wait)

    def submit(self, items: Sequence[Item], priority: Priority) -> "asyncio.Future[list[Result]]":
        """Queue items; the future has their results in their order. Cancel it to leave.

        Raises:
            QueueFullError: the wait would be too long.
            BatcherDeadError: nobody would answer.
        """
        assert self._loop is not None, "not started"
        self.check_capacity(priority)
        future: asyncio.Future[list[Result]] = self._loop.create_future()
        if not items:
            future.set_result([])
            return future
        group: _Group[Result] = _Group(future, len(items), priority)
        entries = [_Entry(item, self._size(item), group, at) for at, item in enumerate(items)]
        with self._ready:
            if self._died or self._closing:
                raise BatcherDeadError("no inference thread is left")
            self._queues[priority].extend(entries)
            self._tokens[priority] += sum(entry.size for entry in entries)
            if self._idle:
                self._ready.notify(len(entries))
        return future

    def _work(self, me: int) -> None:
        batch: list[_Entry[Item, Result]] = []
        ended = 0.0
        if sys.platform == "linux":  # elsewhere only whole processes have a priority
            # The event loop goes first: it needs little, and all wait for it.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            while batch := self._take():
                self._busy_since[me] = started = perf_counter()
                queued = _first_seen(batch, started)
                results = self._results(batch, self._is_idle(batch))
                # What lies between two batches slows who waits as the batches do.
                could_begin = max(ended, min(entry.group.since for entry in batch))
                ended = perf_counter()
                self._busy_since[me] = None
                self._note_speed(batch, ended - could_begin)
                self._report(batch, results, ended - started, queued)
        except BaseException as error:  # a thread that ends in silence would leave callers waiting
            self._die(error, batch)

    def _take(self) -> "list[_Entry[Item, Result]]":
        """Wait for items and return a batch of them; nothing when closing and all is done."""
        with self._ready:
            while True:
                batch = self._pick()
                if batch or self._closing or self._died:
                    return batch
                self._idle += 1
                self._ready.wait()
                self._idle -= 1

    def _is_idle(self, batch: "list[_Entry[Item, Result]]") -> bool:
        """Say whether the machine is a batch's own. What matters little leaves room for others."""
        others = self._idle < len(self._threads) - 1 or any(self._tokens)
        return not others and perf_counter() - self._low_began > LOW_PRIORITY_QUIET_S

    def _pick(self) -> "list[_Entry[Item, Result]]":
        waiting = [priority for priority in Priority if self._skip_left(priority)]
        if not waiting:
            return []
        self._batches += 1
        priority = waiting[0]
        if self._batches % OLDEST_EVERY == 0:
            priority = min(waiting, key=lambda p: self._queues[p][0].group.since)
        queue = self._queues[priority]
        window: list[_Entry[Item, Result]] = []
        while queue and len(window) < WINDOW:
            entry = queue.popleft()
            if entry.group.future.done():  # its caller left
                self._tokens[priority] -= entry.size
            else:
                window.append(entry)
        budget = self._budget
        if priority is Priority.LOW:  # in one thread: who matters more finds another free
            self._low_began = perf_counter()
        elif self._idle:  # threads that have nothing to do shall have their share of it
            budget = min(budget, -(-self._tokens[priority] // (self._idle + 1)))
        chosen = group_by_length([entry.size for entry in window], budget)
        batch = [window[at] for at in chosen]
        taken = set(chosen)
        queue.extendleft(window[at] for at in reversed(range(len(window))) if at not in taken)
        self._tokens[priority] -= sum(entry.size for entry in batch)
        return batch

    def _skip_left(self, priority: Priority) -> bool:
        """Drop whose caller left from the queue's head; say whether somebody waits."""
        queue = self._queues[priority]
        while queue and queue[0].group.future.done():
            self._tokens[priority] -= queue.popleft().size
        return bool(queue)

    def _results(
        self, batch: "list[_Entry[Item, Result]]", is_idle: bool
    ) -> "list[Result | Exception]":
        """Run a batch; if it fails, each item alone, so that a bad one harms no neighbour."""
        try:
            return list(self._run([entry.item for entry in batch], is_idle))
        except Exception as error:
            if len(batch) == 1:
                return [error]
        return [result for entry in batch for result in self._results([entry], is_idle)]

    def _note_speed(self, batch: "list[_Entry[Item, Result]]", seconds: float) -> None:
        tokens = sum(entry.size for entry in batch)
        speed, size = self._pace
        weight = SMOOTHING if speed else 1
        # Not locked, but written as one: two threads at once may lose one of many measurements.
        self._pace = (
            speed + (tokens / seconds - speed) * weight,
            size + (tokens / len(batch) - size) * weight,
        )

    def _report(
        self,
        batch: "list[_Entry[Item, Result]]",
        results: "list[Result | Exception]",
        seconds: float,
        queued: tuple[float, ...],
    ) -> None:
        tokens = sum(entry.size for entry in batch)
        padded = len(batch) * max(entry.size for entry in batch)
        failed = any(isinstance(result, Exception) for result in results)
        report = BatchReport(len(batch), tokens, padded, seconds, queued, failed)
        self._tell(self._deliver, batch, results, report)

    def _deliver(
        self,
        batch: "list[_Entry[Item, Result]]",
        results: "list[Result | Exception]",
        report: BatchReport,
    ) -> None:
        """On the event loop: hand the results to who waits for them."""
        for entry, result in zip(batch, results, strict=True):
            group = entry.group
            if group.future.done():
                continue
            if isinstance(result, Exception):
                group.future.set_exception(result)
                continue
            group.results[entry.at] = result
            group.left -= 1
            if not group.left:
                group.future.set_result(group.results)  # type: ignore[arg-type]  # all are there
        self._observe(report)

    def _die(self, error: BaseException, batch: "list[_Entry[Item, Result]]") -> None:
        """Let nobody wait for a thread that is gone."""
        with self._ready:
            self._died = error
            left = [*batch, *(entry for queue in self._queues for entry in queue)]
            for queue in self._queues:
                queue.clear()
            self._tokens = [0 for _ in Priority]
            self._ready.notify_all()
        self._tell(self._fail, left)

    def _fail(self, entries: "list[_Entry[Item, Result]]") -> None:
        for entry in entries:
            if not entry.group.future.done():
                entry.group.future.set_exception(BatcherDeadError("its inference thread died"))

    def _tell(self, function: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)


def _first_seen(batch: "list[_Entry[Item, Result]]", now: float) -> tuple[float, ...]:
    """Return how long each caller waited whose first items these are."""
    queued = []
    for entry in batch:
        if not entry.group.taken:
            entry.group.taken = True
            queued.append(now - entry.group.since)
    return tuple(queued)


def group_by_length(sizes: Sequence[int], budget: int) -> list[int]:
    """Return the positions of a batch: the first item, and others nearest to it in size.

    They are added as long as rows times the largest size stay within the budget.
    """
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    low = high = order.index(0)
    while True:
        below = sizes[order[low]] - sizes[order[low - 1]] if low else None
        above = sizes[order[high + 1]] - sizes[order[high]] if high + 1 < len(order) else None
        if below is None and above is None:
            return order[low : high + 1]
        downward = above is None or (below is not None and below <= above)
        longest = sizes[order[high if downward else high + 1]]
        if (high - low + 2) * longest > budget:
            return order[low : high + 1]
        if downward:
            low -= 1
        else:
            high += 1
