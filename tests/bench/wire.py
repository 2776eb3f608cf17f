"""HTTP/1.1 as far as a load generator needs it: whole requests as bytes, and where a reply ends.

It reads a status and a Content-Length and looks at nothing else of a reply; chunked replies, which
none of the servers here sends, are refused by name.
"""

import json
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """A whole reply at the start of a buffer."""

    status: int
    begin: int  # of the body
    end: int
    closes: bool  # the server will close this connection


class ReplyError(Exception):
    """What the server sent is not a reply that this reader knows."""


def post(path: str, body: Any, host: str) -> bytes:
    """Return a keep-alive POST request of `body` as JSON."""
    content = json.dumps(body, ensure_ascii=False).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def first_reply(buffer: bytes | bytearray) -> Reply | None:
    """Return the reply that `buffer` begins with, or None while it is not whole."""
    begin = buffer.find(b"\r\n\r\n")
    if begin < 0:
        return None
    if not buffer.startswith(b"HTTP/1."):
        raise ReplyError(f"not HTTP/1: {bytes(buffer[:40])!r}")
    head = bytes(buffer[: begin + 2]).lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ReplyError(f"no Content-Length: {bytes(buffer[:begin])!r}")
    length = int(head[at + 17 : head.index(b"\r\n", at + 2)])
    end = begin + 4 + length
    if len(buffer) < end:
        return None
    return Reply(int(head[9:12]), begin + 4, end, b"\r\nconnection: close" in head)
