import pytest

from serving.middleware.rate_limit import RateLimit, client_prefix


def test_a_limit_holds_for_each_caller_and_says_how_long_to_wait() -> None:
    limit = RateLimit(3)
    assert [limit.hit("a") for _ in range(3)] == [None] * 3
    wait = limit.hit("a")
    assert wait is not None
    assert 0 <= wait <= 120
    assert limit.hit("b") is None


def test_without_a_limit_every_request_passes() -> None:
    limit = RateLimit(0)
    assert all(limit.hit("a") is None for _ in range(1000))


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_all_addresses_of_an_ipv6_64_are_one_client(address: str, prefix: str) -> None:
    assert client_prefix(address) == prefix
