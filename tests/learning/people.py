"""Simulated clients, users and reviewers, each with an API key of its own."""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import httpx

from tests.learning.texts import truth
from tests.support.service import START_SECONDS, Served

CLIENTS = ("shop", "forum", "game")
USERS = ("ada", "ben", "cleo", "dan")
POISONER = "mallory"
REVIEWERS = ("ann", "bob")
TEXTS_OF_A_REQUEST = 20
MAX_IDLE = 10  # requests without an item


def api_keys() -> str:
    """Return the setting API_KEYS; the secret of a key is its name."""
    scopes = dict.fromkeys(CLIENTS, "predict")
    scopes |= dict.fromkeys((*USERS, POISONER), "predict+feedback")
    scopes |= dict.fromkeys(REVIEWERS, "review")
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in scopes}
    return ",".join(f"{name}:{digests[name]}:{scope}" for name, scope in scopes.items())


@dataclass
class Acknowledged:
    """What the service said it stored: texts by prediction, labels of reviews, feedback by client.

    reasons: why the queue gave each reviewed item.
    """

    texts: dict[str, str] = field(default_factory=dict)
    called: dict[str, str] = field(default_factory=dict)
    reviews: dict[str, str] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    feedback: Counter[str] = field(default_factory=Counter)


class People:
    """Everybody who talks to a service."""

    def __init__(self, service: Served) -> None:
        self._service = service
        self.stored = Acknowledged()

    def send(self, texts: Sequence[str]) -> list[str]:
        """Send texts, the clients in turn; return the predictions' ids."""
        ids = []
        for i in range(0, len(texts), TEXTS_OF_A_REQUEST):
            part = texts[i : i + TEXTS_OF_A_REQUEST]
            client = CLIENTS[i // TEXTS_OF_A_REQUEST % len(CLIENTS)]
            rows = self._call(client, "POST", "predict", texts=part)["predictions"]
            self.stored.texts |= {row["id"]: t for row, t in zip(rows, part, strict=True)}
            self.stored.called |= {row["id"]: row["label"] for row in rows}
            ids += [row["id"] for row in rows]
        return ids

    def labels(self, texts: Sequence[str]) -> list[str]:
        """Return what the model says of texts, which are not stored."""
        labels = []
        for i in range(0, len(texts), TEXTS_OF_A_REQUEST):
            part = texts[i : i + TEXTS_OF_A_REQUEST]
            reply = self._call(CLIENTS[0], "POST", "predict", texts=part, do_not_store=True)
            labels += [row["label"] for row in reply["predictions"]]
        return labels

    def version(self) -> str:
        """Return the version of the model in a reply."""
        reply = self._call(CLIENTS[0], "POST", "predict", texts=["hello"], do_not_store=True)
        return str(reply["model"]["version"])

    def wait_for_version(self, version: str) -> float:
        """Return the seconds until a reply has a version of the model."""
        started = time.monotonic()
        while (found := self.version()) != version:
            assert time.monotonic() - started < START_SECONDS, f"the model is {found} still"
            time.sleep(0.1)
        return time.monotonic() - started

    def say(self, who: str, prediction_id: str, label: str) -> None:
        """Send feedback."""
        self._call(who, "POST", "feedback", prediction_id=prediction_id, label=label)
        self.stored.feedback[who] += 1

    def review(self, number: int) -> None:
        """Let the reviewers label, by turns, what the queue gives them, until it has no more.

        A request may find nothing although the next one draws an item at random.
        """
        idle = 0
        for reviewer in cycle(REVIEWERS):
            if len(self.stored.reviews) >= number or idle == MAX_IDLE:
                return
            items = self._call(reviewer, "GET", "review?limit=5")["items"]
            idle = 0 if items else idle + 1
            for item in items:
                label = truth(item["text"])
                path = f"review/{item['prediction_id']}"
                id_ = self._call(reviewer, "POST", path, label=label)["id"]
                self.stored.reviews[id_] = label
                self.stored.reasons[item["reason"]] += 1

    def gauges(self, name: str, **labels: str) -> dict[str, float]:
        """Return a gauge's values by its label `label`, of samples with the given labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = self._service.http.get("/metrics").text.splitlines()
        found = [
            line
            for line in lines
            if line.startswith(f"{name}{{") and all(part in line for part in wanted)
        ]
        return {
            line.partition('label="')[2].partition('"')[0]: float(line.split()[-1])
            for line in found
        }

    def _call(self, who: str, method: str, path: str, **body: Any) -> dict[str, Any]:
        reply: httpx.Response = self._service.http.request(
            method, f"/v1/{path}", headers={"x-api-key": who}, json=body or None
        )
        assert reply.status_code == 200, f"{who}: {path}: {reply.text}"
        return dict(reply.json())
