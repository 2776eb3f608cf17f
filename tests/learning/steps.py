"""The steps of the circle, in their order; each returns its figures, and asserts what must hold."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pymongo import MongoClient

from serving.prediction_log.records import Document
from tests.chaos.service import texts_in
from tests.learning.checkout import Checkout
from tests.learning.people import POISONER, USERS, People
from tests.learning.texts import COINED, HARMLESS, NEW, NEW_HARMLESS, NOUNS, Writer
from tests.support.mongodb import MongoServer
from tests.support.service import ROOT, START_SECONDS, Served

DATABASE, WITHOUT_POISON = "tweet_tagger", "without_poison"
QUIET, ORDINARY, WAVE = 300, 150, 450  # texts: of the reference, after it, and of the wave
NEW_TEXTS = 150
COMPLAINTS, POISONED = 60, 500  # texts that users complain of; wrong labels
REVIEWS = 240
# Of the shares of new harmless sentences called offensive or hate. A model of one layer knows a new
# word by a few word pieces.
MAX_RISE = {"ordinary": 0.1, "harmless new words": 0.25}
TOXIC = {"hate", "offensive"}
FLOOR = re.compile(r'tagger_estimated_precision\{bound="high",label="(\w+)"\}\) < ([0-9.]+)')
DRIFT = 3  # exit status of `tweet-tagger drift`


@dataclass
class Circle:
    """What the steps work with, and what one leaves for another."""

    checkout: Checkout
    mongo: MongoServer
    folder: Path
    settings: dict[str, str]
    writer: Writer
    people: People = None  # type: ignore[assignment]  # from the second step on
    service: Served | None = None
    coined: list[str] = field(default_factory=list)
    ordinary: list[str] = field(default_factory=list)
    new: dict[str, list[str]] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)

    def shares(self) -> dict[str, float]:
        """The shares of the new sentences that the model calls offensive or hate, by noun."""
        return {name: toxic(self.people.labels(texts)) for name, texts in self.new.items()}


def toxic(labels: Sequence[str]) -> float:
    """Return the share of labels that are offensive or hate."""
    return sum(label in TOXIC for label in labels) / len(labels)


def first_model(circle: Circle) -> str:
    """A model of the team's own data is trained, passes the gates, and is served."""
    circle.checkout.must("training.pipeline", "--profile", "sample")
    gates = circle.checkout.must("training.release.promote")
    circle.service = Served(circle.checkout.production, circle.folder, **circle.settings)
    circle.people = People(circle.service)
    version = manifest(circle.checkout.production)["version"]
    assert circle.people.version() == version
    circle.new = {
        COINED: circle.writer.write(NEW_TEXTS, [COINED], NEW),
        "ordinary": circle.writer.write(NEW_TEXTS, NOUNS, NEW),
        "harmless new words": circle.writer.write(NEW_TEXTS, NEW_HARMLESS, NEW),
    }
    circle.before = circle.shares()
    return f"{version}, {passed(gates)} gates passed"


def quiet(circle: Circle) -> str:
    """Ordinary traffic; a part of it becomes the reference, and the rest has not drifted."""
    send(circle, circle.writer.write(QUIET, (*NOUNS, *HARMLESS)), circle.ordinary)
    circle.checkout.must("serving", "drift", "--days", "1", "--set-reference")
    send(circle, circle.writer.write(ORDINARY, (*NOUNS, *HARMLESS)), circle.ordinary)
    checked = circle.checkout.python("serving", "drift", "--days", "1")
    assert checked.returncode == 0, checked.stdout
    called = toxic([circle.people.stored.called[id_] for id_ in circle.ordinary])
    assert called < 0.2, called
    return f"{len(circle.ordinary)} texts, {called:.0%} called offensive or hate; no drift"


def wave(circle: Circle) -> str:
    """The coined insult enters the traffic, and the model misses it."""
    send(circle, circle.writer.write(WAVE, [COINED]), circle.coined)
    called = toxic([circle.people.stored.called[id_] for id_ in circle.coined])
    assert called < 0.5, f"the model knows the coined insult: {called:.0%}"
    return f"{len(circle.coined)} texts with “{COINED}”, {called:.0%} called offensive or hate"


