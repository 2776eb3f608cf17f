import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from serving.inference.batcher import (
    Batcher,
    BatcherDeadError,
    BatchReport,
    Capacity,
    DeadlineError,
    QueueFullError,
)
from serving.inference.scheduler import LOW_PRIORITY_QUIET_S, Priority


class Runner:
    """A `run` that records its batches and doubles its items. Clearing `gate` makes it wait."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.was_idle: list[bool] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, items: Sequence[int], is_idle: bool) -> list[int]:
        self.was_idle.append(is_idle)
        self.entered.release()
        self.gate.wait(10)
        self.batches.append(list(items))
        if -1 in items:
            raise ValueError("a bad item")
        if -2 in items:
            raise SystemExit
        return [2 * item for item in items]

    async def wait_until_entered(self) -> None:
        """Wait until a thread has called it once more."""
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
    """Wait until every thread waits for work, which is a moment after its last results."""
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


def test_a_single_item_runs_without_delay() -> None:
    async def body() -> None:
        async with running(Runner()) as (batcher, _):
            await batcher.submit([1], Priority.HIGH)
            started = time.perf_counter()
            for _ in range(20):
                await batcher.submit([1], Priority.HIGH)
            assert time.perf_counter() - started < 1

    asyncio.run(body())


def test_a_batch_learns_whether_the_machine_is_otherwise_idle() -> None:
    async def body() -> None:
        run = Runner()
        async with running(run, threads=2, budget=10) as (batcher, _):
            for _ in range(2):
                await all_idle(batcher)
                await batcher.submit([10], Priority.HIGH)
            await all_idle(batcher)
            run.gate.clear()
            single = batcher.submit([10], Priority.HIGH)
            for _ in range(3):
                await run.wait_until_entered()
            others = [batcher.submit([10], Priority.HIGH) for _ in range(2)]
            await run.wait_until_entered()  # the second thread runs one of them, and one waits
            run.gate.set()
            await asyncio.gather(single, *others)
            await all_idle(batcher)
            for priority in (Priority.LOW, Priority.HIGH):
                await batcher.submit([10], priority)
                await all_idle(batcher)
            await asyncio.sleep(LOW_PRIORITY_QUIET_S)
            await batcher.submit([10], Priority.HIGH)
        assert run.was_idle[:4] == [True, True, True, False]
        # A low-priority batch leaves processors free, and more such batches are expected after it.
        assert run.was_idle[-3:] == [False, False, True]

    asyncio.run(body())


def test_items_that_arrive_during_a_batch_form_the_next_one() -> None:
    async def body() -> None:
        run = Runner()
        run.gate.clear()
        async with running(run) as (batcher, _):
            first = batcher.submit([1], Priority.HIGH)
            await run.wait_until_entered()
            rest = [batcher.submit([2], Priority.HIGH) for _ in range(10)]
            run.gate.set()
            await asyncio.gather(first, *rest)
        assert [len(batch) for batch in run.batches] == [1, 10]

    asyncio.run(body())


def test_idle_threads_share_the_waiting_items() -> None:
    async def body() -> None:
        run = Runner()
        async with running(run, threads=2) as (batcher, _):
            await asyncio.sleep(0.05)  # until both are idle
            run.gate.clear()
            done = batcher.submit([5] * 8, Priority.HIGH)
            await run.wait_until_entered()
            await run.wait_until_entered()
            run.gate.set()
            await done
            await all_idle(batcher)
            await batcher.submit([5] * 8, Priority.LOW)  # these leave a thread free
        assert sorted(len(batch) for batch in run.batches) == [4, 4, 8]

    asyncio.run(body())


def test_the_expected_wait_includes_the_time_between_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(1000))  # every reading is a second later
    monkeypatch.setattr("serving.inference.batcher.perf_counter", lambda: float(next(clock)))

    async def body() -> None:
        run = Runner()
        async with running(run, budget=10) as (batcher, _):
            run.gate.clear()
            first = batcher.submit([10], Priority.HIGH)
            await run.wait_until_entered()
            rest = [batcher.submit([10], Priority.HIGH) for _ in range(3)]
            run.gate.set()
            await asyncio.gather(first, *rest)
            for _ in rest:
                await run.wait_until_entered()  # each batch was measured
            expected_wait = batcher._scheduler.expected_wait
            assert expected_wait(Priority.HIGH) == 0  # nothing waits
            run.gate.clear()
            running_now = batcher.submit([10], Priority.HIGH)
            await run.wait_until_entered()
            waiting = batcher.submit([10], Priority.HIGH)
            # Each batch took a second by itself, and more with the time before it.
            assert (wait := expected_wait(Priority.HIGH)) > 1.5
            assert expected_wait(Priority.HIGH, pending=2) == pytest.approx(3 * wait)
            run.gate.set()
            await asyncio.gather(running_now, waiting)

    asyncio.run(body())


def test_items_of_a_cancelled_caller_are_skipped() -> None:
    async def body() -> None:
        run = Runner()
        run.gate.clear()
        async with running(run) as (batcher, _):
            first = batcher.submit([1], Priority.HIGH)
            await run.wait_until_entered()
            kept, cancelled = (batcher.submit([i], Priority.HIGH) for i in (2, 3))
            cancelled.cancel()
            run.gate.set()
            assert (await first, await kept) == ([2], [4])
            assert batcher.waiting_tokens == 0
        assert run.batches == [[1], [2]]

    asyncio.run(body())


def test_an_item_that_would_wait_too_long_is_refused_whatever_waits_with_lower_priority() -> None:
    async def body() -> None:
        run = Runner()
        async with running(run, max_wait=1.0) as (batcher, _):
            await batcher.submit([1], Priority.HIGH)
            run.gate.clear()
            running_now = batcher.submit([1], Priority.HIGH)
            await run.wait_until_entered()
            await run.wait_until_entered()
            low = batcher.submit([10**9], Priority.LOW)
            with pytest.raises(QueueFullError) as caught:
                batcher.submit([1], Priority.LOW)
            assert caught.value.wait > 1
            high = batcher.submit([1], Priority.HIGH)
            run.gate.set()
            await asyncio.gather(running_now, low, high)

    asyncio.run(body())


class SlowRunner:
    """A `run` that takes a hundredth of a second for each token."""

    def __call__(self, items: Sequence[int], is_idle: bool) -> list[int]:
        time.sleep(sum(items) / 100)
        return [2 * item for item in items]


def test_the_wait_includes_what_is_left_of_the_running_batch_and_the_items_own_time() -> None:
    async def body() -> None:
        async with running(SlowRunner(), budget=10, max_wait=0.3) as (batcher, _):
            await batcher.submit([10], Priority.HIGH)  # 0.1 s: now the speed is known
            await all_idle(batcher)
            running_now = batcher.submit([20], Priority.HIGH)
            await asyncio.sleep(0.02)  # 0.18 s are left
            assert 0.1 < batcher._expected_wait(Priority.HIGH) < 0.2
            accepted = batcher.submit([5], Priority.HIGH)  # 0.23 s
            with pytest.raises(QueueFullError) as caught:
                batcher.submit([20], Priority.HIGH)  # 0.38 s, its own time counted for 0.15 s
            assert caught.value.wait == pytest.approx(0.23, abs=0.1)
            # Half of the limit is for the wait, also of a request whose own time exceeds it.
            with pytest.raises(QueueFullError):
                batcher.submit([100], Priority.HIGH)
            others = batcher.submit([5], Priority.NORMAL)  # it starts after 0.23 s
            await asyncio.gather(running_now, accepted)
            started = time.perf_counter()
            assert await batcher.submit([5], Priority.HIGH) == [10]
            assert time.perf_counter() - started < 0.3
            await others
            await all_idle(batcher)
            assert await batcher.submit([40], Priority.HIGH) == [80]  # nothing is ahead of it

    asyncio.run(body())


def test_accepted_items_are_answered_within_the_limit() -> None:
    async def body() -> None:
        seconds: list[float] = []

        async def client(batcher: Batcher[int, int]) -> None:
            while len(seconds) < 100:
                started = time.perf_counter()
                try:
                    await batcher.submit([3], Priority.HIGH)
                    seconds.append(time.perf_counter() - started)
                except QueueFullError:
                    await asyncio.sleep(0.01)

        async with running(SlowRunner(), budget=3, max_wait=0.2) as (batcher, _):
            await batcher.submit([3], Priority.HIGH)
            async with asyncio.TaskGroup() as group:
                for _ in range(32):
                    group.create_task(client(batcher))
        late = sum(one > 0.2 * 1.2 for one in seconds)
        assert late / len(seconds) < 0.1
        assert sorted(seconds)[len(seconds) // 2] > 0.1  # and the queue is used

    asyncio.run(body())


def test_items_that_would_miss_their_deadline_are_refused_at_once() -> None:
    async def body() -> None:
        async with running(SlowRunner(), budget=10) as (batcher, _):
            now = asyncio.get_running_loop().time
            await batcher.submit([10], Priority.HIGH)
            await all_idle(batcher)
            # Nothing is ahead: it is tried, and the caller gives up at the deadline.
            running_now = batcher.submit([20], Priority.HIGH, now() + 0.01)
            await asyncio.sleep(0.01)
            for priority in (Priority.HIGH, Priority.NORMAL, Priority.LOW):
                with pytest.raises(DeadlineError) as caught:
                    batcher.submit([20], priority, now() + 0.3)  # 0.19 + 0.2 s
                assert 0.1 < caught.value.wait < 0.25
            in_time = batcher.submit([5], Priority.HIGH, now() + 0.3)
            started = now()
            assert await in_time == [10]
            assert now() - started < 0.3
            await running_now

    asyncio.run(body())


def test_a_bad_item_fails_only_its_own_request() -> None:
    async def body() -> None:
        run = Runner()
        run.gate.clear()
        async with running(run) as (batcher, reports):
            first = batcher.submit([1], Priority.HIGH)
            await run.wait_until_entered()
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


def test_a_dead_thread_fails_all_waiting_requests() -> None:
    async def body() -> None:
        run = Runner()
        run.gate.clear()
        async with running(run) as (batcher, _):
            assert batcher.alive
            failing = batcher.submit([-2], Priority.HIGH)
            await run.wait_until_entered()
            waiting = batcher.submit([1], Priority.NORMAL)
            run.gate.set()
            for future in (failing, waiting):
                with pytest.raises(BatcherDeadError):
                    await future
            for thread in threading.enumerate():
                if thread.name == "inference-0":
                    thread.join(5)
            assert not batcher.alive
            with pytest.raises(BatcherDeadError):
                batcher.submit([1], Priority.HIGH)

    asyncio.run(body())


def test_closing_finishes_waiting_items_and_refuses_new_ones() -> None:
    async def body() -> None:
        run = Runner()
        run.gate.clear()
        async with running(run, budget=2) as (batcher, _):
            waiting = [batcher.submit([2], Priority.HIGH) for _ in range(5)]
            await run.wait_until_entered()
            run.gate.set()
            await batcher.close()
            assert await asyncio.gather(*waiting) == [[4]] * 5
            with pytest.raises(BatcherDeadError):
                batcher.submit([1], Priority.HIGH)

    asyncio.run(body())
