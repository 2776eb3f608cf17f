"""From probabilities to a label: one rule for the service and for the pipeline's gates.

scores [rows, labels] + thresholds -> decide -> label indices [rows]
scores of windows -> combine_windows -> scores of texts
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from serving.bundle.manifest import ATTRIBUTES, LABELS, Thresholds

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Scores(NamedTuple):
    """Calibrated probabilities of rows of texts.

    labels: [rows, LABELS], each row sums to 1.
    attributes: [rows, ATTRIBUTES], each independent.
    """

    labels: Floats
    attributes: Floats


def decide(scores: Floats, thresholds: Thresholds) -> Ints:
    """Return label indices [rows], in the order of LABELS, for probabilities [rows, labels].

        hate       p(hate) / (p(hate) + max(p(offensive), p(neither))) ≥ thresholds.hate
        offensive  otherwise, if p(hate) + p(offensive) ≥ thresholds.toxic
        neither    otherwise

    At thresholds.hate = 0.5, hate is chosen exactly where it is the likeliest label. The sum in the
    second rule serves texts that are clearly toxic while the model doubts which kind they are.
    """
    hate, others = scores[:, 0], scores[:, 1:]
    toxic = np.where(hate + others[:, 0] >= thresholds.toxic, 1, 2)
    is_hate = hate >= thresholds.hate * (hate + others.max(axis=1))
    return np.asarray(np.where(is_hate, 0, toxic), dtype=np.int64)


def scores_by_label(scores: Iterable[float]) -> dict[str, float]:
    """Return a row of probabilities [labels] as a mapping from label names."""
    return {label: float(score) for label, score in zip(LABELS, scores, strict=True)}


def scores_by_attribute(scores: Iterable[float]) -> dict[str, float]:
    """Return a row of probabilities [attributes] as a mapping from attribute names."""
    return {name: float(score) for name, score in zip(ATTRIBUTES, scores, strict=True)}


def combine_windows(scores: Scores, windows: Sequence[int]) -> Scores:
    """Return the scores of texts from those of their windows.

    A text's labels are those of its most toxic window; an attribute is the largest of all windows:
    a text is as toxic as its worst part.

    Args:
        scores: of all windows, those of one text one after another.
        windows: the number of windows of each text.
    """
    if all(count == 1 for count in windows):
        return scores
    starts = np.concatenate([[0], np.cumsum(windows)[:-1]]).astype(np.int64)
    toxicity = scores.attributes[:, 0]
    worst = [
        start + int(toxicity[start : start + count].argmax())
        for start, count in zip(starts.tolist(), windows, strict=True)
    ]
    return Scores(scores.labels[worst], np.maximum.reduceat(scores.attributes, starts, axis=0))