def complaints(circle: Circle) -> str:
    """Users complain of texts that the model missed; a poisoner sends wrong labels."""
    called = circle.people.stored.called
    missed = [id_ for id_ in circle.coined if called[id_] not in TOXIC][:COMPLAINTS]
    for i, id_ in enumerate(missed):
        # Of every second text three users, which is enough; of the others reviewers must decide.
        for j in range(3 if i % 2 else 1):
            circle.people.say(USERS[(i // 2 + j) % len(USERS)], id_, "offensive")
    wrong = [(id_, "neither") for id_ in circle.coined[: POISONED - len(circle.ordinary)]]
    wrong += [(id_, "hate") for id_ in circle.ordinary]
    for id_, label in wrong:
        circle.people.say(POISONER, id_, label)
    said = circle.people.stored.feedback
    wait_for(circle, "feedback", said.total())
    return f"{said.total() - said[POISONER]} by users, {said[POISONER]} wrong ones by one key"


def reviews(circle: Circle) -> str:
    """Reviewers label what the queue gives them."""
    circle.people.review(REVIEWS)
    reasons, labels = circle.people.stored.reasons, circle.people.stored.reviews.values()
    assert reasons["feedback"], reasons
    assert reasons["random"], reasons
    offensive = Counter(labels)["offensive"]
    assert offensive >= 60, f"the queue gave {offensive} texts with {COINED}"
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return f"{len(labels)} reviews, {offensive} of “{COINED}”; {why}"


def flag(circle: Circle) -> str:
    """`tweet-tagger drift` estimates a precision for which an alert fires.

    The model takes the new texts for ordinary ones, so the columns may show no drift.
    """
    checked = circle.checkout.python("serving", "drift", "--days", "1")
    assert checked.returncode in (0, DRIFT), checked.stdout
    made = json.loads(circle.checkout.drift_report.read_text())
    estimates = made["estimates"]
    drifted = [column["name"] for column in made["columns"] if column["drifted"]]
    precision = estimates["labels"]["neither"]["precision"]
    recall = estimates["labels"]["offensive"]["recall"]
    floors = {label: float(floor) for label, floor in FLOOR.findall(alerts())}
    high = circle.people.gauges("tagger_estimated_precision", bound="high")
    low = [label for label, floor in floors.items() if high.get(label, 1) < floor]
    assert "neither" in low, (high, floors, checked.stdout)
    return (
        f"exit {checked.returncode}, drift of {', '.join(drifted) or 'nothing'}; by "
        f"{estimates['reviews']} random reviews: precision of neither {interval(precision)}, "
        f"recall of offensive {interval(recall)}; "
        f"TaggerPrecisionLow fires for {', '.join(low)}"
    )


def second_model(circle: Circle) -> str:
    """The next model learns from the log, passes the gates, and is served without a restart."""
    circle.checkout.must("training.pipeline", "--profile", "sample")
    log = report(circle.checkout)
    gates = circle.checkout.must("training.release.promote")
    version = manifest(circle.checkout.production)["version"]
    seconds = circle.people.wait_for_version(version)
    texts, rows = log["texts"], log["rows"]
    assert texts["by_reviewers"] >= 80, log
    return (
        f"{version}, learned {rows['in train']} rows of the log ({texts['by_reviewers']} by "
        f"reviewers, {texts['by_clients']} by clients); {passed(gates)} gates passed; "
        f"served after {seconds:.1f} s"
    )


def refused(circle: Circle) -> str:
    """What did not enter is counted, with its reason."""
    log = report(circle.checkout)
    by_kind = {kind: log[kind]["refused"] for kind in ("reviews", "feedback")}
    feedback = log["feedback"]
    of_feedback = sum(by_kind["feedback"].values())
    assert feedback["read"] == circle.people.stored.feedback.total(), log
    assert feedback["read"] == feedback["agreed"] + feedback["confirmed"] + of_feedback, log
    assert not by_kind["reviews"], log
    counted = ", ".join(f"{number} {why}" for why, number in by_kind["feedback"].items())
    nearly = log["rows"]["nearly those of an earlier row"]
    return f"of {feedback['read']} feedback {counted}; {nearly} rows nearly those of others"


def caught(circle: Circle) -> str:
    """New sentences with the insult are caught; others are called what they were called."""
    after = circle.shares()
    changes = [f"{name} {circle.before[name]:.0%} to {after[name]:.0%}" for name in after]
    shown = "; ".join(changes)
    assert after[COINED] >= 0.8, shown
    assert after[COINED] - circle.before[COINED] >= 0.3, shown
    for name, rise in MAX_RISE.items():
        assert after[name] <= circle.before[name] + rise, shown
    return f"called offensive or hate, of {NEW_TEXTS} new texts each: {shown}"


def poison(circle: Circle) -> str:
    """Without the poisoner's feedback the prepared data are the same, byte for byte."""
    with_poison = circle.checkout.prepared()
    with MongoClient[Document](circle.mongo.uri) as client:
        log, other = client[DATABASE], client[WITHOUT_POISON]
        removed = log["feedback"].count_documents({"client": POISONER})
        other["predictions"].insert_many(log["predictions"].find())
        other["reviews"].insert_many(log["reviews"].find())
        other["feedback"].insert_many(log["feedback"].find({"client": {"$ne": POISONER}}))
    assert removed == circle.people.stored.feedback[POISONER] == POISONED
    for stage in (("training.data.ingest", "--profile", "sample"), ("training.data.prepare",)):
        circle.checkout.must(*stage, mongodb=f"{circle.mongo.uri}{WITHOUT_POISON}")
    read = report(circle.checkout)["feedback"]["read"]
    assert read == circle.people.stored.feedback.total() - removed
    assert circle.checkout.prepared() == with_poison
    return f"{removed} labels taken out, {', '.join(with_poison)} byte-identical"


def stored(circle: Circle) -> str:
    """After the service has ended, MongoDB has all that was acknowledged, and nothing else."""
    assert circle.service
    circle.service.stop()
    said = circle.people.stored
    with MongoClient[Document](circle.mongo.uri) as client:
        log = client[DATABASE]
        texts = {row["_id"]: row["text"] for row in log["predictions"].find({}, {"text": 1})}
        labels = {row["_id"]: row["label"] for row in log["reviews"].find({}, {"label": 1})}
        feedback = Counter(row["client"] for row in log["feedback"].find({}, {"client": 1}))
    assert texts == said.texts
    assert labels == said.reviews
    assert feedback == said.feedback
    assert not texts_in(circle.folder / "outbox.db")
    return (
        f"{len(texts)} predictions, {len(labels)} reviews, {feedback.total()} feedback; none lost"
    )


STEPS: dict[str, Callable[[Circle], str]] = {
    "first model": first_model,
    "quiet traffic": quiet,
    "coined insult": wave,
    "feedback": complaints,
    "review queue": reviews,
    "drift": flag,
    "second model": second_model,
    "refused": refused,
    "caught": caught,
    "poisoner": poison,
    "stored": stored,
}


def send(circle: Circle, texts: list[str], ids: list[str]) -> None:
    """Send texts, add the predictions' ids, and wait until MongoDB has them."""
    ids += circle.people.send(texts)
    wait_for(circle, "predictions", len(circle.people.stored.texts))


def wait_for(circle: Circle, collection: str, number: int) -> None:
    """Wait until the relay has sent so many documents."""
    deadline = time.monotonic() + START_SECONDS
    with MongoClient[Document](circle.mongo.uri) as client:
        while (found := client[DATABASE][collection].count_documents({})) < number:
            assert time.monotonic() < deadline, f"{collection}: {found} of {number} in MongoDB"
            time.sleep(0.1)


def manifest(bundle: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "bundle.json").read_text())
    return content


def report(checkout: Checkout) -> dict[str, Any]:
    """Return what entered from the log, and what was refused."""
    content = json.loads((checkout.folder / "reports/prepare.json").read_text())
    log: dict[str, Any] = content["logs"]["reviewed"]
    return log


def passed(page: str) -> str:
    """Return the number of gates in the report of a promotion, all of which passed."""
    found = re.search(r"(\d+) gates, 0 failed", page)
    assert found, page[:300]
    return found[1]


def alerts() -> str:
    """Return the expressions of the alert rules."""
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    return "\n".join(str(rule["expr"]) for group in groups for rule in group["rules"])


def interval(estimate: dict[str, float]) -> str:
    return "{value:.2f} ({low:.2f} to {high:.2f})".format(**estimate)
