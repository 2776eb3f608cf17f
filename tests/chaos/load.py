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
    """

    texts: dict[str, str] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0

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
    """

    def __init__(self, port: int, name: str, *, clients: int = 24, texts: int = 4) -> None:
        self.replies = Replies()
        self._url = f"http://127.0.0.1:{port}"
        self._name, self._clients, self._texts = name, clients, texts
        self._numbers = itertools.count()
        self._running = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._running = True
        self._tasks = [asyncio.create_task(self._run_client()) for _ in range(self._clients)]
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

    async def _run_client(self) -> None:
        timeout = httpx.Timeout(TIMEOUT_SECONDS)
        async with httpx.AsyncClient(base_url=self._url, timeout=timeout, verify=False) as client:
            while self._running:
                try:
                    await self._send(client)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    await asyncio.sleep(0.05)  # the service is being started again
                except httpx.TransportError:
                    self.replies.broken += 1

    async def _send(self, client: httpx.AsyncClient) -> None:
        texts = [self._new_text() for _ in range(self._texts)]
        reply = await client.post("/v1/predict", json={"texts": texts})
        self.replies.statuses[reply.status_code] += 1
        self.replies.broken += reply.headers.get("connection") == "close"
        if reply.status_code == 200:
            ids = [prediction["id"] for prediction in reply.json()["predictions"]]
            self.replies.texts |= dict(zip(ids, texts, strict=True))
        else:
            await asyncio.sleep(0.05)

    def _new_text(self) -> str:
        number = next(self._numbers)
        nouns = (NOUNS[number // 8**power % 8] for power in range(4))
        return f"{self._name} {number}: you {' '.join(nouns)}"
