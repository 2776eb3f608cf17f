"""A server that gives every request one reply, as cheaply as can be: the generator's ceiling.

python -m tests.bench.fixed PORT
"""

import asyncio
import sys

import uvloop

BODY = b'{"id":"0","predictions":[{"label":"neither","scores":{"hate":0.1,"offensive":0.2}}]}' * 4
REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    + BODY
)


class Fixed(asyncio.Protocol):
    """One connection; a request of the load generator comes in one piece."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(REPLY)  # type: ignore[attr-defined]


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Fixed, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
