"""A TCP proxy between the service and MongoDB that cuts connections in the middle of things."""

import asyncio
import contextlib
import random


class Proxy:
    """Passes bytes on; while `cutting`, a connection is cut at a random byte of its next
    big message: half of the time on the way to the server, half of the time on the way back.
    """

    def __init__(self, target: int, *, seed: int = 1) -> None:
        self.port = 0
        self.cutting = False
        self.cuts = {"request": 0, "reply": 0}
        self._target = target
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, back}
        self._writers |= both
        doomed = asyncio.Event()  # the reply to this connection's bulk write is to be cut
        try:
            await asyncio.gather(
                self._requests(reader, back, doomed), self._replies(there, writer, doomed)
            )
        except (OSError, EOFError):
            pass
        finally:
            for each in both:
                each.transport.abort()
            self._writers -= both

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 16):
            if self.cutting and b"update" in data[:200] and b"predictions" in data[:200]:
                if self._random.random() < 0.5:
                    self.cuts["request"] += 1
                    writer.write(data[: self._random.randrange(len(data))])
                    with contextlib.suppress(OSError):
                        await writer.drain()
                    raise EOFError
                doomed.set()
            writer.write(data)
            await writer.drain()
        raise EOFError

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 16):
            if doomed.is_set():
                self.cuts["reply"] += 1
                raise EOFError
            writer.write(data)
            await writer.drain()
        raise EOFError
