import asyncio
import itertools
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.bundle import ATTRIBUTES, LABELS, MAX_WINDOWS, Bundle
from serving.errors import ErrorCode, ServiceError
from serving.explain import explainer as module
from serving.explain.explainer import (
    MAX_MASK_TOKENS,
    NAMES,
    Explainer,
    ExplainParams,
    Explanation,
    visible_text,
)
from serving.explain.lime import TOTAL_WEIGHT
from serving.inference.batcher import BatchReport, Capacity, DeadlineError, QueueFullError
from serving.inference.engine import Engine, ScoredText
from serving.inference.policy import Policy
from serving.inference.scheduler import Priority

ROOT = Path(__file__).parents[4]
LONG = "nobody wants these awful people here they said while many others kept silent about it all"


class RowCounter:
    """An observer that counts the inferred texts."""

    def __init__(self) -> None:
        self.rows = 0

    def tokenised(self, seconds: float) -> None:
        pass

    def cached(self, hits: int, misses: int) -> None:
        pass

    def batch(self, report: BatchReport) -> None:
        self.rows += report.rows


@pytest.fixture(scope="module")
def bundle(trained: Path) -> Bundle:
    return Bundle.load(trained / "models" / "candidate", threads=1)


@asynccontextmanager
async def running(bundle: Bundle) -> AsyncIterator[tuple[Engine, RowCounter]]:
    counter = RowCounter()
    policy = Policy.load(ROOT / "configs" / "policy.yaml")
    engine = Engine(bundle, policy, counter, Capacity(2, 512, 60), cache_size=100)
    await engine.start()
    counter.rows = 0
    try:
        yield engine, counter
    finally:
        await engine.close()


def explain(bundle: Bundle, *params: ExplainParams) -> list[Explanation]:
    async def body() -> list[Explanation]:
        async with running(bundle) as (engine, _):
            explainer = Explainer()
            return [await explainer.explain(engine, one) for one in params]

    return asyncio.run(body())


@pytest.mark.parametrize("text", ["idiot", "you clown", "they are all liars and you know they are"])
@pytest.mark.parametrize("name", [None, "THREAT"])
def test_a_short_text_has_the_weights_that_brute_force_finds(
    bundle: Bundle, text: str, name: str | None
) -> None:
    words = text.split()
    names = list(dict.fromkeys(words))
    masks = list(itertools.product([1, 0], repeat=len(names)))
    texts = [
        " ".join(word if mask[names.index(word)] else "[UNK]" for word in words) for mask in masks
    ]
    # Rounding float32 is off by 1e-6.
    scores = np.concatenate(bundle.score(texts), axis=1).astype(np.float64).round(6)
    label = LABELS[bundle.decide(bundle.score([text]).labels)[0]]
    column = NAMES.index(name or label)
    explanation = explain(bundle, ExplainParams(text, name, num_features=100))[0]
    assert explanation.label == (name or label)
    assert explanation.exact
    assert explanation.scores_used == 2 ** len(names)
    assert explanation.scores == pytest.approx(dict(zip(NAMES, scores[0], strict=True)), abs=1e-6)

    share = np.array([
        math.sqrt(math.exp(-((100 * (1 - math.sqrt(sum(m) / len(m)))) ** 2) / 625))
        / math.comb(len(m), sum(m))
        for m in masks
    ])  # fmt: skip
    design = np.column_stack([np.ones(len(masks)), np.array(masks)])
    weights = share * TOTAL_WEIGHT / share.sum()
    ridge = np.diag([0.0] + [1.0] * len(names))
    gram = design.T @ (weights[:, None] * design) + ridge
    want = np.linalg.solve(gram, design.T @ (weights * scores[:, column]))[1:]
    got = {row.word.text: row.weight for row in explanation.weights}
    assert [got[name] for name in names] == pytest.approx(want, abs=2e-6)
    assert len(explanation.weights) == len(words)


def test_equal_parameters_give_equal_explanations_to_the_last_digit(bundle: Bundle) -> None:
    first, again = explain(bundle, ExplainParams(LONG), ExplainParams(LONG))
    (restarted,) = explain(bundle, ExplainParams(LONG))
    assert first == again == restarted
    assert not first.exact
    assert first.scores_used == 1000
    (other,) = explain(bundle, ExplainParams(LONG, seed=1))
    assert other.weights != first.weights


def test_another_label_needs_no_more_scores_and_masked_texts_evict_no_tweets_from_the_cache(
    bundle: Bundle,
) -> None:
    async def body() -> None:
        async with running(bundle) as (engine, counter):
            explainer = Explainer()
            await engine.score(["a tweet to keep"])
            counter.rows = 0
            explanations = {}
            for label in NAMES:
                explanations[label] = await explainer.explain(engine, ExplainParams(LONG, label))
            assert counter.rows <= 1000
            assert engine.cached_texts == 1
        assert list(explanations) == [*LABELS, *ATTRIBUTES]
        of_labels = [explanations[label] for label in LABELS]
        sums = {}
        for explanation in of_labels:
            for row in explanation.weights:
                sums[row.word] = sums.get(row.word, 0) + row.weight
        words = [{row.word for row in one.weights} for one in of_labels]
        # Probabilities sum to 1, so a word's weights for all labels sum to 0.
        assert all(abs(sums[word]) < 1e-4 for word in set.intersection(*words))

    asyncio.run(body())


