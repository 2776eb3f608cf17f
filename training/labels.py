"""The labels, their order, and label sets: the labels that a row's annotation allows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score

if TYPE_CHECKING:
    from training.config import Source

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


def classes_by_source(
    sources: "Mapping[str, Source]", present: Iterable[str]
) -> dict[str, npt.NDArray[np.int64]]:
    """Return `label_classes` of the sources that are present and can be judged, in their order."""
    names = set(present)
    found = {
        name: label_classes(source.labels.values())
        for name, source in sources.items()
        if name in names
    }
    return {name: class_of for name, class_of in found.items() if class_of is not None}


def macro_f1_by_source(
    chosen: npt.NDArray[np.int64],
    allowed: npt.NDArray[np.bool_],
    source: npt.NDArray[np.object_],
    classes: Mapping[str, npt.NDArray[np.int64]],
) -> dict[str, float]:
    """Return each source's macro-F1 over its own classes.

    Args:
        chosen: [rows] label indices.
        allowed: [rows, labels] label sets.
        source: [rows] names.
        classes: by source name, [labels] the class of each label.
    """
    scores = {}
    for name, class_of in classes.items():
        rows = source == name
        truth = class_of[allowed[rows].argmax(axis=1)]
        scores[name] = float(f1_score(truth, class_of[chosen[rows]], average="macro"))
    return scores


def balanced_macro_f1(
    scores: Mapping[str, float],
    source: npt.NDArray[np.object_],
    classes: Mapping[str, npt.NDArray[np.int64]],
) -> float:
    """Return the mean of `macro_f1_by_source`, weighted by the root of the rows times the bounds.

    The root, so that a large corpus does not drown the others, and a handful of rows, whose
    macro-F1 is mostly luck, decides nothing. The bounds between classes, because a corpus that
    tells three of them apart says where two bounds lie.
    """
    weights = [np.sqrt((source == name).sum()) * classes[name].max() for name in scores]
    return float(np.average(list(scores.values()), weights=weights))
