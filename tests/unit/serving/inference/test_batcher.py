import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from serving.inference.batcher import (
    LOW_PRIORITY_QUIET_S,
    OLDEST_EVERY,
    Batcher,
    BatcherDeadError,
    BatchReport,
    Capacity,
    Priority,
    QueueFullError,
    group_by_length,
)


class Runner:
    """A `run` that notes its batches and doubles its items; it can be held back."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.alone: list[bool] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, items: Sequence[int], alone: bool) -> list[int]:
        self.alone.append(alone)
        self.entered.release()
        self.gate.wait(10)
        self.batches.append(list(items))
        if -1 in items:
            raise ValueError("a bad item")
        if -2 in items:
            raise SystemExit
        return [2 * item for item in items]

    async def held(self) -> None:
        """Wait until a thread is inside."""
        await asyncio.to_thread(self.entered.acquire, timeout=10)


@asynccontextmanager
async def running(
    run: Callable[[Sequence[int], bool], list[int]],
    *,
    threads: int = 1,
    budget: int = 100,
    max_wait: float = 60,
) -> AsyncIterator[tuple[Batcher[int, int], list[BatchReport]]]:
    """A batcher whose items are their own size."""
    reports: list[BatchReport] = []
    batcher: Batcher[int, int] = Batcher(
        run, size=abs, capacity=Capacity(threads, budget, max_wait), observe=reports.append
    )
    batcher.start()
    try:
        yield batcher, reports
    finally:
        await batcher.close()


async def all_idle(batcher: Batcher[int, int]) -> None:
    """Wait until every thread waits for work: it does so a moment after its last results."""
    while batcher._idle < len(batcher._threads):
        await asyncio.sleep(0.001)


def test_results_come_in_the_order_of_the_items() -> None:
    async def body() -> None:
        run = Runner()
        async with running(run, threads=2, budget=20) as (batcher, reports):
            items = [5, 1, 9, 1, 7, 3, 30, 2]
            assert await batcher.submit(items, Priority.HIGH) == [2 * item for item in items]
            assert await batcher.submit([], Priority.HIGH) == []
            assert sum(report.rows for report in reports) == len(items)
            assert sum(report.tokens for report in reports) == sum(items)
        assert len(run.batches) > 1
        assert all(len(batch) * max(batch) <= 20 for batch in run.batches if len(batch) > 1)

    asyncio.run(body())


def test_a_lonely_item_leaves_at_once() -> None:
    async def body() -> None:
        async with running(Runner()) as (batcher, _):
            await batcher.submit([1], Priority.HIGH)
            started = time.perf_counter()
            for _ in range(20):
                await batcher.submit([1], Priority.HIGH)
            assert time.perf_counter() - started < 1

    asyncio.run(body())


def test_a_batch_is_told_whether_it_is_the_only_one() -> None:
    async def body() -> None:
        run = Runner()
        async with running(run, threads=2, budget=10) as (batcher, _):
            for _ in range(2):
                await all_idle(batcher)
                await batcher.submit([10], Priority.HIGH)
            await all_idle(batcher)
            run.gate.clear()
            lonely = batcher.submit([10], Priority.HIGH)
            for _ in range(3):
                await run.held()
            beside = [batcher.submit([10], Priority.HIGH) for _ in range(2)]
            await run.held()  # the second thread has the first of them, and one waits
            run.gate.set()
            await asyncio.gather(lonely, *beside)
            await all_idle(batcher)
            for priority in (Priority.LOW, Priority.HIGH):
                await batcher.submit([10], priority)
                await all_idle(batcher)
            await asyncio.sleep(LOW_PRIORITY_QUIET_S)
            await batcher.submit([10], Priority.HIGH)
        assert run.alone[:4] == [True, True, True, False]
        # Who matters more finds a thread free; and where low priority just was, it will be again.
        assert run.alone[-3:] == [False, False, True]

    asyncio.run(body())


def test_what_waits_while_a_batch_runs_goes_together() -> None:
    async def body() -> None:
        run = Runner()
        run.gate.clear()
        async with running(run) as (batcher, _):
            first = batcher.submit([1], Priority.HIGH)
            await run.held()
            rest = [batcher.submit([2], Priority.HIGH) for _ in range(10)]
            run.gate.set()
            await asyncio.gather(first, *rest)
        assert [len(batch) for batch in run.batches] == [1, 10]

    asyncio.run(body())


def test_idle_threads_share_what_waits() -> None:
    async def body() -> None:
        run = Runner()
        async with running(run, threads=2) as (batcher, _):
            await asyncio.sleep(0.05)  # until both are idle
            run.gate.clear()
            done = batcher.submit([5] * 8, Priority.HIGH)
            await run.held()
            await run.held()
            run.gate.set()
            await done
            await all_idle(batcher)
            await batcher.submit([5] * 8, Priority.LOW)  # who matters more finds a thread free
        assert sorted(len(batch) for batch in run.batches) == [4, 4, 8]

    asyncio.run(body())


def test_priorities_go_first_and_nobody_starves() -> None:
    async def body() -> None:
        run = Runner()
        run.gate.clear()
        async with running(run, budget=10) as (batcher, _):
            first = batcher.submit([10], Priority.HIGH)
            await run.held()
            low = batcher.submit([1], Priority.LOW)
            normal = batcher.submit([2], Priority.NORMAL)
            high = [batcher.submit([10], Priority.HIGH) for _ in range(OLDEST_EVERY)]
            run.gate.set()
            await asyncio.gather(first, low, normal, *high)
        # The oldest of all begins one batch in so many; else who matters most goes first.
        assert run.batches[1:] == [[10]] * (OLDEST_EVERY - 2) + [[1], [10], [10], [2]]

    asyncio.run(body())


def test_the_oldest_begins_the_next_batch_and_the_likest_go_with_it() -> None:
    async def body() -> None:
        run = Runner()
        run.gate.clear()
        async with running(run, budget=20) as (batcher, _):
            waiting = [batcher.submit([20], Priority.HIGH)]
            await run.held()
            waiting += [batcher.submit([size], Priority.HIGH) for size in (3, 10, 9, 3)]
            run.gate.set()
            await asyncio.gather(*waiting)
        assert run.batches == [[20], [3, 3], [9, 10]]

    asyncio.run(body())


def test_the_expected_wait_counts_what_lies_between_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(1000))  # every look at it is a second later
    monkeypatch.setattr("serving.inference.batcher.perf_counter", lambda: float(next(clock)))

    async def body() -> None:
        run = Runner()
        async with running(run, budget=10) as (batcher, _):
            run.gate.clear()
            first = batcher.submit([10], Priority.HIGH)
            await run.held()
            rest = [batcher.submit([10], Priority.HIGH) for _ in range(3)]
            run.gate.set()
            await asyncio.gather(first, *rest)
            for _ in rest:
                await run.held()  # each batch is noted once
            assert batcher.expected_wait(Priority.HIGH) == 0  # nothing waits
            run.gate.clear()
            held = batcher.submit([10], Priority.HIGH)
            await run.held()
            waits = batcher.submit([10], Priority.HIGH)
            # The batches alone took a second each; whoever looks at the clock meanwhile, more.
            assert (wait := batcher.expected_wait(Priority.HIGH)) > 1.5
            assert batcher.expected_wait(Priority.HIGH, pending=2) == pytest.approx(3 * wait)
            run.gate.set()
            await asyncio.gather(held, waits)

    asyncio.run(body())


def test_who_left_is_skipped() -> None:
    async def body() -> None:
        run = Runner()
        run.gate.clear()
        async with running(run) as (batcher, _):
            first = batcher.submit([1], Priority.HIGH)
            await run.held()
            stays, leaves = batcher.submit([2], Priority.HIGH), batcher.submit([3], Priority.HIGH)
            leaves.cancel()
            run.gate.set()
            assert (await first, await stays) == ([2], [4])
            assert batcher.waiting_tokens == 0
        assert run.batches == [[1], [2]]

    asyncio.run(body())


def test_who_would_wait_too_long_is_refused_and_a_lower_priority_is_no_hindrance() -> None:
    async def body() -> None:
        run = Runner()
        async with running(run, max_wait=0.0001) as (batcher, _):
            assert batcher.expected_wait(Priority.LOW) == 0  # nothing is known yet
            await batcher.submit([1], Priority.HIGH)
            run.gate.clear()
            held = batcher.submit([1], Priority.HIGH)
            await run.held()
            await run.held()
            low = batcher.submit([10**9], Priority.LOW)
            with pytest.raises(QueueFullError) as caught:
                batcher.submit([1], Priority.LOW)
            assert caught.value.wait > 0.0001
            high = batcher.submit([1], Priority.HIGH)
            run.gate.set()
            await asyncio.gather(held, low, high)

    asyncio.run(body())


def test_a_bad_item_harms_its_own_caller_alone() -> None:
    async def body() -> None:
        run = Runner()
        run.gate.clear()
        async with running(run) as (batcher, reports):
            first = batcher.submit([1], Priority.HIGH)
            await run.held()
            good, bad = (
                batcher.submit([2, 3], Priority.HIGH),
                batcher.submit([4, -1], Priority.HIGH),
            )
            run.gate.set()
            assert await first == [2]
            assert await good == [4, 6]
            with pytest.raises(ValueError, match="a bad item"):
                await bad
            assert [report.failed for report in reports] == [False, True]
            assert batcher.alive
            assert await batcher.submit([5], Priority.HIGH) == [10]

    asyncio.run(body())


def test_a_dead_thread_leaves_nobody_waiting() -> None:
    async def body() -> None:
        run = Runner()
        run.gate.clear()
        async with running(run) as (batcher, _):
            assert batcher.alive
            doomed = batcher.submit([-2], Priority.HIGH)
            await run.held()
            waiting = batcher.submit([1], Priority.NORMAL)
            run.gate.set()
            for future in (doomed, waiting):
                with pytest.raises(BatcherDeadError):
                    await future
            for thread in threading.enumerate():
                if thread.name == "inference-0":
                    thread.join(5)
            assert not batcher.alive
            with pytest.raises(BatcherDeadError):
                batcher.submit([1], Priority.HIGH)

    asyncio.run(body())


def test_closing_finishes_what_waits_and_takes_no_more() -> None:
    async def body() -> None:
        run = Runner()
        run.gate.clear()
        async with running(run, budget=2) as (batcher, _):
            waiting = [batcher.submit([2], Priority.HIGH) for _ in range(5)]
            await run.held()
            run.gate.set()
            await batcher.close()
            assert await asyncio.gather(*waiting) == [[4]] * 5
            with pytest.raises(BatcherDeadError):
                batcher.submit([1], Priority.HIGH)

    asyncio.run(body())


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
def test_a_batch_is_the_first_item_and_its_likes(
    sizes: list[int], budget: int, chosen: list[int]
) -> None:
    found = group_by_length(sizes, budget)
    assert 0 in found
    assert sorted(sizes[at] for at in found) == sorted(chosen)
