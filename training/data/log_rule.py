"""Which labels of the prediction log become training rows; docs/own-data.md has the rule in words.

    predictions, reviews, feedback -> usable labels, one per person and text -> rows and counts

Everything here is a function of three lists of documents: it reads no clock, file or network, and
the order of the documents changes nothing. A label that does not enter is counted by its reason.
"""

import ipaddress
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

from training.partial_labels import LABELS, LEARNED_ATTRIBUTES

Document = Mapping[str, Any]
# `suggestscore` joins the labels that the suggested scores allow by it.
JOINT = "+"
LABEL_SETS = tuple(
    frozenset(chosen) for size in range(1, len(LABELS)) for chosen in combinations(LABELS, size)
)
# Why a label does not enter, in the words of the report.
REASONS = {
    "unsure": "the reviewer was unsure",
    "skip": "the reviewer skipped it",
    "erased": "erased",
    "unknown_prediction": "the prediction is no longer in the log",
    "text_not_stored": "the text is not stored (TAGGER_STORE_TEXT)",
    "without_words": "the text has no words",
    "malformed": "no document of this service",
    "no_label": "it allows every label",
    "repeated": "the same person labelled the text again",
    "tie": "reviewers tie",
    "reviewers_tie": "reviewers of the text tie",
    "contradicts_reviewers": "reviewers chose another label",
    "too_few_clients": "too few independent clients agree",
    "clients_disagree": "as many clients agree on another label",
    "outvoted": "enough clients agree on another label",
    "client_share": "over the share of one client",
    "not_read": "older than the newest that are read",
}


@dataclass(frozen=True)
class Agreement:
    """What labels by clients need: how many must agree, and each one's largest share of rows."""

    clients: int = 3
    max_client_share: float = 0.2


@dataclass(frozen=True)
class LogDocuments:
    """The log's documents; `ts` is in milliseconds since 1970.

    predictions: those that reviews and feedback are about, with `_id`, `text` or `erased`.
    not_read: by kind, how many older documents were left in the log.
    """

    predictions: Sequence[Document] = ()
    reviews: Sequence[Document] = ()
    feedback: Sequence[Document] = ()
    not_read: Mapping[str, int] = field(default_factory=dict)


class LogRow(NamedTuple):
    """A training row.

    labels: the partial label.
    votes: of the reviewers, for each of LABELS; zeros if clients chose the label.
    attributes: raters' shares, of those that are known.
    """

    text: str
    labels: frozenset[str]
    votes: tuple[int, ...]
    attributes: dict[str, float]


class _Label(NamedTuple):
    """What one person says of one text: `person` is a reviewer, or a client's network."""

    order: tuple[int, str]
    key: str
    text: str
    person: str
    labels: frozenset[str]
    attributes: Mapping[str, Any]


_ByText = dict[str, list[_Label]]


def client_network(client: object) -> str:
    """Return whom a client counts as: an API key's name, or the network of an address.

    Of IPv4 the /24, of IPv6 the /48: who has one address often has its neighbours too, and a site
    gets up to a /48 (RFC 6177). Rate limits are finer, since there a neighbour would pay for it.
    """
    name = client if isinstance(client, str) else ""
    address = name.partition("/")[0].partition("%")[0]
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return name
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 48), strict=False))


