"""What all clients share: services with keys, texts, and the scores of `/v1/predict` for them."""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.service import Served

OFFENSIVE = "you absolute clown"
KIND = "have a lovely day"
GERMAN = "Du bist ein Idiot, geh weg"
EMOJI = "you 🤡🤡 are the 👩‍👩‍👧‍👦 worst 😀"
RIGHT_TO_LEFT = "أنت أحمق! לך מפה, you clown"
# For each of Perspective's attributes a text that has it. KIND has none.
WITH_ATTRIBUTE = {
    "TOXICITY": "you are a disgusting piece of garbage",
    "SEVERE_TOXICITY": "go to hell you worthless fucking piece of shit",
    "IDENTITY_ATTACK": "all muslims are vermin and should be thrown out",
    "INSULT": "you are a stupid idiot and a pathetic loser",
    "PROFANITY": "what the fuck is this shit",
    "THREAT": "I will find you and break your legs",
}
MAX_CHARS = 2000
# A case has the same name for every client, and is a row of the table.
CASES = (
    "single text",
    "list",
    "batch",
    "non-English",
    "emoji",
    "right-to-left",
    "options",
    *WITH_ATTRIBUTE,
    "feedback",
    "partial response",
    "do not store",
    "empty text",
    "text too long",
    "not supported",
    "wrong key",
    "no key",
    "rate limit",
)
Case = Callable[["World"], None]


@dataclass(frozen=True, slots=True)
class World:
    """The services that a client calls, and its key.

    limited: a service that allows one request a minute for each key.
    origin: of web pages that may call both.
    native: predictions of `/v1/predict` so far, by text.
    """

    service: Served
    limited: Served
    key: str
    outbox: Path
    origin: str
    native: dict[str, dict[str, Any]] = field(default_factory=dict)

    def predictions(self, *texts: str) -> list[dict[str, Any]]:
        """Return the predictions of `/v1/predict`."""
        missing = [text for text in texts if text not in self.native]
        if missing:
            headers = {"authorization": f"Bearer {self.key}"}
            body = {"texts": missing, "do_not_store": True}
            reply = self.service.http.post("/v1/predict", json=body, headers=headers)
            rows = reply.json()["predictions"]
            self.native.update(zip(missing, rows, strict=True))
        return [self.native[text] for text in texts]

    def scores(self, *texts: str) -> list[dict[str, float]]:
        """Return the probabilities by label of `/v1/predict`."""
        return [row["scores"] for row in self.predictions(*texts)]

    def attributes(self, *texts: str) -> list[dict[str, float]]:
        """Return the attributes of `/v1/predict`."""
        return [row["attributes"] for row in self.predictions(*texts)]

    def stored(self) -> list[tuple[str, str]]:
        """Return API and text of each prediction in the log, oldest first."""
        query = "SELECT body ->> 'api', body ->> 'text' FROM log WHERE kind = 0 ORDER BY seq"
        with sqlite3.connect(self.outbox) as database:
            return database.execute(query).fetchall()


def api_keys(names: Sequence[str]) -> str:
    """Return a value of API_KEYS in which each name is its own key."""
    return ",".join(f"{name}:{hashlib.sha256(name.encode()).hexdigest()}" for name in names)


def assert_raises(
    call: Callable[[], object], error: type[Exception], status: int, *words: str
) -> None:
    """Check that a call raises the client's own exception, with this status and these words."""
    raised: Exception | None = None
    try:
        call()
    except error as caught:
        raised = caught
    assert raised is not None, f"no {error.__name__}"
    actual = next(
        getattr(getattr(raised, response), name)
        for response, name in (("response", "status_code"), ("resp", "status"))
        if hasattr(raised, response)
    )
    assert actual == status, f"got status {actual}, wanted {status}: {raised}"
    message = f"{raised} {getattr(raised, 'code', '')} {getattr(raised, 'param', '')}"
    assert all(word in message for word in words), f"got {message}, wanted {words}"


def repeated(call: Callable[[], object]) -> Callable[[], None]:
    """Return a call that runs five times, because a new minute may begin between two of them."""

    def calls() -> None:
        for _ in range(5):
            call()

    return calls
