"""The scheduler: which of the waiting items form the next batch, and how long a new one would wait.

    add ──> three queues by priority ──> next_batch: the first item and those nearest to it in size

A batch is padded to its longest item, so items of like sizes go together, and the number of rows
times the longest size stays within a budget. Each batch starts with the item that has waited
longest in its queue, so an item of an unusual size is not passed over for ever.

It is plain bookkeeping without threads, an event loop or I/O, and it is not thread-safe: the
batcher holds its lock around every method that changes the queues. It knows nothing of an item but
its size and its request.
"""

from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from math import inf
from time import perf_counter
from typing import Generic, Protocol, TypeVar

WINDOW = 256  # items at the head of a queue from which a batch is chosen
OLDEST_EVERY = 8  # every 8th batch starts with the oldest item of all queues, so that none starves
LOW_PRIORITY_QUIET_S = 0.1  # more low-priority batches are expected until this long after the last
SMOOTHING = 0.1  # weight of the newest batch in the moving averages of speed and size


class Priority(IntEnum):
    """The order in which items are served. All items of a batch have the same priority."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Request(Protocol):
    """What one caller submitted."""

    @property
    def since(self) -> float:
        """The time at which it was submitted, in seconds."""

    @property
    def is_done(self) -> Callable[[], bool]:
        """Returns true once the request needs no more results, as after a cancellation."""


class Entry(Protocol):
    """A waiting item: one of a request's."""

    @property
    def size(self) -> int:
        """Its length in tokens."""

    @property
    def request(self) -> Request:
        """The request that it belongs to."""


EntryT = TypeVar("EntryT", bound=Entry)


class Scheduler(Generic[EntryT]):
    """Queues of waiting items, and the measured speed of the threads that work on them."""

    def __init__(
        self, batch_tokens: int, threads: int, clock: Callable[[], float] = perf_counter
    ) -> None:
        """Make an empty scheduler.

        Args:
            batch_tokens: size limit of a batch, padding included; a larger item is a batch alone.
            threads: number of threads that run batches.
            clock: returns the time in seconds.
        """
        self._budget, self._threads, self._clock = batch_tokens, threads, clock
        self._queues: tuple[deque[EntryT], ...] = tuple(deque() for _ in Priority)
        self._tokens = [0 for _ in Priority]  # waiting in each queue
        # Tokens a second of one thread, and the mean item's size in tokens; 0: not yet measured.
        self._pace = 0.0, 0.0
        self._last_low = -inf  # when the last low-priority batch was chosen
        self._batches = 0

    @property
    def waiting_tokens(self) -> int:
        """Tokens in all queues, padding not counted."""
        return sum(self._tokens)

    def add(self, entries: Sequence[EntryT], priority: Priority) -> None:
        """Append items to the queue of their priority."""
        self._queues[priority].extend(entries)
        self._tokens[priority] += sum(entry.size for entry in entries)

    def next_batch(self, idle_threads: int = 0) -> list[EntryT]:
        """Remove the items of the next batch from their queue and return them.

        Items whose request is done are dropped on the way. The list is empty if nothing waits.
        While `idle_threads` other threads have nothing to do, the batch leaves them their share.
        """
        priority = self._next_priority()
        if priority is None:
            return []
        budget = self._budget
        if priority is Priority.LOW:  # in one thread: the others stay free for higher priorities
            self._last_low = self._clock()
        elif idle_threads:
            budget = min(budget, -(-self._tokens[priority] // (idle_threads + 1)))
        window = self._take_window(priority)
        if not window:  # their callers left just now, on another thread
            return self.next_batch(idle_threads)
        chosen = group_by_length([entry.size for entry in window], budget)
        batch = [window[i] for i in chosen]
        taken = set(chosen)
        self._queues[priority].extendleft(
            window[i] for i in reversed(range(len(window))) if i not in taken
        )
        self._tokens[priority] -= sum(entry.size for entry in batch)
        return batch

    def clear(self) -> list[EntryT]:
        """Remove all items and return them."""
        entries = [entry for queue in self._queues for entry in queue]
        for queue in self._queues:
            queue.clear()
        self._tokens = [0 for _ in Priority]
        return entries

    def expected_wait(self, priority: Priority, pending: int = 0) -> float:
        """Return the seconds until an item that arrived now would start; 0 if the speed is unknown.

        `pending` further items of mean size are expected to arrive before it.
        """
        speed, mean_size = self._pace
        ahead = sum(self._tokens[: priority + 1]) + pending * mean_size
        return ahead / (speed * self._threads) if speed else 0.0

    def expected_run(self, tokens: float = 0, longest: float = 0) -> float:
        """Return the seconds that a request's own items take; 0 if the speed is unknown.

        Args:
            tokens: of all its items, which the threads share; 0: those of one item of mean size.
            longest: tokens of its longest item, which one thread runs.
        """
        speed, mean_size = self._pace
        if not speed:
            return 0.0
        return max(tokens / self._threads, longest or mean_size) / speed

    def note_speed(self, rows: int, tokens: int, seconds: float) -> None:
        """Take a batch that one thread has run into the averages of speed and item size."""
        speed, mean_size = self._pace
        weight = SMOOTHING if speed else 1
        # One assignment, so no lock: two threads at once may lose one of many measurements.
        self._pace = (
            speed + (tokens / seconds - speed) * weight,
            mean_size + (tokens / rows - mean_size) * weight,
        )

    def expects_low_priority(self) -> bool:
        """Say whether a low-priority batch ran so recently that more are to be expected."""
        return self._clock() - self._last_low <= LOW_PRIORITY_QUIET_S

    def _next_priority(self) -> Priority | None:
        """Return the priority of the next batch; None if nothing waits."""
        waiting = [priority for priority in Priority if self._drop_done(priority)]
        if not waiting:
            return None
        self._batches += 1
        if self._batches % OLDEST_EVERY == 0:
            return min(waiting, key=lambda priority: self._queues[priority][0].request.since)
        return waiting[0]

    def _drop_done(self, priority: Priority) -> bool:
        """Drop done requests' items at a queue's head; say whether anything waits behind them."""
        queue = self._queues[priority]
        while queue and queue[0].request.is_done():
            self._tokens[priority] -= queue.popleft().size
        return bool(queue)

    def _take_window(self, priority: Priority) -> list[EntryT]:
        """Remove up to WINDOW items from a queue's head and return those still wanted."""
        queue = self._queues[priority]
        window: list[EntryT] = []
        while queue and len(window) < WINDOW:
            entry = queue.popleft()
            if entry.request.is_done():
                self._tokens[priority] -= entry.size
            else:
                window.append(entry)
        return window


def group_by_length(sizes: Sequence[int], budget: int) -> list[int]:
    """Return the indices of a batch: that of the first item, and those of the nearest in size.

    Items are added as long as their number times the largest size stays within the budget.
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
