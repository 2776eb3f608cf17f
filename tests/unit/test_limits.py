import hashlib
import time

import pytest

from serving.ids import new_id, new_ids
from serving.keys import USUAL, ApiKey, Keyring, secret_of
from serving.limits import RateLimit, neighbourhood


def key(name: str, secret: bytes, *rights: str) -> ApiKey:
    digest = hashlib.sha256(secret).hexdigest()
    return ApiKey.parse(f"{name}:{digest}" + (f":{'+'.join(rights)}" if rights else ""))


def test_a_limit_holds_for_each_caller_and_says_when_to_come_again() -> None:
    limit = RateLimit(3)
    assert [limit.hit("a") for _ in range(3)] == [None] * 3
    wait = limit.hit("a")
    assert wait is not None
    assert 0 <= wait <= 120
    assert limit.hit("b") is None


def test_no_limit_lets_everything_pass() -> None:
    limit = RateLimit(0)
    assert all(limit.hit("a") is None for _ in range(1000))


@pytest.mark.parametrize(
    ("address", "whom"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_neighbours_of_an_ipv6_network_are_one(address: str, whom: str) -> None:
    assert neighbourhood(address) == whom


def test_without_keys_anybody_has_the_usual_rights() -> None:
    ring = Keyring([])
    assert ring.is_open
    found = ring.find(None)
    assert found is not None
    assert found.rights == USUAL
    assert "admin" not in found.rights


def test_a_key_is_found_by_its_digest_alone() -> None:
    ring = Keyring([key("a", b"first"), key("b", b"second", "admin")])
    assert [ring.find(secret) for secret in (None, b"", b"third")] == [None] * 3
    first, second = ring.find(b"first"), ring.find(b"second")
    assert first is not None
    assert second is not None
    assert (first.name, second.name, second.rights) == ("a", "b", {"admin"})
    assert b"first" not in repr(vars(ring)).encode()


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ([], None),
        ([(b"authorization", b"Bearer abc")], b"abc"),
        ([(b"authorization", b"bearer  abc ")], b"abc"),
        ([(b"authorization", b"Basic abc")], None),
        ([(b"x-api-key", b"abc")], b"abc"),
    ],
)
def test_where_a_key_stands(headers: list[tuple[bytes, bytes]], secret: bytes | None) -> None:
    assert secret_of(headers) == secret


def test_ids_are_uuids_of_version_7_and_sort_by_time() -> None:
    first = new_id()
    time.sleep(0.002)
    assert first < new_id()
    assert len(first) == 32
    assert first[12] == "7"
    assert first[16] in "89ab"
    assert abs(int(first[:12], 16) / 1000 - time.time()) < 60
    assert len({new_id() for _ in range(10_000)}) == 10_000
    several = new_ids(300)
    assert several == sorted(set(several))
    assert {(one[12], one[16] in "89ab") for one in several} == {("7", True)}
