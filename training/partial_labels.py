"""The labels, their order, and partial labels: the set of labels that an annotation allows.

A dataset that says only "not hate" gives its rows the partial label {offensive, neither}.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score

if TYPE_CHECKING:
    from training.config import Source

LABELS = ("hate", "offensive", "neither")
HATE, OFFENSIVE, NEITHER = range(len(LABELS))
# What the model learns beside the labels; the order of the classifier's last columns.
LEARNED_ATTRIBUTES = ("SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT")


def label_mask(partial_labels: Iterable[Sequence[str]]) -> npt.NDArray[np.bool_]:
    """Return a [rows, labels] mask: true where the row's partial label has the label."""
    return np.array(
        [[label in allowed for label in LABELS] for allowed in partial_labels], dtype=bool
    )


def label_classes(partial_labels: Iterable[Sequence[str]]) -> npt.NDArray[np.int64] | None:
    """Return the class of each of our labels in a dataset's scheme; None if it has no classes.

    A scheme whose partial labels partition the labels (HatEval: hate | offensive, neither) can be
    evaluated by its own classes; None means that they overlap or leave a label out.
    """
    distinct = sorted({tuple(sorted(labels, key=LABELS.index)) for labels in partial_labels})
    if sorted(label for labels in distinct for label in labels) != sorted(LABELS):
        return None
    return np.array([next(i for i, s in enumerate(distinct) if label in s) for label in LABELS])


def classes_by_source(
    sources: "Mapping[str, Source]", present: Iterable[str]
) -> dict[str, npt.NDArray[np.int64]]:
    """Return `label_classes` of the present sources that have classes, in their order."""
    names = set(present)
    classes = {
        name: label_classes(source.partial_labels)
        for name, source in sources.items()
        if name in names
    }
    return {name: class_of for name, class_of in classes.items() if class_of is not None}


def macro_f1_by_source(
    chosen: npt.NDArray[np.int64],
    allowed: npt.NDArray[np.bool_],
    source: npt.NDArray[np.object_],
    classes: Mapping[str, npt.NDArray[np.int64]],
) -> dict[str, float]:
    """Return each source's macro-F1 over its own classes.

    Args:
        chosen: [rows] label indices.
        allowed: [rows, labels] partial labels.
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
    weights: Mapping[str, float],
) -> float:
    """Return the mean of `macro_f1_by_source`, weighted by √rows times the bounds between classes,
    and by the weight of each source.

    With the square root a large source does not outweigh the others, and a small one, whose
    macro-F1 is mostly chance, has little influence. The number of bounds between classes counts,
    because a source with three classes informs two bounds.
    """
    shares = [
        np.sqrt((source == name).sum()) * classes[name].max() * weights[name] for name in scores
    ]
    return float(np.average(list(scores.values()), weights=shares))
