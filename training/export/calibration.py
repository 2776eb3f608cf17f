"""What is fitted on validation data after training: temperature, thresholds and the attributes'
calibrations.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar

from serving.bundle import Calibration, Thresholds, decide
from training.partial_labels import balanced_macro_f1, macro_f1_by_source

# Of the softmax over the grid in `choose_thresholds`, in macro-F1: a smaller difference on
# validation says little about other rows. docs/experiments.md has the measurement.
THRESHOLD_SOFTMAX_TEMPERATURE = 0.003


def fit_temperature(probabilities: npt.NDArray[Any], allowed: npt.NDArray[np.bool_]) -> float:
    """Return the temperature that maximises the likelihood of single-label rows (Guo et al. 2017).

    Args:
        probabilities: [rows, labels] at temperature 1.
        allowed: [rows, labels] partial labels.
    """
    single = allowed.sum(axis=1) == 1
    log_p, truth = np.log(np.maximum(probabilities[single], 1e-12)), allowed[single]

    def loss(log_temperature: float) -> float:
        scaled = log_p / np.exp(log_temperature)
        return float((np.logaddexp.reduce(scaled, axis=1) - scaled[truth]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x))


def fit_calibration(logits: npt.NDArray[Any], shares: npt.NDArray[Any]) -> Calibration:
    """Return the calibration of an attribute that maximises its likelihood (Platt 1999).

    Without rows of both kinds there is nothing to fit, and the logit stays as it is.

    Args:
        logits: [rows].
        shares: [rows], the share of raters who saw the attribute; NaN: unknown.
    """
    known = ~np.isnan(shares)
    x, target = logits[known].astype(np.float64), shares[known]
    if not (target >= 0.5).any() or (target >= 0.5).all():
        return Calibration(scale=1.0, bias=0.0)

    def loss(parameters: npt.NDArray[np.float64]) -> float:
        z = np.exp(parameters[0]) * x + parameters[1]
        return float((np.logaddexp(0, z) - target * z).mean())

    log_scale, bias = minimize(loss, np.zeros(2), bounds=[(-2, 2), (-10, 10)]).x
    return Calibration(scale=float(np.exp(log_scale)), bias=float(bias))


def choose_thresholds(
    scores: npt.NDArray[np.float32],
    allowed: npt.NDArray[np.bool_],
    source: npt.NDArray[Any],
    classes: dict[str, npt.NDArray[np.int64]],
    weights: Mapping[str, float],
) -> Thresholds:
    """Return the thresholds with a high balanced macro-F1 over all sources.

    They are the mean over a grid, weighted by a softmax of the balanced macro-F1: the best point of
    the grid alone depends mostly on chance.

    Args:
        scores: [rows, labels] calibrated probabilities.
        allowed: [rows, labels] partial labels.
        source: [rows] names.
        classes: by source name, [labels] the class of each label.
        weights: by source name; see `balanced_macro_f1`.
    """

    def quality(thresholds: Thresholds) -> float:
        chosen = decide(scores, thresholds)
        by_source = macro_f1_by_source(chosen, allowed, source, classes)
        return balanced_macro_f1(by_source, source, classes, weights)

    hates, toxics = np.arange(0.1, 0.71, 0.02), np.arange(0.3, 0.81, 0.05)
    grid = np.stack(np.meshgrid(hates, toxics), axis=-1).reshape(-1, 2).round(2)
    qualities = np.array([quality(Thresholds(hate=hate, toxic=toxic)) for hate, toxic in grid])
    hate, toxic = np.average(
        grid, axis=0, weights=np.exp((qualities - qualities.max()) / THRESHOLD_SOFTMAX_TEMPERATURE)
    )
    return Thresholds(hate=round(float(hate), 2), toxic=round(float(toxic), 2))