def training_rows(
    documents: LogDocuments, agreement: Agreement, text_key: Callable[[str], str]
) -> tuple[list[LogRow], dict[str, Any]]:
    """Return the rows, ordered by their text's key, and what entered and was refused.

    Args:
        documents: the log.
        agreement: what labels by clients need.
        text_key: equal for texts that count as the same; empty for a text without words.
    """
    predictions = {str(document["_id"]): document for document in documents.predictions}
    refused = {"reviews": Counter[str](), "feedback": Counter[str]()}

    def usable(kind: str, given: Iterable[Document], person: str) -> _ByText:
        labels = []
        for document in given:
            label = _label(document, predictions, person, text_key)
            if isinstance(label, str):
                refused[kind][label] += 1
            else:
                labels.append(label)
        return _newest(labels, refused[kind])

    reviews = usable("reviews", documents.reviews, "reviewer")
    feedback = usable("feedback", documents.feedback, "client")

    reviewed, tied = _decided_by_reviewers(reviews)
    refused["reviews"]["tie"] += sum(len(reviews[key]) for key in tied)
    confirmed = _confirmed(feedback, reviewed, tied, refused["feedback"])
    others = {key: labels for key, labels in feedback.items() if key not in {*reviewed, *tied}}
    agreed, chosen = _agreed(others, agreement.clients, refused["feedback"])
    kept = _within_share(agreed, len(reviewed), agreement)
    entered = sum(map(len, kept.values()))
    refused["feedback"]["client_share"] += sum(map(len, agreed.values())) - entered

    rows = {
        key: LogRow(
            min(reviews[key], key=_order).text,
            frozenset([label]),
            _votes(reviews[key]),
            _attributes(confirmed.get(key, ()), agreement.clients),
        )
        for key, label in reviewed.items()
    }
    for key, labels in kept.items():
        known = _attributes(labels, agreement.clients)
        rows[key] = LogRow(min(labels, key=_order).text, chosen[key], (0,) * len(LABELS), known)

    for kind, number in documents.not_read.items():
        refused[kind]["not_read"] += number
    counts = {
        "texts": {"by_reviewers": len(reviewed), "by_clients": len(kept)},
        "reviews": {
            "read": len(documents.reviews) + documents.not_read.get("reviews", 0),
            "entered": sum(len(reviews[key]) for key in reviewed),
            "refused": _by_reason(refused["reviews"]),
        },
        "feedback": {
            "read": len(documents.feedback) + documents.not_read.get("feedback", 0),
            "confirmed": sum(map(len, confirmed.values())),
            "agreed": entered,
            "refused": _by_reason(refused["feedback"]),
        },
    }
    return [rows[key] for key in sorted(rows)], counts


def _label(
    document: Document,
    predictions: Mapping[str, Document],
    person: str,
    text_key: Callable[[str], str],
) -> _Label | str:
    """Return what a document says, or the reason why it says nothing."""
    prediction = predictions.get(str(document.get("prediction_id")), {})
    name, chosen = document.get(person), document.get("label")
    text = document.get("text", prediction.get("text"))
    labels = frozenset(str(chosen).split(JOINT))
    key = text_key(text) if isinstance(text, str) else ""
    is_review = person == "reviewer"
    checks = {
        "erased": document.get("erased") or prediction.get("erased"),
        str(chosen): is_review and chosen in {"unsure", "skip"},
        "malformed": not labels <= set(LABELS)
        or (is_review and (len(labels) > 1 or not isinstance(name, str))),
        "no_label": len(labels) == len(LABELS),
        "unknown_prediction": text is None and not prediction,
        "text_not_stored": not isinstance(text, str),
        "without_words": not key,
    }
    if reason := next((reason for reason, applies in checks.items() if applies), None):
        return reason
    ts, attributes = document.get("ts"), document.get("attributes")
    return _Label(
        order=(ts if isinstance(ts, int) else 0, str(document.get("_id"))),
        key=key,
        text=str(text),
        person=str(name) if is_review else client_network(name),
        labels=labels,
        attributes=attributes if isinstance(attributes, Mapping) else {},
    )


def _order(label: _Label) -> tuple[int, str]:
    return label.order


def _newest(labels: Iterable[_Label], refused: Counter[str]) -> _ByText:
    """Return by text the newest label of each person; the others are refused."""
    newest: dict[tuple[str, str], _Label] = {}
    for label in sorted(labels, key=_order):
        refused["repeated"] += (label.key, label.person) in newest
        newest[label.key, label.person] = label
    by_text: _ByText = defaultdict(list)
    for label in newest.values():
        by_text[label.key].append(label)
    return dict(by_text)


