"""The rule of the review queue: what comes first, for whom, and how far reviewers agree."""

import random
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from serving.review.queue import (
    LABELS,
    MAX_FEEDBACK_OF_CLIENT,
    VERDICTS,
    Agreement,
    Item,
    Lease,
    Review,
    Snapshot,
    agreement,
    contradicting,
    has_second_reviewer,
    margin,
    rank,
    reason_for,
)

SECOND = next(f"{i:032x}" for i in range(1000) if has_second_reviewer(f"{i:032x}", 0.1))


def item(
    id_: str, *, ts: int = 100, label: str = "neither", action: str = "allow", gap: float = 1
) -> Item:
    return Item(id_, ts, label, action, gap)


def review(id_: str, reviewer: str, label: str, ts: int = 0) -> Review:
    return Review(id_, reviewer, label, ts, "action", 100)


def ranked(
    items: list[Item], reviews: list[Review] | None = None, reviewer: str = "ann", **more: Any
) -> list[tuple[str, str]]:
    snapshot = Snapshot({each.id: each for each in items}, reviews=reviews or [], **more)
    return rank(snapshot, reviewer, 0, 0.1)


def test_the_classes_come_in_their_order_whatever_their_age() -> None:
    items = [
        item("margin", ts=600, gap=0.1),
        item("action", ts=500, action="review"),
        item(SECOND, ts=400),
        item("feedback", ts=300),
        item("disagreement", ts=200),
        item("certain", ts=700),
    ]
    reviews = [
        review(SECOND, "bob", "hate"),
        review("disagreement", "bob", "hate"),
        review("disagreement", "cat", "neither"),
    ]
    assert ranked(items, reviews, contradicted={"feedback"}) == [
        ("disagreement", "disagreement"),
        ("feedback", "feedback"),
        (SECOND, "second"),
        ("action", "action"),
        ("margin", "margin"),
    ]


def test_inside_of_a_class_the_newest_is_first_and_of_margins_the_smallest() -> None:
    items = [item("a", ts=1, action="review"), item("b", ts=2, action="review")]
    items += [item("c", ts=9, gap=0.19), item("d", ts=8, gap=0.05), item("e", ts=9, gap=0.05)]
    assert [id_ for id_, _ in ranked(items)] == ["b", "a", "e", "d", "c"]


def test_what_is_leased_or_older_than_the_window_does_not_wait() -> None:
    items = [
        item("old", ts=9, action="review"),
        item("leased", action="review"),
        item("free", gap=0),
    ]
    snapshot = Snapshot(
        {each.id: each for each in items}, leases={"leased": Lease("leased", "bob", 1, "action")}
    )
    assert rank(snapshot, "ann", 10, 0.1) == [("free", "margin")]


@pytest.mark.parametrize("verdict", VERDICTS)
def test_nobody_gets_an_item_twice_and_a_skip_hides_it_from_one_reviewer_only(verdict: str) -> None:
    items, reviews = [item("a", action="review")], [review("a", "ann", verdict)]
    assert ranked(items, reviews, "ann") == []
    assert ranked(items, reviews, "bob") == ([("a", "action")] if verdict == "skip" else [])


def test_of_two_labels_a_third_reviewer_decides_and_nobody_after() -> None:
    reviews = [review("a", "ann", "hate"), review("a", "bob", "neither")]
    assert ranked([], reviews, "cat") == [("a", "disagreement")]
    assert ranked([], reviews, "bob") == []
    assert ranked([], [*reviews, review("a", "cat", "unsure")], "dan") == [("a", "disagreement")]
    assert ranked([], [*reviews, review("a", "cat", "hate")], "dan") == []
    assert ranked([], [*reviews, review("a", "cat", "offensive")], "dan") == []


def test_two_reviewers_who_agree_are_enough() -> None:
    assert ranked([], [review(SECOND, "ann", "hate"), review(SECOND, "bob", "hate")], "cat") == []


