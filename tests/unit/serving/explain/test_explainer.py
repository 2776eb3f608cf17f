import asyncio
import itertools
import math
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from serving.bundle import LABELS, Bundle
from serving.errors import ErrorCode, ServiceError
from serving.explain.explainer import (
    STRENGTH,
    Explainer,
    Explanation,
    Question,
    fit,
    is_exact,
    make_masks,
    masked,
    proximity,
    read,
)
from serving.inference.batcher import BatchReport, Capacity
from serving.inference.engine import Engine
from serving.inference.policy import Policy

ROOT = Path(__file__).parents[4]
LONG = "nobody wants these awful people here they said while many others kept silent about it all"


class Notes:
    """An observer that counts the texts that were inferred."""

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
async def running(bundle: Bundle) -> AsyncIterator[tuple[Engine, Notes]]:
    notes = Notes()
    policy = Policy.load(ROOT / "configs" / "policy.yaml")
    engine = Engine(bundle, policy, notes, Capacity(2, 512, 60), cache_size=100)
    await engine.start()
    notes.rows = 0
    try:
        yield engine, notes
    finally:
        await engine.close()


def explain(bundle: Bundle, *questions: Question) -> list[Explanation]:
    async def body() -> list[Explanation]:
        async with running(bundle) as (engine, _):
            explainer = Explainer()
            return [await explainer.explain(engine, question) for question in questions]

    return asyncio.run(body())


def test_few_words_have_all_masks() -> None:
    for words in range(9):
        masks = make_masks(words, 16, seed=3)
        assert masks.shape == (2**words, words)
        assert len({row.tobytes() for row in masks}) == 2**words
        assert masks[0].all()
    assert is_exact(9, 512)
    assert not is_exact(9, 511)


@pytest.mark.parametrize(("words", "samples"), [(9, 511), (12, 1000), (20, 1000), (90, 16)])
def test_many_words_have_a_sample_that_a_seed_decides(words: int, samples: int) -> None:
    masks = make_masks(words, samples, seed=1)
    assert masks.shape == (samples, words)
    assert len({row.tobytes() for row in masks}) == samples
    assert masks[0].all()
    assert (masks == make_masks(words, samples, seed=1)).all()
    assert (masks != make_masks(words, samples, seed=2)).any()


def test_the_numbers_of_words_removed_are_drawn_alike() -> None:
    removed = 40 - make_masks(40, 4000, seed=0)[1:].sum(axis=1)
    counts = np.bincount(removed, minlength=41)[4:37]  # of the extremes there are few masks
    assert counts.min() > 60
    assert counts.max() < 150


@pytest.mark.parametrize("words", [3, 8, 14])
def test_masks_of_a_size_weigh_together_what_its_kernel_is(words: int) -> None:
    masks = make_masks(words, 300, seed=0)
    weights = proximity(masks)
    assert weights.sum() == pytest.approx(STRENGTH)
    kept = masks.sum(axis=1)
    per_size = np.array([weights[kept == size].sum() for size in range(words + 1)])
    distance = 100 * (1 - np.sqrt(np.arange(words + 1) / words))
    kernel = np.sqrt(np.exp(-(distance**2) / 25**2))  # as lime.lime_text writes it
    assert per_size / per_size[-1] == pytest.approx(np.where(per_size > 0, kernel, 0))


@pytest.mark.parametrize("words", [1, 2, 8, 20, 60])
def test_a_linear_score_is_found_whole(words: int) -> None:
    masks = make_masks(words, 1000, seed=0)
    true = np.random.default_rng(5).normal(size=words)
    weights, r2 = fit(masks, 0.25 + masks @ true)
    assert weights == pytest.approx(true, abs=2e-2 if words == 1 else 1e-3)
    assert r2 == pytest.approx(1, abs=1e-3)


def test_a_mask_takes_every_occurrence_and_nothing_else(bundle: Bundle) -> None:
    reading = read(bundle, "No, don't: no! 😂 ok")
    assert masked(reading, np.array([True] * 4), "#") == reading.text
    assert masked(reading, np.array([False, True, True, True]), "#") == "#, don't: #! 😂 ok"
    assert masked(reading, np.array([False] * 4), "") == ", : !  "
    assert masked(reading, np.array([True, False, False, True]), "#") == "No, #: no! # ok"


