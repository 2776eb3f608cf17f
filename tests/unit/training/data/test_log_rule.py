"""The rule of docs/own-data.md, line by line."""

import random
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest

from training.data.log_rule import (
    REASONS,
    Agreement,
    LogDocuments,
    LogRow,
    client_network,
    training_rows,
)

HATE, OFFENSIVE, NEITHER = (frozenset([name]) for name in ("hate", "offensive", "neither"))
# Enough clients for the share of each to be no limit; the tests of the share use the default.
ANY_SHARE = Agreement(clients=3, max_client_share=1)


def key(text: str) -> str:
    return " ".join(text.lower().split())


class Log:
    """Documents as the service stores them."""

    def __init__(self) -> None:
        self.predictions: list[dict[str, Any]] = []
        self.reviews: list[dict[str, Any]] = []
        self.feedback: list[dict[str, Any]] = []

    def predict(self, text: str | None, **more: Any) -> str:
        id_ = f"p{len(self.predictions)}"
        stored = {} if text is None else {"text": text}
        self.predictions.append({"_id": id_, **stored, **more})
        return id_

    def review(self, reviewer: str, label: str, text: str, about: str | None = None) -> None:
        about = about or self.predict(text)
        self.reviews.append(
            {"_id": f"{about}/{reviewer}", "prediction_id": about, "reviewer": reviewer,
             "label": label, "text": text, "ts": len(self.reviews)}
        )  # fmt: skip

    def say(
        self, client: str | None, label: str, text: str, about: str | None = None, **scores: float
    ) -> None:
        about = about or self.predict(text)
        self.feedback.append(
            {"_id": f"f{len(self.feedback)}", "prediction_id": about, "client": client,
             "label": label, "ts": len(self.feedback)} | ({"attributes": scores} if scores else {})
        )  # fmt: skip

    def rows(self, agreement: Agreement = ANY_SHARE) -> list[LogRow]:
        return self.resolve(agreement)[0]

    def resolve(self, agreement: Agreement = ANY_SHARE) -> tuple[list[LogRow], dict[str, Any]]:
        documents = LogDocuments(self.predictions, self.reviews, self.feedback)
        rows, counts = training_rows(documents, agreement, key)
        reviews, feedback = counts["reviews"], counts["feedback"]
        # Every document is counted once: it entered, or there is a reason.
        assert reviews["read"] == reviews["entered"] + sum(reviews["refused"].values())
        assert feedback["read"] == (
            feedback["confirmed"] + feedback["agreed"] + sum(feedback["refused"].values())
        )
        assert {*reviews["refused"], *feedback["refused"]} <= set(REASONS)
        assert sum(counts["texts"].values()) == len(rows)
        return rows, counts


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_reviewers_label_enters_as_it_is(log: Log) -> None:
    log.review("ann", "hate", "a grumbler")
    assert log.rows() == [LogRow("a grumbler", HATE, (1, 0, 0), {})]


def test_several_reviewers_are_annotator_votes(log: Log) -> None:
    one = log.predict("a grumbler")
    for reviewer, label in [("ann", "hate"), ("bob", "offensive"), ("cy", "hate")]:
        log.review(reviewer, label, "a grumbler", one)
    assert log.rows() == [LogRow("a grumbler", HATE, (2, 1, 0), {})]


def test_a_tie_between_reviewers_is_left_out_and_counted(log: Log) -> None:
    one = log.predict("a grumbler")
    log.review("ann", "hate", "a grumbler", one)
    log.review("bob", "neither", "a grumbler", one)
    for client in "xyz":
        log.say(client, "hate", "a grumbler")
    rows, counts = log.resolve()
    assert rows == []
    assert counts["reviews"]["refused"] == {"tie": 2}
    assert counts["feedback"]["refused"] == {"reviewers_tie": 3}


def test_unsure_and_skip_do_not_enter(log: Log) -> None:
    log.review("ann", "unsure", "a grumbler")
    log.review("ann", "skip", "a mumbler")
    rows, counts = log.resolve()
    assert rows == []
    assert counts["reviews"]["refused"] == {"unsure": 1, "skip": 1}


