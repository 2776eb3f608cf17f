import numpy as np
import pytest

from serving import bundle
from training.partial_labels import LABELS, label_classes, label_mask


def test_both_packages_know_the_same_labels_in_the_same_order() -> None:
    assert bundle.LABELS == LABELS == ("hate", "offensive", "neither")


def test_the_mask_is_true_for_allowed_labels() -> None:
    mask = label_mask([["hate"], ["neither", "offensive"]])
    assert mask.tolist() == [[True, False, False], [False, True, True]]


@pytest.mark.parametrize(
    ("scheme", "groups"),
    [
        ([["hate"], ["offensive"], ["neither"]], [{0}, {1}, {2}]),
        ([["hate"], ["offensive", "neither"]], [{0}, {1, 2}]),
        ([["neither"], ["hate", "offensive"]], [{2}, {0, 1}]),
        ([["neither"], ["offensive", "hate"], ["hate", "offensive"]], [{2}, {0, 1}]),
    ],
)
def test_a_scheme_that_partitions_the_labels_has_classes(
    scheme: list[list[str]], groups: list[set[int]]
) -> None:
    classes = label_classes(scheme)
    assert classes is not None
    partition = [set(np.flatnonzero(classes == c).tolist()) for c in np.unique(classes)]
    assert sorted(map(sorted, partition)) == sorted(map(sorted, groups))


@pytest.mark.parametrize(
    "scheme", [[["hate"], ["hate", "offensive"], ["neither"]], [["hate"], ["neither"]]]
)
def test_an_overlapping_or_incomplete_scheme_has_no_classes(scheme: list[list[str]]) -> None:
    assert label_classes(scheme) is None