@pytest.mark.parametrize("text", ["idiot", "you clown", "they are all liars and you know they are"])
def test_a_short_text_is_explained_as_by_brute_force(bundle: Bundle, text: str) -> None:
    spoken = text.split()
    names = list(dict.fromkeys(spoken))
    masks = list(itertools.product([1, 0], repeat=len(names)))
    texts = [
        " ".join(word if mask[names.index(word)] else "[MASK]" for word in spoken) for mask in masks
    ]
    scores = bundle.score(texts).astype(np.float64).round(6)  # rounding float32 is off by 1e-6
    label = int(bundle.decide(bundle.score([text]))[0])
    found = explain(bundle, Question(text, num_features=100))[0]
    assert found.label == LABELS[label]
    assert found.exact
    assert found.scores_used == 2 ** len(names)
    assert found.scores == pytest.approx(dict(zip(LABELS, scores[0], strict=True)))

    share = np.array([
        math.sqrt(math.exp(-((100 * (1 - math.sqrt(sum(m) / len(m)))) ** 2) / 625))
        / math.comb(len(m), sum(m))
        for m in masks
    ])  # fmt: skip
    design = np.column_stack([np.ones(len(masks)), np.array(masks)])
    weights = share * STRENGTH / share.sum()
    ridge = np.diag([0.0] + [1.0] * len(names))
    gram = design.T @ (weights[:, None] * design) + ridge
    want = np.linalg.solve(gram, design.T @ (weights * scores[:, label]))[1:]
    have = {row.word.text: row.weight for row in found.weights}
    assert [have[name] for name in names] == pytest.approx(want, abs=2e-6)
    assert len(found.weights) == len(spoken)


def test_the_same_question_has_the_same_answer_to_the_last_digit(bundle: Bundle) -> None:
    first, again = explain(bundle, Question(LONG), Question(LONG))
    (restarted,) = explain(bundle, Question(LONG))
    assert first == again == restarted
    assert not first.exact
    assert first.scores_used == 1000
    (other,) = explain(bundle, Question(LONG, seed=1))
    assert other.weights != first.weights


def test_another_label_costs_no_scores_and_tweets_keep_their_place_in_the_cache(
    bundle: Bundle,
) -> None:
    async def body() -> None:
        async with running(bundle) as (engine, notes):
            explainer = Explainer()
            await engine.score(["a tweet to keep"])
            notes.rows = 0
            told = {}
            for label in LABELS:
                told[label] = await explainer.explain(engine, Question(LONG, label))
            assert notes.rows <= 1000
            assert engine.cached_texts == 1
        sums = {}
        for found in told.values():
            for row in found.weights:
                sums[row.word] = sums.get(row.word, 0) + row.weight
        named = [{row.word for row in found.weights} for found in told.values()]
        # Probabilities sum to 1, so a word's weights for all labels sum to 0.
        assert all(abs(sums[word]) < 1e-4 for word in set.intersection(*named))

    asyncio.run(body())


def test_the_heaviest_words_come_first_with_all_their_occurrences(bundle: Bundle) -> None:
    text = "clown you clown, what a Clown"
    whole, three = explain(bundle, Question(text), Question(text, num_features=3))
    sizes = [abs(row.weight) for row in whole.weights]
    assert sizes == sorted(sizes, reverse=True)
    assert three.weights == whole.weights[: len(three.weights)]
    assert len({row.word.key for row in three.weights}) == 3
    clowns = [row for row in whole.weights if row.word.key == "clown"]
    assert [row.word.begin for row in clowns] == [0, 10, 24]
    assert len({row.weight for row in clowns}) == 1


def test_a_text_without_words_has_no_weights(bundle: Bundle) -> None:
    (found,) = explain(bundle, Question("?! ..."))
    assert (found.weights, found.r2, found.scores_used, found.exact) == ((), None, 1, True)


def test_of_a_text_too_long_for_the_model_the_words_that_it_reads_are_weighed(
    bundle: Bundle,
) -> None:
    text = " ".join(f"w{at}" for at in range(2000))
    (found,) = explain(bundle, Question(text, num_features=500, num_samples=64))
    ends = [row.word.end for row in found.weights]
    assert 1 < len(ends) <= bundle.manifest.max_tokens
    whole = bundle.score([text])[0]
    assert list(found.scores.values()) == pytest.approx(whole, abs=1e-4)
    assert (bundle.score([text[: max(ends)]])[0] == whole).all()


def test_too_many_at_once_are_refused_and_the_others_are_answered(bundle: Bundle) -> None:
    async def body() -> None:
        async with running(bundle) as (engine, _):
            explainer = Explainer(at_once=1, waiting=1)
            asked = [explainer.explain(engine, Question(LONG, num_samples=50)) for _ in range(4)]
            found = await asyncio.gather(*asked, return_exceptions=True)
            refused = [one for one in found if isinstance(one, ServiceError)]
            assert [one.code for one in refused] == [ErrorCode.OVERLOADED] * 2
            assert "retry-after" in refused[0].headers
            answered = [one for one in found if isinstance(one, Explanation)]
            assert len(answered) == 2
            assert await explainer.explain(engine, Question(LONG, num_samples=50)) == answered[0]

    asyncio.run(body())


def test_who_leaves_gives_the_place_back(bundle: Bundle) -> None:
    async def body() -> None:
        async with running(bundle) as (engine, notes):
            explainer = Explainer(at_once=1, waiting=0)
            task = asyncio.create_task(explainer.explain(engine, Question(LONG, num_samples=5000)))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert notes.rows < 5000
            await explainer.explain(engine, Question("still here"))

    asyncio.run(body())


def test_lime_is_imported_by_who_asks_for_an_explanation_and_by_nobody_before() -> None:
    code = (
        "import sys, serving.app, serving.explain.explainer, serving.explain.html\n"
        "print({'lime', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "set()"
