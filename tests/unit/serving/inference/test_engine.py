import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from serving.bundle import ATTRIBUTES, LABELS, Bundle, Encoding, Scores
from serving.inference.batcher import BatcherDeadError, BatchReport, Capacity, QueueFullError
from serving.inference.engine import INLINE_CHARS, Engine
from serving.inference.policy import Policy
from serving.inference.scheduler import Priority

ROOT = Path(__file__).parents[4]
TEXTS = ["have a lovely day", "you absolute clown", "😂😂", "word " * 300, "привет", "ok"]
TOO_LONG = "word " * 3000


class Measurements:
    """An observer that adds up what it receives."""

    def __init__(self) -> None:
        self.hits = self.misses = self.tokenised_requests = 0
        self.batches: list[BatchReport] = []

    def tokenised(self, seconds: float) -> None:
        self.tokenised_requests += 1

    def cached(self, hits: int, misses: int) -> None:
        self.hits += hits
        self.misses += misses

    def batch(self, report: BatchReport) -> None:
        self.batches.append(report)


class ThreadKillingBundle(Bundle):
    """A bundle that ends the inference thread when a batch holds a truncated text."""

    def infer(self, batch: Sequence[Encoding], *, intra_op_parallel: bool = False) -> Scores:
        if any(row.truncated for row in batch):
            raise SystemExit
        return super().infer(batch, intra_op_parallel=intra_op_parallel)


@pytest.fixture(scope="module")
def folder(trained: Path) -> Path:
    return trained / "models" / "candidate"


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.load(ROOT / "configs" / "policy.yaml")


@asynccontextmanager
async def running(
    bundle: Bundle, policy: Policy, *, cache_size: int = 100, max_wait: float = 60
) -> AsyncIterator[tuple[Engine, Measurements]]:
    measured = Measurements()
    engine = Engine(bundle, policy, measured, Capacity(2, 256, max_wait), cache_size=cache_size)
    await engine.start()
    measured.batches.clear()
    try:
        yield engine, measured
    finally:
        await engine.close()


def test_a_text_scores_the_same_alone_in_a_list_and_in_the_bundle(
    folder: Path, policy: Policy
) -> None:
    async def body() -> None:
        bundle = Bundle.load(folder)
        async with running(bundle, policy, cache_size=0) as (engine, _):
            together = await engine.score(TEXTS * 20)
            alone = [(await engine.score([text]))[0] for text in TEXTS]
        want = bundle.score(TEXTS)
        for rows in (together[: len(TEXTS)], together[-len(TEXTS) :], alone):
            got = np.array([[row.scores[label] for label in LABELS] for row in rows])
            assert np.abs(got - want.labels).max() < 1e-3
            attributes = np.array([[row.attributes[name] for name in ATTRIBUTES] for row in rows])
            assert np.abs(attributes - want.attributes).max() < 1e-3
            assert [row.label for row in rows] == [LABELS[i] for i in bundle.decide(want.labels)]

    asyncio.run(body())


def test_a_prediction_has_decision_truncation_and_warnings(folder: Path, policy: Policy) -> None:
    async def body() -> None:
        async with running(Bundle.load(folder), policy) as (engine, _):
            texts = ["ok", "word " * 300, TOO_LONG, "\u200b"]
            short, windows, long, nothing = await engine.predict(texts)
        assert not short.truncated
        assert not windows.truncated
        assert long.truncated
        assert "truncated" in long.warnings
        assert "no_words" in nothing.warnings
        assert "truncated" not in nothing.warnings
        assert set(short.warnings) & {"truncated", "no_words"} == set()
        decision = policy.apply(short.scores)
        assert (short.toxicity, short.action) == (decision.toxicity, decision.action)
        assert sum(short.scores.values()) == pytest.approx(1, abs=1e-5)
        assert tuple(short.attributes) == ATTRIBUTES
        toxic = short.scores["hate"] + short.scores["offensive"]
        assert short.attributes["TOXICITY"] == pytest.approx(toxic, abs=2e-6)
        assert short.as_dict()["attributes"] == short.attributes

    asyncio.run(body())


def test_a_prediction_has_the_language_of_its_text(folder: Path, policy: Policy) -> None:
    async def body() -> None:
        texts = ["das Buch ist dick", "you absolute clown", "das Buch"]
        async with running(Bundle.load(folder), policy) as (engine, _):
            few, many = await engine.predict(texts), await engine.predict(texts * INLINE_CHARS)
        assert [row.language for row in few] == ["de", "en", "en"]
        assert many[: len(texts)] == few
        unsupported = ["language_not_supported" in row.warnings for row in few]
        assert unsupported == [True, False, False]
        assert few[0].as_dict()["language"] == "de"

    asyncio.run(body())


