"""API keys: which caller may use which part of the API. Only SHA-256 digests of keys are held.

    TAGGER_API_KEYS="moderation:<digest>, ops:<digest>:predict+feedback+admin"

A key is long and random, so a plain digest is enough: there is nothing to guess.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import parse_qsl

Scope = Literal["predict", "feedback", "review", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_SCOPES: frozenset[Scope] = frozenset({"predict", "feedback"})
KEY_BYTES = 32
# What sha256sum yields for a variable that is not set: every caller knows that key.
NO_SECRET = hashlib.sha256(b"").digest()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A caller's name, the digest of its key, and its scopes."""

    name: str
    digest: bytes
    scopes: frozenset[Scope] = DEFAULT_SCOPES

    @classmethod
    def parse(cls, value: object) -> "ApiKey":
        """Read `name:sha256` or `name:sha256:scope+scope`; ValueError for anything else."""
        if isinstance(value, ApiKey):
            return value
        match = re.fullmatch(
            r"([\w.-]{1,64}):([0-9a-fA-F]{64})(?::([a-z+]+))?", str(value), re.ASCII
        )
        if not match:
            raise ValueError("an entry of another form")
        if bytes.fromhex(match[2]) == NO_SECRET:
            raise ValueError("the digest of an empty key")
        scopes = frozenset(scope for scope in SCOPES if scope in (match[3] or "").split("+"))
        if match[3] and len(scopes) != len(match[3].split("+")):
            raise ValueError(f"the scopes are {', '.join(SCOPES)}")
        return cls(match[1], bytes.fromhex(match[2]), scopes or DEFAULT_SCOPES)


ANONYMOUS = ApiKey("", b"", DEFAULT_SCOPES)


class ApiKeyStore:
    """The known keys. Without any, every caller has the default scopes and no other."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = tuple(keys)

    @property
    def is_open(self) -> bool:
        """Whether requests need no key."""
        return not self._keys

    def find(self, secret: bytes | None) -> ApiKey | None:
        """Return the key with this secret; None if a key is needed and this one is not known.

        Every known digest is compared, each in constant time, so that the time taken tells
        nothing.
        """
        if self.is_open:
            return ANONYMOUS
        if secret is None:
            return None
        digest = hashlib.sha256(secret).digest()
        match = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                match = key
        return match


def new_key(name: str, scopes: Iterable[Scope] = ()) -> tuple[str, str]:
    """Return a new random key, and its entry for TAGGER_API_KEYS.

    Raises:
        ValueError: the name has characters that TAGGER_API_KEYS cannot hold, or a scope is unknown.
    """
    secret = secrets.token_urlsafe(KEY_BYTES)
    entry = f"{name}:{hashlib.sha256(secret.encode()).hexdigest()}"
    if joined := "+".join(scopes):
        entry += f":{joined}"
    ApiKey.parse(entry)
    return secret, entry


def key_of_request(headers: Iterable[tuple[bytes, bytes]], query: bytes = b"") -> bytes | None:
    """Return the key that a request carries in `Authorization: Bearer …` or `X-API-Key`.

    Google's clients send `X-Goog-Api-Key` or, where a query is given, `key=` in it.
    """
    if query:
        for name, value in parse_qsl(query):
            if name == b"key":
                return value
    for name, value in headers:
        # An empty header is no key: a client may send another one beside it.
        if name in {b"x-api-key", b"x-goog-api-key"} and value.strip():
            return value.strip()
        if name == b"authorization" and value[:7].lower() == b"bearer " and value[7:].strip():
            return value[7:].strip()
    return None
