"""From probabilities to a label: one rule, for the service and for the pipeline's gates.

scores [rows, labels] + thresholds -> decide -> label indices [rows]
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from serving.bundle.manifest import LABELS, Thresholds

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def decide(scores: Floats, thresholds: Thresholds) -> Ints:
    """Return label indices [rows] of probabilities [rows, labels].

    A text is hate where, of p(hate) and the likelier of the other two together, `hate` or more is
    p(hate); at 0.5 it is then the likeliest label. Else it is offensive where p(hate) +
    p(offensive) ≥ `toxic` (doubt between the two is no doubt that it is one of them), else neither.
    """
    hate, others = scores[:, 0], scores[:, 1:]
    toxic = np.where(hate + others[:, 0] >= thresholds.toxic, 1, 2)
    is_hate = hate >= thresholds.hate * (hate + others.max(axis=1))
    return np.asarray(np.where(is_hate, 0, toxic), dtype=np.int64)


def named(scores: Iterable[float]) -> dict[str, float]:
    """Return one row of probabilities by label name."""
    return {label: float(score) for label, score in zip(LABELS, scores, strict=True)}