def test_a_repeated_text_comes_from_the_cache(folder: Path, policy: Policy) -> None:
    async def body() -> None:
        async with running(Bundle.load(folder), policy, cache_size=2) as (engine, measured):
            first = await engine.predict(["good morning", "good morning", "good evening"])
            assert (measured.hits, measured.misses) == (1, 2)
            assert sum(report.rows for report in measured.batches) == 2
            # After normalisation it is the same text.
            again = await engine.predict(["GOOD  morning"])
            assert again[0] == first[0] == first[1]
            assert (measured.hits, measured.misses) == (2, 2)
            assert engine.cached_texts == 2
            await engine.predict(["another one"])  # evicts the least recently used: the evening
            await engine.predict(["good morning"])
            assert (measured.hits, measured.misses) == (3, 3)
            await engine.predict(["good evening"])
            assert (measured.hits, measured.misses) == (3, 4)

    asyncio.run(body())


def test_without_a_cache_every_text_is_inferred(folder: Path, policy: Policy) -> None:
    async def body() -> None:
        async with running(Bundle.load(folder), policy, cache_size=0) as (engine, measured):
            await engine.predict(["good morning"] * 3)
            assert sum(report.rows for report in measured.batches) == 3
            assert (measured.hits, measured.misses, engine.cached_texts) == (0, 0, 0)

    asyncio.run(body())


def test_long_lists_are_tokenised_off_the_event_loop(folder: Path, policy: Policy) -> None:
    threads: list[str] = []
    lengths: list[int] = []

    class RecordingBundle(Bundle):
        def encode(self, texts: Sequence[str]) -> list[Encoding]:
            threads.append(threading.current_thread().name)
            lengths.append(len(texts))
            return super().encode(texts)

    async def body() -> None:
        async with running(RecordingBundle.load(folder), policy) as (engine, _):
            threads.clear()
            lengths.clear()
            await engine.score(["ok", "yes"])
            await engine.score(["x" * INLINE_CHARS, "no"])
            await engine.score(["ﷺ" * (INLINE_CHARS // 4)])  # each becomes four words
            await engine.score(["ok"] * 50)
        assert threads[:2] == [threading.main_thread().name] * 2
        assert threads[0] not in threads[2:4]
        # One by one on the event loop, so no tokenizer thread starts; equal texts once.
        assert lengths == [1, 1, 2, 1, 1]

    asyncio.run(body())


def test_a_machine_that_computes_other_golden_scores_is_not_ready(
    folder: Path, policy: Policy
) -> None:
    async def body() -> None:
        bundle = Bundle.load(folder)
        async with running(bundle, policy) as (engine, _):
            assert engine.not_ready is None
        manifest, (*others, last) = bundle.manifest, bundle.manifest.golden
        for field, name in (("scores", "hate"), ("attributes", "THREAT")):
            right = getattr(last, field)
            wrong = last.model_copy(update={field: {**right, name: right[name] + 0.1}})
            bundle.manifest = manifest.model_copy(update={"golden": [*others, wrong]})
            async with running(bundle, policy) as (engine, _):
                assert engine.not_ready is not None
                assert "differs by 0.1" in engine.not_ready

    asyncio.run(body())


def test_an_engine_with_a_dead_thread_is_not_alive(folder: Path, policy: Policy) -> None:
    async def body() -> None:
        async with running(ThreadKillingBundle.load(folder), policy) as (engine, _):
            assert engine.alive
            with pytest.raises(BatcherDeadError):
                await engine.predict([TOO_LONG])
            for _ in range(100):
                if not engine.alive:
                    break
                await asyncio.sleep(0.05)
            assert not engine.alive

    asyncio.run(body())


def test_a_full_queue_is_refused_before_tokenising(folder: Path, policy: Policy) -> None:
    async def body() -> None:
        bundle = Bundle.load(folder)
        async with running(bundle, policy, max_wait=1e-9, cache_size=0) as (engine, measured):
            waiting = asyncio.create_task(engine.score(["a list"] * 200, Priority.HIGH))
            await asyncio.sleep(0)  # now the list is queued
            with pytest.raises(QueueFullError):
                engine.check_capacity()
            assert measured.tokenised_requests == 1
            await waiting
            engine.check_capacity()

    asyncio.run(body())


def test_a_cancelled_request_does_not_disturb_others(folder: Path, policy: Policy) -> None:
    async def body() -> None:
        async with running(Bundle.load(folder), policy, cache_size=0) as (engine, _):
            cancelled = asyncio.create_task(engine.predict(["ok"] * 400))
            kept = asyncio.create_task(engine.predict(["have a lovely day"]))
            await asyncio.sleep(0)
            cancelled.cancel()
            assert len(await kept) == 1
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert len(await engine.predict(["ok"])) == 1
            assert engine.waiting_tokens == 0

    asyncio.run(body())
