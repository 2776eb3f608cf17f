"""A TCP proxy between the service and MongoDB that cuts connections in the middle of messages."""

import asyncio
import contextlib
import random


class Proxy:
    """Forwards bytes; while `cutting`, it cuts each connection at its next bulk write.

    Half of the cuts are at a random byte of the request, half are before the reply.
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

    async def _serve(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            to_client.transport.abort()
            return
        writers = {to_client, to_server}
        self._writers |= writers
        cut_reply = asyncio.Event()
        try:
            await asyncio.gather(
                self._forward_requests(from_client, to_server, cut_reply),
                self._forward_replies(from_server, to_client, cut_reply),
            )
        except (OSError, EOFError):
            pass
        finally:
            for writer in writers:
                writer.transport.abort()
            self._writers -= writers

    async def _forward_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut_reply: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 16):
            if self.cutting and b"update" in data[:200] and b"predictions" in data[:200]:
                if self._random.random() < 0.5:
                    self.cuts["request"] += 1
                    writer.write(data[: self._random.randrange(len(data))])
                    with contextlib.suppress(OSError):
                        await writer.drain()
                    raise EOFError
                cut_reply.set()
            writer.write(data)
            await writer.drain()
        raise EOFError

    async def _forward_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut_reply: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 16):
            if cut_reply.is_set():
                self.cuts["reply"] += 1
                raise EOFError
            writer.write(data)
            await writer.drain()
        raise EOFError
