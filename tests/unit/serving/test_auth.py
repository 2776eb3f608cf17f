import hashlib

import pytest

from serving.auth import DEFAULT_SCOPES, ApiKey, ApiKeyStore, Scope, key_of_request, new_key


def key(name: str, secret: bytes, *scopes: str) -> ApiKey:
    digest = hashlib.sha256(secret).hexdigest()
    return ApiKey.parse(f"{name}:{digest}" + (f":{'+'.join(scopes)}" if scopes else ""))


def test_without_keys_every_caller_has_the_default_scopes() -> None:
    store = ApiKeyStore([])
    assert store.is_open
    anonymous = store.find(None)
    assert anonymous is not None
    assert anonymous.scopes == DEFAULT_SCOPES
    assert "admin" not in anonymous.scopes


def test_a_key_is_found_by_its_digest_alone() -> None:
    store = ApiKeyStore([key("a", b"first"), key("b", b"second", "admin")])
    assert [store.find(secret) for secret in (None, b"", b"third")] == [None] * 3
    first, second = store.find(b"first"), store.find(b"second")
    assert first is not None
    assert second is not None
    assert (first.name, second.name, second.scopes) == ("a", "b", {"admin"})
    assert b"first" not in repr(vars(store)).encode()


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ([], None),
        ([(b"authorization", b"Bearer abc")], b"abc"),
        ([(b"authorization", b"bearer  abc ")], b"abc"),
        ([(b"authorization", b"Basic abc")], None),
        ([(b"x-api-key", b"abc")], b"abc"),
        ([(b"x-api-key", b" "), (b"authorization", b"Bearer k")], b"k"),
        ([(b"authorization", b"Bearer "), (b"x-api-key", b"k")], b"k"),
    ],
)
def test_a_key_is_read_from_the_headers(
    headers: list[tuple[bytes, bytes]], secret: bytes | None
) -> None:
    assert key_of_request(headers) == secret


@pytest.mark.parametrize("scopes", [(), ("predict",), ("feedback", "admin")])
def test_a_new_key_is_found_with_its_scopes(scopes: tuple[Scope, ...]) -> None:
    secret, entry = new_key("bot", scopes)
    assert secret not in entry
    match = ApiKeyStore([ApiKey.parse(entry)]).find(secret.encode())
    assert match is not None
    assert (match.name, match.scopes) == ("bot", frozenset(scopes) or DEFAULT_SCOPES)
    assert new_key("bot", scopes)[0] != secret


@pytest.mark.parametrize(("name", "scopes"), [("a b", ()), ("a:b", ()), ("a", ("root",))])
def test_a_new_key_that_the_setting_could_not_hold_is_refused(
    name: str, scopes: tuple[Scope, ...]
) -> None:
    with pytest.raises(ValueError, match=r"form|scopes"):
        new_key(name, scopes)
