"""Clients that send requests all the time and remember each acknowledged prediction, by its id.

Every text is unique and is sent once, so that a duplicate in the log is found. A client whose
connection breaks sends new texts: a retry would store a text twice. A standard load tool counts
replies but does not keep the ids in them, and these tests compare ids.
"""

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field

import httpx

NOUNS = ["crow", "badger", "ferret", "kettle", "bishop", "plumber", "comet", "turnip"]
TIMEOUT_SECONDS = 20.0
WAIT_SECONDS = 120.0


@dataclass(slots=True)
class Replies:
    """What the clients received.

    texts: of the predictions in replies with status 200, by id.
    statuses: number of replies by status.
    broken: connections that the service closed, or that ended before a reply.
    unanswered: those of them that ended before a reply.
    models: number of predictions in replies with status 200, by the model that the reply names.
    """

    texts: dict[str, str] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    unanswered: int = 0
    models: Counter[str] = field(default_factory=Counter)

    @property
    def errors(self) -> int:
        """Replies with another status than 200."""
        return self.statuses.total() - self.statuses[200]


class Load:
    """Clients that run in the background.

    Args:
        port: of 127.0.0.1.
        name: starts every text.
        clients: that run at the same time.
        texts: in each request.
        second_port: that every other client uses instead.
    """

    def __init__(
        self,
        port: int,
        name: str,
        *,
        clients: int = 24,
        texts: int = 4,
        second_port: int | None = None,
    ) -> None:
        self.replies = Replies()
        self._ports = (port, second_port or port)
        self._name, self._clients, self._texts = name, clients, texts
        self._numbers = itertools.count()
        self._running = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._running = True
        self._tasks = [asyncio.create_task(self._run_client(i)) for i in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop after the replies to the requests in progress."""
        self._running = False
        await asyncio.gather(*self._tasks)

    async def predictions(self, count: int) -> None:
        """Wait for `count` more predictions."""
        wanted = len(self.replies.texts) + count
        async with asyncio.timeout(WAIT_SECONDS):
            while len(self.replies.texts) < wanted:
                await asyncio.sleep(0.02)

    async def refusal(self) -> None:
        """Wait until a request has been refused with 503."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not self.replies.statuses[503]:
                await asyncio.sleep(0.02)

    async def _run_client(self, i: int) -> None:
        timeout, url = httpx.Timeout(TIMEOUT_SECONDS), f"http://127.0.0.1:{self._ports[i % 2]}"
        async with httpx.AsyncClient(base_url=url, timeout=timeout, verify=False) as client:
            while self._running:
                try:
                    await self._send(client)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    await asyncio.sleep(0.05)  # the service is being started again
                except httpx.TransportError:
                    self.replies.broken += 1
                    self.replies.unanswered += 1

    async def _send(self, client: httpx.AsyncClient) -> None:
        texts = [self._new_text() for _ in range(self._texts)]
        reply = await client.post("/v1/predict", json={"texts": texts})
        self.replies.statuses[reply.status_code] += 1
        self.replies.broken += reply.headers.get("connection") == "close"
        if reply.status_code == 200:
            content = reply.json()
            ids = [prediction["id"] for prediction in content["predictions"]]
            self.replies.models[content["model"]["version"]] += len(ids)
            self.replies.texts |= dict(zip(ids, texts, strict=True))
        else:
            await asyncio.sleep(0.05)

    def _new_text(self) -> str:
        number = next(self._numbers)
        nouns = (NOUNS[number // 8**power % 8] for power in range(4))
        return f"{self._name} {number}: you {' '.join(nouns)}"