def test_reviews_that_contradict_each_other_across_predictions_are_votes(log: Log) -> None:
    log.review("ann", "hate", "A grumbler")
    log.review("bob", "neither", "a  grumbler")
    log.review("cy", "neither", "a GRUMBLER")
    assert log.rows() == [LogRow("A grumbler", NEITHER, (1, 0, 2), {})]


def test_a_reviewer_counts_once_for_a_text_with_the_newest_label(log: Log) -> None:
    log.review("ann", "hate", "a grumbler")
    log.review("ann", "neither", "a grumbler")
    rows, counts = log.resolve()
    assert rows == [LogRow("a grumbler", NEITHER, (0, 0, 1), {})]
    assert counts["reviews"]["refused"] == {"repeated": 1}


@pytest.mark.parametrize(("clients", "enter"), [(2, 0), (3, 1), (4, 1)])
def test_feedback_enters_where_enough_clients_agree(log: Log, clients: int, enter: int) -> None:
    for i in range(clients):
        log.say(f"key-{i}", "hate", "a grumbler")
    rows, counts = log.resolve()
    assert rows == [LogRow("a grumbler", HATE, (0, 0, 0), {})] * enter
    assert counts["feedback"]["agreed"] == clients * enter
    assert log.rows(replace(ANY_SHARE, clients=5)) == []


def test_a_client_counts_once_for_a_text_in_however_many_predictions(log: Log) -> None:
    for _ in range(5):
        log.say("key", "hate", "a grumbler")
    log.say("other", "hate", "a grumbler")
    rows, counts = log.resolve()
    assert rows == []
    assert counts["feedback"]["refused"] == {"repeated": 4, "too_few_clients": 2}


@pytest.mark.parametrize(
    ("addresses", "networks"),
    [
        (["10.1.2.3", "10.1.2.200", "10.1.2.9"], 1),
        (["10.1.2.3", "10.1.3.3", "10.1.4.3"], 3),
        (["2001:db8:1:1::/64", "2001:db8:1:2::/64", "2001:db8:1:ffff::/64"], 1),
        (["2001:db8:1::/64", "2001:db8:2::/64", "2001:db8:3::/64"], 3),
        (["::ffff:10.1.2.3", "10.1.2.4", "10.1.2.5%eth0"], 1),
        ([None, None, ""], 1),
        (["forum", "shop", "10.1.2.3"], 3),
    ],
)
def test_clients_of_one_network_count_as_one(
    log: Log, addresses: list[str | None], networks: int
) -> None:
    for address in addresses:
        log.say(address, "hate", "a grumbler")
    assert len({client_network(address) for address in addresses}) == networks
    assert len(log.rows()) == (networks >= 3)


def test_feedback_that_a_reviewer_confirmed_counts_as_entered_and_adds_no_vote(log: Log) -> None:
    one = log.predict("a grumbler")
    log.say("key", "hate", "a grumbler", one)
    log.say("other", "neither", "a grumbler")
    log.review("ann", "hate", "a grumbler", one)
    rows, counts = log.resolve()
    assert rows == [LogRow("a grumbler", HATE, (1, 0, 0), {})]
    assert counts["feedback"] == {
        "read": 2, "confirmed": 1, "agreed": 0, "refused": {"contradicts_reviewers": 1}
    }  # fmt: skip


def test_reviewers_outweigh_any_number_of_clients(log: Log) -> None:
    log.review("ann", "neither", "a grumbler")
    for i in range(20):
        log.say(f"key-{i}", "hate", "a grumbler")
    assert log.rows() == [LogRow("a grumbler", NEITHER, (0, 0, 1), {})]


def test_the_unsure_label_of_a_reviewer_leaves_a_text_to_the_clients(log: Log) -> None:
    log.review("ann", "unsure", "a grumbler")
    for client in "xyz":
        log.say(client, "hate", "a grumbler")
    assert [row.labels for row in log.rows()] == [HATE]


