"""Callers that keep asking, and remember what they were told.

Each text is unique and sent once, so that a document too many shows. A caller whose connection
breaks opens another and asks something new, as nobody may repeat a question for it.
"""

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field

NOUNS = ["crow", "badger", "ferret", "kettle", "bishop", "plumber", "comet", "turnip"]
PATIENCE_S = 20.0


@dataclass(slots=True)
class Told:
    """What the callers were told."""

    texts: dict[str, str] = field(default_factory=dict)  # by the id of an answer with status 200
    statuses: Counter[int] = field(default_factory=Counter)  # of requests
    broken: int = 0  # connections that ended before an answer

    @property
    def failed(self) -> int:
        """Requests that were answered, but not with 200."""
        return sum(n for status, n in self.statuses.items() if status != 200)


class Load:
    """Callers in the background.

    Args:
        port: of 127.0.0.1.
        name: begins every text.
        callers: at one time.
        texts: of a request.
    """

    def __init__(self, port: int, name: str, *, callers: int = 24, texts: int = 4) -> None:
        self.told = Told()
        self._port, self._name, self._callers, self._texts = port, name, callers, texts
        self._numbers = itertools.count()
        self._going = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._going = True
        self._tasks = [asyncio.create_task(self._call()) for _ in range(self._callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the callers have their last answers."""
        self._going = False
        await asyncio.gather(*self._tasks)

    async def answers(self, more: int, seconds: float = 120) -> None:
        """Wait until so many more texts have been answered."""
        wanted = len(self.told.texts) + more
        async with asyncio.timeout(seconds):
            while len(self.told.texts) < wanted:
                await asyncio.sleep(0.02)

    async def refusals(self, seconds: float = 120) -> None:
        """Wait until somebody has been refused with 503."""
        async with asyncio.timeout(seconds):
            while not self.told.statuses[503]:
                await asyncio.sleep(0.02)

    async def _call(self) -> None:
        while self._going:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            try:
                while self._going:
                    await self._ask(reader, writer)
            except (OSError, TimeoutError, EOFError):
                self.told.broken += 1
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        texts = [self._text() for _ in range(self._texts)]
        body = json.dumps({"texts": texts}).encode()
        head = (
            "POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        async with asyncio.timeout(PATIENCE_S):
            reply = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(reply.partition(b"content-length: ")[2].split()[0])
            received = await reader.readexactly(length)
        status = int(reply.split()[1])
        self.told.statuses[status] += 1
        if status == 200:
            ids = [row["id"] for row in json.loads(received)["predictions"]]
            self.told.texts |= dict(zip(ids, texts, strict=True))
        else:
            await asyncio.sleep(0.05)
        if b"\r\nconnection: close" in reply:
            raise EOFError

    def _text(self) -> str:
        number = next(self._numbers)
        nouns = (NOUNS[number // 8**power % 8] for power in range(4))
        return f"{self._name} {number}: you {' '.join(nouns)}"