def test_the_words_with_the_largest_weights_come_first_with_all_their_occurrences(
    bundle: Bundle,
) -> None:
    text = "clown you clown, what a Clown"
    whole, three = explain(bundle, ExplainParams(text), ExplainParams(text, num_features=3))
    sizes = [abs(row.weight) for row in whole.weights]
    assert sizes == sorted(sizes, reverse=True)
    assert three.weights == whole.weights[: len(three.weights)]
    assert len({row.word.key for row in three.weights}) == 3
    clowns = [row for row in whole.weights if row.word.key == "clown"]
    assert [row.word.begin for row in clowns] == [0, 10, 24]
    assert len({row.weight for row in clowns}) == 1


def test_a_text_without_words_has_no_weights(bundle: Bundle) -> None:
    (result,) = explain(bundle, ExplainParams("?! ..."))
    assert (result.weights, result.r2, result.scores_used, result.exact) == ((), None, 1, True)


def test_of_a_truncated_text_only_the_words_that_the_model_reads_have_weights(
    bundle: Bundle,
) -> None:
    text = " ".join(f"w{i}" for i in range(2000))
    (explanation,) = explain(bundle, ExplainParams(text, num_features=500, num_samples=16))
    ends = [row.word.end for row in explanation.weights]
    assert 1 < len(ends) <= bundle.manifest.max_tokens * MAX_WINDOWS
    whole = np.concatenate(bundle.score([text]), axis=1)[0]
    assert list(explanation.scores.values()) == pytest.approx(whole, abs=1e-4)
    assert (np.concatenate(bundle.score([text[: max(ends)]]), axis=1)[0] == whole).all()


def test_all_words_of_a_text_of_several_windows_have_weights(bundle: Bundle) -> None:
    text = " ".join(f"w{i}" for i in range(bundle.manifest.max_tokens))
    (encoding,) = bundle.encode([text])
    assert len(encoding.windows) > 1
    assert not encoding.truncated
    assert visible_text(bundle, text).tokens == len(encoding.ids)
    (explanation,) = explain(bundle, ExplainParams(text, num_features=500, num_samples=16))
    assert max(row.word.end for row in explanation.weights) == len(text)


class WordEngine:
    """An engine whose scores depend on a text's words only; it counts the tokens that it scores."""

    idle_seconds = math.inf

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.tokens = bundle, 0

    async def score(
        self, texts: Sequence[str], priority: Priority, deadline: float | None
    ) -> list[ScoredText]:
        assert (priority, deadline) == (Priority.LOW, None)
        self.tokens += sum(len(row.ids) for row in self.bundle.encode(texts))
        return [self._score(text) for text in texts]

    def _score(self, text: str) -> ScoredText:
        hate, threat = 0.9 * ("vermin" in text), 0.4 * ("hurt" in text) + 0.2 * ("you" in text)
        scores = {"hate": hate, "offensive": 0.0, "neither": 1 - hate}
        attributes = dict.fromkeys(ATTRIBUTES, 0.0) | {"TOXICITY": hate, "THREAT": threat}
        decision = Policy.load(ROOT / "configs" / "policy.yaml").apply(scores)
        return ScoredText(scores, attributes, "hate", decision)


def long_text(length: int, place: float, phrase: str) -> str:
    """A text of many different words, with a phrase in it."""
    words = [f"{a}{b}" for a in LONG.split() for b in ("", *"abcdefghijklmnopqrstu")] * 6
    begin = " ".join(words)[: int(length * place)].rpartition(" ")[0]
    return f"{begin} {phrase} {' '.join(reversed(words))}"[:length]


@pytest.mark.parametrize("length", [500, 2000, 9000])
@pytest.mark.parametrize("place", [0.1, 0.5])
def test_the_masks_of_a_long_text_have_a_limited_number_of_tokens(
    length: int, place: float
) -> None:
    engine: Any = WordEngine(Bundle.load(ROOT / "models" / "release"))
    text = long_text(length, place, "I will hurt you vermin")
    (encoding,) = engine.bundle.encode([text])
    for label, expected in (
        (None, {"vermin": 0.9}),
        ("THREAT", {"hurt": 0.4, "you": 0.2}),
        ("neither", {"vermin": -0.9}),
    ):
        engine.tokens = 0
        result = asyncio.run(Explainer().explain(engine, ExplainParams(text, label)))
        # Without the limit: a thousand times the text.
        assert engine.tokens <= MAX_MASK_TOKENS + len(encoding.ids) + 1000
        assert 16 <= result.scores_used < 1000
        assert not result.exact
        found = {row.word.text: row.weight for row in result.weights[: len(expected)]}
        assert found == pytest.approx(expected, abs=0.05)
        begin, end = result.explained
        assert begin <= text.index("hurt") < end
        assert (end - begin < len(text)) == (len(encoding.windows) > 1)
        for row in result.weights:
            assert text[row.word.begin : row.word.end] == row.word.text
            assert begin <= row.word.begin < row.word.end <= end