def test_clients_that_agree_on_two_labels_decide_nothing(log: Log) -> None:
    for i, label in enumerate(["hate"] * 3 + ["neither"] * 3):
        log.say(f"key-{i}", label, "a grumbler")
    rows, counts = log.resolve()
    assert rows == []
    assert counts["feedback"]["refused"] == {"clients_disagree": 6}


def test_partial_labels_of_suggestscore_enter_as_the_smallest_that_clients_agree_on(
    log: Log,
) -> None:
    toxic, harmless = "hate+offensive", "offensive+neither"
    said = {
        "a": [toxic, toxic, toxic],
        "b": ["hate", "offensive", "neither"],
        "c": ["hate", "hate", "hate", toxic, toxic, toxic],
        "d": [toxic, toxic, toxic, "neither", "neither", "neither"],  # they exclude each other
        "e": [toxic, harmless, toxic, harmless, toxic, harmless],  # neither contains the other
        "f": ["hate+offensive+neither"] * 3,
    }
    for text, labels in said.items():
        for i, label in enumerate(labels):
            log.say(f"key-{i}", label, f"the grumbler {text}")
    rows, counts = log.resolve()
    assert {row.text[-1]: row.labels for row in rows} == {"a": HATE | OFFENSIVE, "c": HATE}
    refused = {"no_label": 3, "too_few_clients": 3, "clients_disagree": 12, "outvoted": 3}
    assert counts["feedback"]["refused"] == refused


def test_one_clients_share_of_the_rows_is_capped(log: Log) -> None:
    for i in range(50):
        log.review("ann", "neither", f"harmless {i}")
    for i in range(40):
        for client in ("busy", f"key-{i}", f"other-{i}"):
            log.say(client, "hate", f"a grumbler {i}")
    rows, counts = log.resolve(Agreement())
    by_clients = len(rows) - 50
    assert by_clients == counts["texts"]["by_clients"] == 12
    assert by_clients <= 0.2 * len(rows)  # `busy` speaks for all of them
    assert counts["feedback"]["refused"] == {"client_share": 3 * (40 - by_clients)}
    assert len(log.rows()) == 90


def test_over_its_share_a_client_is_not_counted_but_others_are(log: Log) -> None:
    for i in range(40):
        for client in ("busy", *(f"{name}-{i}" for name in "abc")):
            log.say(client, "hate", f"a grumbler {i}")
    rows, counts = log.resolve(Agreement())
    assert len(rows) == 40
    assert counts["feedback"]["refused"] == {"client_share": 40 - 8}


def test_with_the_default_share_feedback_alone_needs_fifteen_clients(log: Log) -> None:
    for i in range(30):
        for j in range(3):
            log.say(f"key-{(3 * i + j) % 12}", "hate", f"a grumbler {i}")
    assert log.rows(Agreement()) == []
    others = Log()
    for i in range(30):
        for j in range(3):
            others.say(f"key-{(3 * i + j) % 15}", "hate", f"a grumbler {i}")
    assert len(others.rows(Agreement())) == 30


def test_what_was_erased_never_enters(log: Log) -> None:
    log.predict("gone", erased=True)
    log.review("ann", "hate", "a grumbler")
    log.review("ann", "hate", "gone", log.predict("gone"))
    log.predictions[-1] = {"_id": log.predictions[-1]["_id"], "erased": True}
    log.reviews.append({"_id": "r", "prediction_id": "p0", "erased": True, "ts": 9})
    log.feedback.append({"_id": "f", "prediction_id": "p0", "erased": True, "ts": 9})
    rows, counts = log.resolve()
    assert [row.text for row in rows] == ["a grumbler"]
    assert counts["reviews"]["refused"] == {"erased": 2}
    assert counts["feedback"]["refused"] == {"erased": 1}


def test_predictions_without_a_text_are_refused_and_counted(log: Log) -> None:
    for client in "xyz":
        log.say(client, "hate", "", log.predict(None, text_hash="0f"))
    log.say("x", "hate", "", "unknown")
    log.say("x", "hate", "", log.predict("@somebody ?!"))
    rows, counts = log.resolve()
    assert rows == []
    refused = counts["feedback"]["refused"]
    assert refused["text_not_stored"] == 3
    assert refused["unknown_prediction"] == 1