def _votes(reviews: Iterable[_Label]) -> tuple[int, ...]:
    votes = Counter(label for review in reviews for label in review.labels)
    return tuple(votes[label] for label in LABELS)


def _decided_by_reviewers(reviews: _ByText) -> tuple[dict[str, str], set[str]]:
    """Return the label that most reviewers of a text chose, and the texts without one."""
    decided, tied = {}, set()
    for key, labels in reviews.items():
        votes = _votes(labels)
        if votes.count(max(votes)) > 1:
            tied.add(key)
        else:
            decided[key] = LABELS[votes.index(max(votes))]
    return decided, tied


def _confirmed(
    feedback: _ByText, reviewed: Mapping[str, str], tied: set[str], refused: Counter[str]
) -> _ByText:
    """Return the feedback that allows what reviewers chose; other feedback on it is refused."""
    confirmed: _ByText = {}
    for key, labels in feedback.items():
        if key in tied:
            refused["reviewers_tie"] += len(labels)
        elif key in reviewed:
            agreeing = [label for label in labels if reviewed[key] in label.labels]
            refused["contradicts_reviewers"] += len(labels) - len(agreeing)
            confirmed[key] = agreeing
    return confirmed


def _agreed(
    feedback: _ByText, clients: int, refused: Counter[str]
) -> tuple[_ByText, dict[str, frozenset[str]]]:
    """Return by text the feedback that enough clients agree on, and what they agree on.

    A client agrees with others that gave the same partial label. The smallest one that enough
    clients gave counts, unless as many gave one that does not contain it. So a single client
    changes nothing by itself, and what fewer than `clients` say has no effect.
    """
    agreed, chosen = {}, {}
    for key, labels in feedback.items():
        given = Counter(label.labels for label in labels)
        reached = [allowed for allowed in LABEL_SETS if given[allowed] >= clients]
        if not reached:
            refused["too_few_clients"] += len(labels)
        elif not all(reached[0] <= allowed for allowed in reached):
            refused["clients_disagree"] += len(labels)
        else:
            chosen[key] = reached[0]
            agreed[key] = [label for label in labels if label.labels == reached[0]]
            refused["outvoted"] += len(labels) - len(agreed[key])
    return agreed, chosen


def _within_share(agreed: _ByText, reviewed: int, agreement: Agreement) -> _ByText:
    """Return the texts that enter if no client may speak for more than its share of all rows.

    A client over its share is not counted for further texts; those that then lack clients do not
    enter, and with them the shares shrink, until all are kept.
    """
    entering = agreed
    while True:
        # 1e-9: 0.29 · 100 is 28.999….
        limit = math.floor(agreement.max_client_share * (reviewed + len(entering)) + 1e-9)
        kept = _with_limit(agreed, limit, agreement.clients)
        if len(kept) >= len(entering):
            return kept
        entering = kept


def _with_limit(agreed: _ByText, limit: int, clients: int) -> _ByText:
    rows, kept = Counter[str](), {}
    # By the key, which is a hash: nobody can choose which of its texts come first.
    for key in sorted(agreed):
        labels = [label for label in agreed[key] if rows[label.person] < limit]
        if len(labels) >= clients:
            kept[key] = labels
            rows.update(label.person for label in labels)
    return kept


def _attributes(labels: Iterable[_Label], clients: int) -> dict[str, float]:
    """Return the median of the shares that enough clients suggest on one side of a half alone."""
    shares = {}
    for name in LEARNED_ATTRIBUTES:
        values = [label.attributes[name] for label in labels if _is_share(label, name)]
        sides = [
            side
            for side in ([v for v in values if v >= 0.5], [v for v in values if v < 0.5])
            if len(side) >= clients
        ]
        if len(sides) == 1:
            shares[name] = float(statistics.median(sides[0]))
    return shares


def _is_share(label: _Label, name: str) -> bool:
    value = label.attributes.get(name)
    return isinstance(value, int | float) and 0 <= value <= 1


def _by_reason(refused: Counter[str]) -> dict[str, int]:
    return {reason: refused[reason] for reason in REASONS if refused[reason]}
