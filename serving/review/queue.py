"""The rule of the review queue: what comes first, for whom, and how far reviewers agree.

    Snapshot (of a store)  ->  rank  ->  (prediction id, reason), the most urgent first

With a fixed probability the next item does not come from `rank` but is drawn uniformly from all
predictions of the window (`serving.review.service`): only those reviews say how good the model is
on real traffic. This module does no I/O and knows no store. Times are milliseconds since 1970.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple, get_args

Label = Literal["hate", "offensive", "neither"]
Verdict = Literal["hate", "offensive", "neither", "unsure", "skip"]
Reason = Literal["random", "disagreement", "feedback", "second", "action", "margin"]
LABELS: tuple[Label, ...] = get_args(Label)
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
REASONS: tuple[Reason, ...] = get_args(Reason)
PRIORITY: tuple[Reason, ...] = ("disagreement", "feedback", "second", "action", "margin")
SMALL_MARGIN = 0.2  # between the two best labels' scores
MAX_READ = 5_000  # predictions that one look at the queue reads, the newest of the window
MAX_FEEDBACK = 1_000  # feedback that it reads at one time, the newest too
# Of one client: somebody who sends feedback on everything must not fill the queue.
MAX_FEEDBACK_OF_CLIENT = 50
MAX_REVIEWS = 2_000  # the newest, for second reviews and for the agreement


class Item(NamedTuple):
    """What the rule knows of a prediction; `margin` is between the two best labels' scores."""

    id: str
    ts: int
    label: str
    action: str
    margin: float


class Review(NamedTuple):
    """What the rule knows of a review."""

    prediction_id: str
    reviewer: str
    label: str
    ts: int
    reason: str
    prediction_ts: int


class Lease(NamedTuple):
    """An item that one reviewer has until a time; `weight` is set where `reason` is `random`."""

    prediction_id: str
    reviewer: str
    until: int
    reason: Reason
    weight: float | None = None


class Agreement(NamedTuple):
    """Cohen's kappa of reviewers over `pairs` of labels; None where it is not defined."""

    kappa: float | None
    pairs: int


@dataclass(slots=True)
class Snapshot:
    """What a store holds, as far as the rule has to know.

    items: predictions of the window that have a text and may need a review, by id.
    contradicted: ids of those whose label somebody's feedback contradicts.
    reviews: all of `items`, and the newest.
    leases: that have not run out, by prediction id.
    """

    items: dict[str, Item] = field(default_factory=dict)
    contradicted: Collection[str] = ()
    reviews: Sequence[Review] = ()
    leases: dict[str, Lease] = field(default_factory=dict)


def margin(scores: Mapping[str, float]) -> float:
    """Return the difference between the two largest scores."""
    first, second = sorted(scores.values(), reverse=True)[:2]
    return first - second


def has_second_reviewer(prediction_id: str, share: float) -> bool:
    """Return whether a prediction is among the share that two people review on purpose."""
    digest = hashlib.sha256(prediction_id.encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def reason_for(
    item: Item, reviews: Iterable[Review], reviewer: str, *, contradicted: bool, second_share: float
) -> Reason | None:
    """Return why a reviewer should see a prediction; None if there is no need.

    Args:
        item: the prediction.
        reviews: all that it has.
        reviewer: a name; a review of it, a skip too, is reason enough not to ask again.
        contradicted: whether somebody's feedback contradicts the prediction.
        second_share: of the reviewed predictions that get a second reviewer.
    """
    verdicts = {review.reviewer: review.label for review in reviews}
    if reviewer in verdicts:
        return None
    answers = [label for label in verdicts.values() if label != "skip"]
    labels = [label for label in answers if label in LABELS]
    if len(labels) == 2 and labels[0] != labels[1]:
        return "disagreement"
    if not answers:
        if contradicted:
            return "feedback"
        if item.action == "review":
            return "action"
        return "margin" if item.margin < SMALL_MARGIN else None
    is_second = len(answers) == len(labels) == 1 and has_second_reviewer(item.id, second_share)
    return "second" if is_second else None


def rank(
    snapshot: Snapshot, reviewer: str, since: int, second_share: float
) -> list[tuple[str, Reason]]:
    """Return what waits for a reviewer, the most urgent first, without what is leased.

    Args:
        snapshot: of the store.
        reviewer: for whom.
        since: beginning of the window.
        second_share: see `reason_for`.
    """
    reviews = defaultdict(list)
    for review in snapshot.reviews:
        reviews[review.prediction_id].append(review)
    items = dict(snapshot.items)
    for id_, given in reviews.items():
        # For what has a review already, its time is all that the rule needs.
        items.setdefault(id_, Item(id_, given[0].prediction_ts, "", "", math.inf))
    waiting = []
    for item in items.values():
        if item.ts < since or item.id in snapshot.leases:
            continue
        reason = reason_for(
            item,
            reviews[item.id],
            reviewer,
            contradicted=item.id in snapshot.contradicted,
            second_share=second_share,
        )
        if reason:
            waiting.append((item, reason))
    waiting.sort(key=_urgency)
    return [(item.id, reason) for item, reason in waiting[:MAX_READ]]


def _urgency(candidate: tuple[Item, Reason]) -> tuple[int, float, int, str]:
    item, reason = candidate
    closeness = item.margin if reason == "margin" else 0.0
    return PRIORITY.index(reason), closeness, -item.ts, item.id


def contradicting(
    feedback: Iterable[tuple[str, str, str]],
    items: Mapping[str, Item],
    reviews: Iterable[Review],
) -> set[str]:
    """Return the ids of predictions that feedback contradicts and nobody has reviewed.

    Args:
        feedback: (prediction id, label, client), the newest first; a label may be several, joined
            by "+", of which one is right. Of one client only the first MAX_FEEDBACK_OF_CLIENT
            contradictions count, so that they are the next ones once these are reviewed.
        items: the predictions that it is about, by id.
        reviews: all that these have.
    """
    reviewed = {review.prediction_id for review in reviews if review.label != "skip"}
    found = set()
    of_client: Counter[str] = Counter()
    for id_, label, client in feedback:
        if id_ in items and id_ not in reviewed and items[id_].label not in label.split("+"):
            of_client[client] += 1
            if of_client[client] <= MAX_FEEDBACK_OF_CLIENT:
                found.add(id_)
    return found


def agreement(reviews: Iterable[Review]) -> Agreement:
    """Return Cohen's kappa over all pairs of two reviewers' labels of one prediction.

    `unsure` and `skip` are no labels. The first of a pair is the reviewer whose name sorts first,
    so that two reviewers have the kappa of the textbook. It is None for fewer than two pairs, and
    where both give one label to everything.

    Cohen, "A coefficient of agreement for nominal scales", 1960.
    """
    labels: dict[str, dict[str, str]] = defaultdict(dict)
    for review in reviews:
        if review.label in LABELS:
            labels[review.prediction_id][review.reviewer] = review.label
    pairs = [
        (given[first], given[second])
        for given in labels.values()
        for first, second in combinations(sorted(given), 2)
    ]
    if len(pairs) < 2:
        return Agreement(None, len(pairs))
    observed = sum(first == second for first, second in pairs) / len(pairs)
    firsts, seconds = (Counter(side) for side in zip(*pairs, strict=True))
    by_chance = sum(firsts[label] * seconds[label] for label in LABELS) / len(pairs) ** 2
    if by_chance == 1:
        return Agreement(None, len(pairs))
    return Agreement((observed - by_chance) / (1 - by_chance), len(pairs))