def test_a_long_text_of_few_words_has_few_masks_too() -> None:
    engine: Any = WordEngine(Bundle.load(ROOT / "models" / "release"))
    result = asyncio.run(Explainer().explain(engine, ExplainParams("you are a vermin " * 550)))
    assert engine.tokens <= MAX_MASK_TOKENS + 5000
    assert result.exact  # all 16 masks
    assert result.weights[0].word.text == "vermin"


def test_too_many_at_one_time_are_refused_and_the_others_are_answered(bundle: Bundle) -> None:
    async def body() -> None:
        async with running(bundle) as (engine, _):
            explainer = Explainer(max_running=1, max_waiting=1)
            params = ExplainParams(LONG, num_samples=50)
            calls = [explainer.explain(engine, params) for _ in range(4)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            refused = [one for one in results if isinstance(one, ServiceError)]
            assert [one.code for one in refused] == [ErrorCode.OVERLOADED] * 2
            assert "retry-after" in refused[0].headers
            answered = [one for one in results if isinstance(one, Explanation)]
            assert len(answered) == 2
            assert await explainer.explain(engine, params) == answered[0]

    asyncio.run(body())


def test_a_cancelled_explanation_frees_its_place(bundle: Bundle) -> None:
    async def body() -> None:
        async with running(bundle) as (engine, counter):
            explainer = Explainer(max_running=1, max_waiting=0)
            task = asyncio.create_task(
                explainer.explain(engine, ExplainParams(LONG, num_samples=5000))
            )
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert counter.rows < 5000
            await explainer.explain(engine, ExplainParams("still here"))

    asyncio.run(body())


class FullEngine:
    """An engine whose queue gets full after some chunks."""

    idle_seconds = 9.0

    def __init__(self, bundle: Bundle, chunks: int) -> None:
        self.bundle, self.left, self.deadlines = bundle, chunks, set[float | None]()

    async def score(self, texts: Sequence[str], _: Priority, deadline: float | None) -> list[Any]:
        self.deadlines.add(deadline)
        await asyncio.sleep(0.01)
        self.left -= 1
        if self.left < 0:
            raise QueueFullError(0.05)
        row = dict.fromkeys(LABELS, 1 / 3), dict.fromkeys(ATTRIBUTES, 0.5)
        return [ScoredText(*row, "hate", None)] * len(texts)  # type: ignore[arg-type]


@pytest.mark.parametrize("chunks", [0, 8, 40])  # in the windows, and in the first masks
def test_all_waiting_of_an_explanation_together_has_a_limit(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    monkeypatch.setattr(module, "MAX_YIELD_S", 1.0)
    text = " ".join(f"word{i} {'clown' * (i % 3)}" for i in range(700))

    async def body() -> None:
        engine, explainer = FullEngine(bundle, chunks), Explainer(max_running=1)
        begun = asyncio.get_running_loop().time()
        calls = [explainer.explain(engine, ExplainParams(text)) for _ in range(3)]  # type: ignore[arg-type]
        results = await asyncio.gather(*calls, return_exceptions=True)
        # Two of them waited for the first one: until they gave up, or it did.
        assert {type(one) for one in results} <= {QueueFullError, ServiceError}
        assert asyncio.get_running_loop().time() - begun < 3
        assert engine.deadlines == {None}
        # They have left their places.
        with pytest.raises(QueueFullError):
            await explainer.explain(engine, ExplainParams("a b"))  # type: ignore[arg-type]

    asyncio.run(body())


def test_the_callers_deadline_holds_for_every_chunk(bundle: Bundle) -> None:
    async def body() -> None:
        engine = FullEngine(bundle, 3)
        begun = asyncio.get_running_loop().time()
        deadline = begun + 0.5
        with pytest.raises(DeadlineError):
            await Explainer().explain(engine, ExplainParams(LONG), deadline)  # type: ignore[arg-type]
        assert asyncio.get_running_loop().time() < deadline + 1
        assert engine.deadlines == {deadline}
        async with running(bundle) as (real, _):
            late = asyncio.get_running_loop().time() + 1e-6
            with pytest.raises(DeadlineError):
                await Explainer().explain(real, ExplainParams(LONG, num_samples=5000), late)

    asyncio.run(body())


def test_lime_is_imported_only_for_the_first_explanation() -> None:
    code = (
        "import sys, serving.app, serving.explain.explainer, serving.explain.html\n"
        "print({'lime', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "set()"
