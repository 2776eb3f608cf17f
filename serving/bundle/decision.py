"""From probabilities to a label: one rule for the service and for the pipeline's gates.

scores [rows, labels] + thresholds -> decide -> label indices [rows]
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from serving.bundle.manifest import LABELS, Thresholds

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


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
