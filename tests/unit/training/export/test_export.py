"""Which sources choose the thresholds."""

from training.config import Source
from training.export.export import threshold_weights

LABELS = {"x": ["hate"]}
SOURCES = {
    "tweets": Source(path="x.csv", labels=LABELS, weight=1.5),
    "posts": Source(path="x.csv", labels=LABELS, weight=2, thresholds=False),
}


def test_a_source_without_a_say_does_not_choose_the_thresholds() -> None:
    assert threshold_weights(SOURCES, ["tweets", "posts"]) == {"tweets": 1.5, "posts": 0}


def test_where_no_other_source_is_present_it_does() -> None:
    assert threshold_weights(SOURCES, ["posts"]) == {"posts": 2}
