import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from training.evaluation.metrics import (
    MIN_OF_EACH,
    SEED,
    Ranking,
    areas,
    binary_metrics,
    bootstrap_interval,
    calibration_error,
    classification_metrics,
    f1_scores,
    identity_gap,
)
from training.partial_labels import label_mask

RNG = np.random.default_rng(1)


def sample(rows: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth = RNG.choice(3, rows, p=[0.1, 0.6, 0.3])
    scores = RNG.dirichlet([1, 1, 1], rows).astype(np.float32)
    scores[np.arange(rows), truth] += 0.5
    scores /= scores.sum(axis=1, keepdims=True)
    return scores, scores.argmax(axis=1), truth


def test_f1_equals_scikit_learn() -> None:
    scores, chosen, truth = sample()
    ours = classification_metrics(
        scores, chosen, np.eye(3, dtype=bool)[truth], np.arange(3), draws=100
    )
    assert ours["macro_f1"] == pytest.approx(f1_score(truth, chosen, average="macro"))
    assert ours["weighted_f1"] == pytest.approx(f1_score(truth, chosen, average="weighted"))
    by_class = [row["f1"] for row in ours["classes"].values()]
    assert by_class == pytest.approx(f1_score(truth, chosen, average=None))
    assert f1_scores(np.array(ours["confusion"], dtype=float))["classes"] == pytest.approx(by_class)


def test_intervals_contain_the_value_and_narrow_with_more_rows() -> None:
    widths = []
    for rows in (200, 3200):
        scores, chosen, truth = sample(rows)
        metrics = classification_metrics(
            scores, chosen, np.eye(3, dtype=bool)[truth], np.arange(3), draws=200
        )
        low, high = metrics["intervals"]["macro_f1"]
        assert low < metrics["macro_f1"] < high
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.5)


def test_an_interval_is_the_percentiles_over_resampled_rows() -> None:
    values = RNG.random(50)
    resamples = np.random.default_rng(SEED).integers(0, 50, (200, 50))
    expected = np.percentile(values[resamples].mean(axis=1), [5, 95])
    interval = bootstrap_interval(lambda rows: values[rows].mean(axis=-1), 50, 200, 0.9)
    assert interval == pytest.approx(expected)


def test_the_interval_of_a_single_row_is_its_value() -> None:
    interval = bootstrap_interval(lambda rows: np.array([4.0])[rows].mean(axis=-1), 1, 100)
    assert interval.tolist() == [4.0, 4.0]


def test_calibration_error_of_a_known_case() -> None:
    confidence = np.array([0.9] * 10 + [0.6] * 10)
    correct = np.array([True] * 9 + [False] + [True] * 3 + [False] * 7)
    assert calibration_error(confidence, correct) == pytest.approx((0.0 * 10 + 0.3 * 10) / 20)


def test_a_dataset_is_evaluated_by_its_own_classes() -> None:
    allowed = label_mask([["hate"], ["offensive", "neither"], ["offensive", "neither"], ["hate"]])
    scores = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.9, 0.05, 0.05]])
    metrics = classification_metrics(
        scores, scores.argmax(axis=1), allowed, np.array([0, 1, 1]), draws=100
    )
    assert list(metrics["classes"]) == ["hate", "offensive, neither"]
    assert metrics["macro_f1"] == pytest.approx(
        f1_score([0, 1, 1, 0], [0, 1, 0, 0], average="macro")
    )
    assert metrics["classes"]["hate"]["roc_auc"] == 1.0
    assert "roc_auc" not in metrics  # of so few rows


def test_a_dataset_of_two_classes_has_the_auc_of_the_one_with_hate() -> None:
    scores, chosen, truth = sample()
    allowed = label_mask([["neither"] if row == 2 else ["hate", "offensive"] for row in truth])
    metrics = classification_metrics(scores, chosen, allowed, np.array([0, 0, 1]), draws=100)
    toxic = scores[:, 0] + scores[:, 1]
    assert metrics["roc_auc"] == pytest.approx(roc_auc_score(truth != 2, toxic))
    low, high = metrics["intervals"]["roc_auc"]
    assert low < metrics["roc_auc"] < high


def test_the_areas_under_the_curves_equal_scikit_learn_on_each_resample() -> None:
    truth = RNG.random(200) < 0.2
    scores = (RNG.random(200) + 0.4 * truth).round(1)  # many ties
    drawn = RNG.integers(0, 200, (5, 200))
    roc, precisions = areas(Ranking(scores, truth), drawn)
    assert roc == pytest.approx([roc_auc_score(truth[rows], scores[rows]) for rows in drawn])
    assert precisions == pytest.approx(
        [average_precision_score(truth[rows], scores[rows]) for rows in drawn]
    )
    nothing = areas(Ranking(scores, np.zeros(200, bool)), drawn)
    assert not np.any(nothing)


def test_a_yes_or_no_question_of_a_known_case() -> None:
    truth = np.array([True] * 20 + [False] * 80)
    scores = np.where(truth, 0.8, 0.1)
    scores[:4], scores[20:24] = 0.1, 0.8
    metrics = binary_metrics(Ranking(scores, truth), draws=200)
    assert (metrics["rows"], metrics["positives"]) == (100, 20)
    assert metrics["f1"] == pytest.approx(0.8)
    assert metrics["ece"] == pytest.approx((abs(16 - 20 * 0.8) + abs(4 - 80 * 0.1)) / 100)
    assert metrics["roc_auc"] == pytest.approx(roc_auc_score(truth, scores))
    assert set(metrics["intervals"]) == {"f1", "ece", "roc_auc", "average_precision"}
    assert "intervals" not in binary_metrics(Ranking(scores, truth), draws=0)
    few = np.arange(100) < MIN_OF_EACH - 1
    assert "roc_auc" not in binary_metrics(Ranking(scores, few), draws=100)


def test_the_identity_gap_shows_a_biased_model() -> None:
    texts = [f"the weather is nice {i}" for i in range(50)] + [
        f"I met a Muslim friend {i}" for i in range(50)
    ]
    allowed = label_mask([["neither"]] * 100)
    chosen = np.array([2] * 50 + [0] * 25 + [2] * 25)
    gap = identity_gap(texts, chosen, allowed, draws=100)
    assert gap["gap"] == pytest.approx(0.5)
    low, high = gap["intervals"]["gap"]
    assert 0.3 < low < 0.5 < high < 0.7
    assert gap["groups"] == {"muslims": {"rows": 50, "false_positive_rate": 0.5}}
