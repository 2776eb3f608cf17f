"""API keys: who may ask for what. Only their SHA-256 digests are ever held.

    API_KEYS="moderation:<digest>, ops:<digest>:predict+feedback+admin"

A key is long and random, so a plain digest keeps it: there is nothing to guess. It knows nothing
of HTTP but where a key stands in a request.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import parse_qsl

Right = Literal["predict", "feedback", "admin"]
RIGHTS: tuple[Right, ...] = get_args(Right)
USUAL: frozenset[Right] = frozenset({"predict", "feedback"})


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A caller's name, the digest of its key, and what it may do."""

    name: str
    digest: bytes
    rights: frozenset[Right] = USUAL

    @classmethod
    def parse(cls, value: object) -> "ApiKey":
        """Read `name:sha256` or `name:sha256:right+right`; ValueError if it is neither."""
        if isinstance(value, ApiKey):
            return value
        found = re.fullmatch(r"([\w.-]{1,64}):([0-9a-fA-F]{64})(?::([a-z+]+))?", str(value))
        if not found:
            raise ValueError("not name:sha256:rights")
        rights = frozenset(right for right in RIGHTS if right in (found[3] or "").split("+"))
        if found[3] and len(rights) != len(found[3].split("+")):
            raise ValueError(f"rights are {', '.join(RIGHTS)}")
        return cls(found[1], bytes.fromhex(found[2]), rights or USUAL)


ANYBODY = ApiKey("", b"", USUAL)


class Keyring:
    """The keys that are known. With none, anybody has the usual rights and nobody `admin`."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = tuple(keys)

    @property
    def is_open(self) -> bool:
        """Whether requests need no key."""
        return not self._keys

    def find(self, secret: bytes | None) -> ApiKey | None:
        """Return whose key this is; None for a wrong or missing one where one is needed.

        Every known digest is compared, each in constant time, so that the time taken tells
        nothing.
        """
        if self.is_open:
            return ANYBODY
        if secret is None:
            return None
        digest = hashlib.sha256(secret).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def secret_of(headers: Iterable[tuple[bytes, bytes]], query: bytes = b"") -> bytes | None:
    """Return the key that a request carries: `Authorization: Bearer …` or `X-API-Key`.

    Google's clients send `X-Goog-Api-Key` or, where a query is given, `key=` in it.
    """
    if query:
        for name, value in parse_qsl(query):
            if name == b"key":
                return value
    for name, value in headers:
        if name in {b"x-api-key", b"x-goog-api-key"}:
            return value.strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
    return None
