from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from serving.inference.scheduler import (
    LOW_PRIORITY_QUIET_S,
    OLDEST_EVERY,
    WINDOW,
    Priority,
    Scheduler,
    group_by_length,
)


def never() -> bool:
    return False


@dataclass
class Request:
    since: float = 0
    is_done: Callable[[], bool] = never


@dataclass
class Entry:
    size: int
    request: Request = field(default_factory=Request)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def scheduler(batch_tokens: int = 100, threads: int = 1) -> Scheduler[Entry]:
    return Scheduler(batch_tokens, threads, Clock())


def add(waiting: Scheduler[Entry], priority: Priority, *sizes: int, since: float = 0) -> None:
    waiting.add([Entry(size, Request(since)) for size in sizes], priority)


def batches(waiting: Scheduler[Entry], idle_threads: int = 0) -> list[list[int]]:
    """Take batches until nothing waits; return the sizes in each."""
    taken = []
    while batch := waiting.next_batch(idle_threads):
        taken.append([entry.size for entry in batch])
    return taken


def test_an_empty_scheduler_has_no_batch() -> None:
    assert scheduler().next_batch() == []


def test_waiting_items_go_together_within_the_budget() -> None:
    waiting = scheduler(batch_tokens=20)
    add(waiting, Priority.HIGH, 5, 1, 9, 1, 7, 3, 30, 2)
    assert waiting.waiting_tokens == 58
    taken = batches(waiting)
    assert sorted(size for batch in taken for size in batch) == [1, 1, 2, 3, 5, 7, 9, 30]
    assert all(len(batch) * max(batch) <= 20 for batch in taken if len(batch) > 1)
    assert [30] in taken  # an item above the budget goes alone
    assert waiting.waiting_tokens == 0


def test_the_oldest_item_starts_the_next_batch_with_those_nearest_in_size() -> None:
    waiting = scheduler(batch_tokens=20)
    add(waiting, Priority.HIGH, 3, 10, 9, 3)
    assert batches(waiting) == [[3, 3], [9, 10]]


def test_items_that_are_not_chosen_keep_their_order() -> None:
    waiting = scheduler(batch_tokens=10)
    add(waiting, Priority.HIGH, 10, 1, 9, 2, 8)
    assert batches(waiting) == [[10], [1, 2], [9], [8]]


def test_a_batch_is_chosen_among_the_first_items_of_a_long_queue() -> None:
    waiting = scheduler(batch_tokens=1000)
    add(waiting, Priority.HIGH, *[1, *[500] * (WINDOW - 1), 1])
    assert batches(waiting)[0] == [1, 500]


def test_higher_priorities_go_first_and_every_eighth_batch_starts_with_the_oldest_item() -> None:
    waiting = scheduler(batch_tokens=10)
    add(waiting, Priority.LOW, 1, since=1)
    add(waiting, Priority.NORMAL, 2, since=2)
    add(waiting, Priority.HIGH, *[10] * OLDEST_EVERY, since=3)
    want = [[10]] * (OLDEST_EVERY - 1) + [[1], [10], [2]]
    assert batches(waiting) == want


def test_a_batch_leaves_idle_threads_their_share() -> None:
    waiting = scheduler()
    add(waiting, Priority.HIGH, *[5] * 8)
    assert len(waiting.next_batch(idle_threads=1)) == 4
    assert len(waiting.next_batch()) == 4


def test_a_low_priority_batch_takes_one_thread_and_leaves_the_others_free() -> None:
    waiting = scheduler()
    add(waiting, Priority.LOW, *[5] * 8)
    assert len(waiting.next_batch(idle_threads=1)) == 8


@pytest.mark.parametrize("done", [{0}, {1}, {2}, {0, 1}, {0, 1, 2}])
def test_items_of_cancelled_requests_are_dropped(done: set[int]) -> None:
    waiting = scheduler()
    waiting.add(
        [Entry(i + 1, Request(is_done=lambda i=i: i in done)) for i in range(3)], Priority.HIGH
    )
    kept = [i + 1 for i in range(3) if i not in done]
    assert batches(waiting) == ([kept] if kept else [])
    assert waiting.waiting_tokens == 0


