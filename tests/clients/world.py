"""What every client is tried on: services with keys, texts, and what `/v1/predict` says of them."""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.service import Served

PLAIN = "you absolute clown"
KIND = "have a lovely day"
GERMAN = "Du bist ein Idiot, geh weg"
EMOJI = "you 🤡🤡 are the 👩‍👩‍👧‍👦 worst 😀"
RIGHT_TO_LEFT = "أنت أحمق! לך מפה, you clown"
MAX_CHARS = 2000
# Each case has one name in every client, and is a row of the table.
CASES = (
    "happy path",
    "list",
    "non-English",
    "emoji",
    "right-to-left",
    "options",
    "feedback",
    "nothing stored on wish",
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
    """Where a client goes, and with which key."""

    service: Served
    limited: Served  # one request a minute for each key
    key: str
    outbox: Path
    native: dict[str, dict[str, float]] = field(default_factory=dict)

    def scores(self, *texts: str) -> list[dict[str, float]]:
        """What `/v1/predict` says of the texts."""
        missing = [text for text in texts if text not in self.native]
        if missing:
            headers = {"authorization": f"Bearer {self.key}"}
            body = {"texts": missing, "do_not_store": True}
            reply = self.service.http.post("/v1/predict", json=body, headers=headers)
            rows = reply.json()["predictions"]
            self.native.update(
                {text: row["scores"] for text, row in zip(missing, rows, strict=True)}
            )
        return [self.native[text] for text in texts]

    def stored(self) -> list[tuple[str, str]]:
        """ApiName and text of what the log holds, oldest first."""
        query = "SELECT body ->> 'door', body ->> 'text' FROM log WHERE kind = 0 ORDER BY seq"
        with sqlite3.connect(self.outbox) as database:
            return database.execute(query).fetchall()


def keys(names: Sequence[str]) -> str:
    """The setting by which each name's key is the name itself."""
    return ",".join(f"{name}:{hashlib.sha256(name.encode()).hexdigest()}" for name in names)


def refused(call: Callable[[], object], kind: type[Exception], status: int, *words: str) -> None:
    """Check that a call ends in the client's own exception, of this status and with these words."""
    raised: Exception | None = None
    try:
        call()
    except kind as error:
        raised = error
    assert raised is not None, f"no {kind.__name__}"
    found = next(
        getattr(getattr(raised, where), name)
        for where, name in (("response", "status_code"), ("resp", "status"))
        if hasattr(raised, where)
    )
    assert found == status, f"status {found}, not {status}: {raised}"
    said = f"{raised} {getattr(raised, 'code', '')} {getattr(raised, 'param', '')}"
    assert all(word in said for word in words), f"{words} not in {said}"


def until_refused(call: Callable[[], object]) -> Callable[[], None]:
    """A call made again and again, as the limit of a minute may turn over between two."""

    def calls() -> None:
        for _ in range(5):
            call()

    return calls