def test_a_text_without_words_and_a_foreign_document_are_refused(log: Log) -> None:
    log.review("ann", "hate", "  ")
    log.review("ann", "rude", "a grumbler")
    log.review("ann", "hate+offensive", "a grumbler")
    log.review(5, "hate", "a grumbler")  # type: ignore[arg-type]
    log.reviews.append({"_id": 5})
    rows, counts = log.resolve()
    assert rows == []
    assert counts["reviews"]["refused"] == {"without_words": 1, "malformed": 4}


def test_attributes_are_the_median_of_clients_on_one_side(log: Log) -> None:
    said = {
        "THREAT": (0.7, 0.8, 0.9),
        "INSULT": (0.1, 0.9, 0.8),  # two and one
        "PROFANITY": (7, 7, 7),  # no shares
        "TOXICITY": (0.9, 0.9, 0.9),  # not learned
    }
    for i in range(3):
        scores = {name: values[i] for name, values in said.items()}
        log.say(f"key-{i}", "hate+offensive", "a grumbler", **scores)
    log.say("liar", "neither", "a grumbler", THREAT=0.0)
    (row,) = log.rows()
    assert row.attributes == {"THREAT": pytest.approx(0.8)}
    log.review("ann", "hate", "a grumbler")
    (row,) = log.rows()
    assert (row.labels, row.attributes) == (HATE, {"THREAT": pytest.approx(0.8)})


def traffic(seed: int) -> Log:
    """A log with reviews, clients that mostly agree, and texts that several labelled."""
    rng = random.Random(seed)
    log = Log()
    labels = ("hate", "offensive", "neither", "hate+offensive")
    for _ in range(200):
        text = f"text {rng.randrange(60)}"
        if rng.random() < 0.3:
            log.review(rng.choice("abc"), rng.choice(labels[:3]), text)
        else:
            label = labels[hash_of(text) % 4] if rng.random() < 0.8 else rng.choice(labels)
            log.say(f"key-{rng.randrange(20)}", label, text)
    return log


def hash_of(text: str) -> int:
    return sum(map(ord, text))


@pytest.mark.parametrize("seed", range(20))
def test_a_poisoner_with_500_wrong_labels_changes_no_row(seed: int) -> None:
    log = traffic(seed)
    agreement = Agreement(clients=2)
    before = log.rows(agreement)
    assert any(not any(row.votes) for row in before)  # some are by clients
    texts = {one["_id"]: one["text"] for one in log.predictions}
    given: dict[str, set[str]] = defaultdict(set)
    for one in log.feedback:
        given[texts[one["prediction_id"]]].add(one["label"])
    for i in range(500):
        # What nobody else says of the text: with somebody else it would be agreement.
        text = f"text {i % 60}" if i % 2 else f"poison {i}"
        wrong = {"hate", "offensive", "neither", "hate+offensive"} - given[text]
        if wrong:
            log.say(f"10.6.6.{i % 256}", min(wrong), text, THREAT=1.0)
        else:
            log.say(f"10.6.6.{i % 256}", "neither", f"poison {i}")
    assert log.rows(agreement) == before


@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_documents_changes_nothing(seed: int) -> None:
    log = traffic(seed)
    before = log.resolve(Agreement(clients=2))
    for part in (log.predictions, log.reviews, log.feedback):
        random.Random(seed).shuffle(part)
    assert log.resolve(Agreement(clients=2)) == before


@pytest.mark.parametrize("seed", range(10))
def test_no_client_speaks_for_more_than_its_share(seed: int) -> None:
    log = traffic(seed)
    agreement = Agreement(clients=2, max_client_share=0.05)
    rows = log.rows(agreement)
    by_clients = {row.text for row in rows if not any(row.votes)}
    for client in {one["client"] for one in log.feedback}:
        others = Log()
        others.predictions, others.reviews = log.predictions, log.reviews
        others.feedback = [one for one in log.feedback if one["client"] != client]
        lost = by_clients - {
            row.text for row in others.rows(replace(agreement, max_client_share=1))
        }
        assert len(lost) <= 0.05 * len(rows) + 1e-9
