from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from serving.bundle import Thresholds, decide
from training.export.calibration import choose_thresholds, fit_calibration, fit_temperature
from training.partial_labels import balanced_macro_f1

RNG = np.random.default_rng(2)
ONE: dict[str, float] = defaultdict(lambda: 1.0)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_generated_labels_is_recovered(temperature: float) -> None:
    logits = RNG.normal(0, 3, (20_000, 3))
    truth = (softmax(logits / temperature).cumsum(axis=1) < RNG.random((20_000, 1))).sum(axis=1)
    allowed = np.eye(3, dtype=bool)[truth]
    assert fit_temperature(softmax(logits), allowed) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize(("scale", "bias"), [(0.5, -1.0), (1.0, 0.0), (2.0, 3.0)])
def test_the_calibration_of_generated_shares_is_recovered(scale: float, bias: float) -> None:
    logits = RNG.normal(0, 2, 20_000)
    probabilities = 1 / (1 + np.exp(-(scale * logits + bias)))
    shares = RNG.binomial(5, probabilities) / 5  # of five raters
    shares[::3] = np.nan
    fitted = fit_calibration(logits, shares)
    assert fitted.scale == pytest.approx(scale, rel=0.05)
    assert fitted.bias == pytest.approx(bias, abs=0.1)


@pytest.mark.parametrize("shares", [[], [0.0, 0.2], [1.0, 0.6], [np.nan, 1.0]])
def test_without_rows_of_both_kinds_a_logit_stays_as_it_is(shares: list[float]) -> None:
    fitted = fit_calibration(np.ones(len(shares)), np.array(shares))
    assert (fitted.scale, fitted.bias) == (1, 0)


def test_thresholds_beat_one_half_where_the_scores_are_shifted() -> None:
    truth = RNG.integers(0, 3, 600)
    logits = RNG.normal(0, 0.7, (600, 3)) + 2 * np.eye(3)[truth] - np.array([1.5, 0, 0])
    scores = softmax(logits).astype(np.float32)
    allowed = np.eye(3, dtype=bool)[truth]
    thresholds = choose_thresholds(
        scores, allowed, np.array(["own"] * 600), {"own": np.arange(3)}, ONE
    )
    halves = Thresholds(hate=0.5, toxic=0.5)
    assert (decide(scores, thresholds) == truth).mean() > (decide(scores, halves) == truth).mean()
    assert thresholds.hate < 0.5


def test_a_few_rows_do_not_move_the_thresholds() -> None:
    truth = RNG.integers(0, 3, 8000)
    scores = softmax(RNG.normal(0, 1, (8000, 3)) + np.eye(3)[truth]).astype(np.float32)
    allowed, classes = np.eye(3, dtype=bool)[truth], {"big": np.arange(3), "tiny": np.arange(3)}
    source = np.array(["big"] * 7995 + ["tiny"] * 5)
    allowed[7995:] = [True, False, False]  # five rows, all of them hate
    thresholds = choose_thresholds(scores, allowed, source, classes, ONE)
    alone = choose_thresholds(
        scores[:7995], allowed[:7995], source[:7995], {"big": np.arange(3)}, ONE
    )
    assert abs(thresholds.hate - alone.hate) <= 0.1


def test_a_single_peak_does_not_decide_the_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = []

    def quality(chosen: Any, *_: object) -> dict[str, float]:
        peaks.append(chosen == (0.6, 0.4))
        hate, _toxic = chosen
        return {"own": 1.002 if peaks[-1] else 1.0 if 0.19 < hate < 0.41 else 0.9}

    monkeypatch.setattr("training.export.calibration.decide", lambda _, t: (t.hate, t.toxic))
    monkeypatch.setattr("training.export.calibration.macro_f1_by_source", quality)
    monkeypatch.setattr(
        "training.export.calibration.balanced_macro_f1", lambda scores, *_: scores["own"]
    )
    thresholds = choose_thresholds(np.empty((0, 3)), np.empty((0, 3)), np.empty(0), {}, ONE)
    assert sum(peaks) == 1
    assert thresholds.hate == pytest.approx(0.3, abs=0.015)
    assert thresholds.toxic == pytest.approx(0.55, abs=0.01)


def test_a_large_source_does_not_outweigh_a_small_one() -> None:
    scores = {"large": 0.9, "small": 0.5}
    source = np.array(["large"] * 10_000 + ["small"] * 2500)
    two_classes = dict.fromkeys(scores, np.array([0, 0, 1]))
    assert balanced_macro_f1(scores, source, two_classes, ONE) == pytest.approx((2 * 0.9 + 0.5) / 3)
    three_classes = two_classes | {"small": np.arange(3)}
    assert balanced_macro_f1(scores, source, three_classes, ONE) == pytest.approx((0.9 + 0.5) / 2)
