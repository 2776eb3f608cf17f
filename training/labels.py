"""The labels, their order, and label sets: the labels that a row's annotation allows."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

LABELS = ("hate", "offensive", "neither")
HATE, OFFENSIVE, NEITHER = range(len(LABELS))


def label_mask(label_sets: Iterable[Sequence[str]]) -> npt.NDArray[np.bool_]:
    """Return a [rows, labels] mask that is true where a row's label set allows the label."""
    return np.array([[label in allowed for label in LABELS] for allowed in label_sets], dtype=bool)


def label_classes(label_sets: Iterable[Sequence[str]]) -> npt.NDArray[np.int64] | None:
    """Return, for each of our labels, the class of a scheme that it belongs to, or None.

    A scheme whose sets partition the labels (HatEval: hate | offensive, neither) can be judged by
    its own classes; None means that its sets overlap or leave a label out.
    """
    distinct = sorted({tuple(sorted(labels, key=LABELS.index)) for labels in label_sets})
    if sorted(label for labels in distinct for label in labels) != sorted(LABELS):
        return None
    return np.array([next(i for i, s in enumerate(distinct) if label in s) for label in LABELS])