def test_a_share_by_the_hash_of_the_id_goes_to_a_second_reviewer() -> None:
    ids = [f"{i:032x}" for i in range(2000)]
    chosen = {id_ for id_ in ids if has_second_reviewer(id_, 0.1)}
    assert 150 < len(chosen) < 250
    assert not any(has_second_reviewer(id_, 0) for id_ in ids)
    assert all(has_second_reviewer(id_, 1) for id_ in ids)
    waiting = ranked([], [review(id_, "bob", "neither") for id_ in ids])
    assert {id_ for id_, reason in waiting if reason == "second"} == chosen
    # There is no label to compare with.
    assert ranked([], [review(SECOND, "bob", "unsure")]) == []


def test_reviewed_feedback_and_actions_do_not_come_again() -> None:
    for label in ("hate", "unsure"):
        reason = reason_for(
            item("a", action="review", gap=0),
            [review("a", "bob", label)],
            "ann",
            contradicted=True,
            second_share=0,
        )
        assert reason is None


def test_feedback_counts_only_where_it_contradicts_and_one_client_only_so_often() -> None:
    items = {f"p{i}": item(f"p{i}") for i in range(200)}
    flood = [(f"p{i}", "hate", "flood") for i in range(100)]
    others = [("p150", "hate", "a"), ("p151", "neither", "b"), ("unknown", "hate", "c")]
    found = contradicting([*flood, *others], items, [])
    assert len(found) == MAX_FEEDBACK_OF_CLIENT + 1
    assert found & {"p150", "p151", "unknown"} == {"p150"}


def test_several_labels_contradict_only_what_is_none_of_them() -> None:
    items = {label: item(label, label=label) for label in ("hate", "offensive", "neither")}
    feedback = [(label, "hate+offensive", "perspective") for label in items]
    assert contradicting(feedback, items, []) == {"neither"}


def test_what_is_reviewed_makes_room_for_a_clients_older_feedback() -> None:
    items = {f"p{i}": item(f"p{i}") for i in range(200)}
    feedback = [(f"p{i}", "hate", "a") for i in range(200)]
    reviews = [Review(f"p{i}", "ann", "skip" if i else "hate", 1, "feedback", 0) for i in range(2)]
    found = contradicting(feedback, items, reviews)
    assert found == {f"p{i}" for i in range(1, MAX_FEEDBACK_OF_CLIENT + 1)}


def test_the_margin_is_between_the_two_best_labels() -> None:
    assert margin({"hate": 0.5, "offensive": 0.1, "neither": 0.4}) == pytest.approx(0.1)


def test_kappa_of_two_reviewers_is_that_of_the_textbook() -> None:
    rng = random.Random(3)
    for disagreement in (0.1, 0.5, 0.9):
        first = rng.choices(LABELS, weights=(1, 2, 5), k=60)
        second = [rng.choice(LABELS) if rng.random() < disagreement else each for each in first]
        reviews = [
            review(str(i), name, label)
            for i, labels in enumerate(zip(first, second, strict=True))
            for name, label in zip(("ann", "bob"), labels, strict=True)
        ]
        rng.shuffle(reviews)
        found = agreement(reviews)
        assert found.pairs == 60
        assert found.kappa == pytest.approx(cohen_kappa_score(first, second))


def test_three_reviewers_make_three_pairs_and_what_is_no_label_none() -> None:
    reviews = [review("a", name, "hate") for name in ("ann", "bob", "cat")]
    reviews += [review("b", "ann", "hate"), review("b", "bob", "neither")]
    reviews += [review("c", "ann", "unsure"), review("c", "bob", "hate")]
    reviews += [review("d", "ann", "skip"), review("d", "bob", "hate")]
    expected = cohen_kappa_score(["hate"] * 4, ["hate"] * 3 + ["neither"])
    assert agreement(reviews) == Agreement(pytest.approx(expected), 4)


def test_kappa_is_missing_below_two_pairs_and_where_it_is_not_defined() -> None:
    one = [review("a", "ann", "hate"), review("a", "bob", "hate")]
    assert agreement([]) == Agreement(None, 0)
    assert agreement(one) == Agreement(None, 1)
    same = [*one, review("b", "ann", "hate"), review("b", "bob", "hate")]
    assert agreement(same) == Agreement(None, 2)