def test_a_request_that_is_cancelled_while_a_batch_is_chosen_does_no_harm() -> None:
    answers = iter([False, True])  # waiting when the queue is looked at, gone when it is taken
    waiting = scheduler()
    waiting.add([Entry(1, Request(is_done=lambda: next(answers)))], Priority.HIGH)
    add(waiting, Priority.LOW, 2)
    assert batches(waiting) == [[2]]
    assert waiting.waiting_tokens == 0


def test_clearing_returns_all_that_waits() -> None:
    waiting = scheduler()
    add(waiting, Priority.LOW, 3)
    add(waiting, Priority.HIGH, 1, 2)
    assert [entry.size for entry in waiting.clear()] == [1, 2, 3]
    assert (waiting.waiting_tokens, waiting.next_batch()) == (0, [])


def test_the_expected_wait_is_the_work_ahead_over_the_speed_of_all_threads() -> None:
    waiting = scheduler(threads=2)
    add(waiting, Priority.HIGH, 10)
    add(waiting, Priority.LOW, 1000)
    assert waiting.expected_wait(Priority.LOW) == 0  # no speed is known yet
    waiting.note_speed(rows=4, tokens=20, seconds=2)
    assert waiting.expected_wait(Priority.HIGH) == pytest.approx(10 / (2 * 10))
    assert waiting.expected_wait(Priority.NORMAL) == pytest.approx(10 / (2 * 10))
    assert waiting.expected_wait(Priority.LOW) == pytest.approx(1010 / (2 * 10))
    # Pending items have the mean size of those before.
    assert waiting.expected_wait(Priority.HIGH, pending=2) == pytest.approx((10 + 2 * 5) / 20)


def test_a_requests_own_time_is_that_of_its_share_or_of_its_longest_item() -> None:
    waiting = scheduler(threads=2)
    assert waiting.expected_run(100, 10) == 0  # no speed is known yet
    waiting.note_speed(rows=4, tokens=20, seconds=2)
    assert waiting.expected_run() == pytest.approx(5 / 10)
    assert waiting.expected_run(tokens=100, longest=20) == pytest.approx(50 / 10)
    assert waiting.expected_run(tokens=100, longest=80) == pytest.approx(80 / 10)


def test_the_speed_is_a_moving_average() -> None:
    waiting = scheduler()
    add(waiting, Priority.HIGH, 100)
    waiting.note_speed(rows=1, tokens=10, seconds=1)
    waiting.note_speed(rows=1, tokens=20, seconds=1)
    assert waiting.expected_wait(Priority.HIGH) == pytest.approx(100 / 11)


def test_more_low_priority_batches_are_expected_for_a_while_after_one() -> None:
    clock = Clock()
    waiting: Scheduler[Entry] = Scheduler(100, 1, clock)
    assert not waiting.expects_low_priority()
    clock.now = 5
    for priority in (Priority.HIGH, Priority.LOW):
        add(waiting, priority, 1)
        waiting.next_batch()
        assert waiting.expects_low_priority() == (priority is Priority.LOW)
    clock.now += 1.01 * LOW_PRIORITY_QUIET_S
    assert not waiting.expects_low_priority()


@pytest.mark.parametrize(
    ("sizes", "budget", "chosen"),
    [
        ([5], 1, [5]),
        ([5, 5, 5, 5], 15, [5, 5, 5]),
        ([10, 1, 9, 2, 11], 33, [9, 10, 11]),
        ([10, 1, 9, 2, 40], 50, [2, 9, 10, 1]),
        ([1, 90, 90, 1], 100, [1, 1]),
    ],
)
def test_a_batch_is_the_first_item_and_those_nearest_in_size(
    sizes: Sequence[int], budget: int, chosen: list[int]
) -> None:
    indices = group_by_length(sizes, budget)
    assert 0 in indices
    assert sorted(sizes[i] for i in indices) == sorted(chosen)
