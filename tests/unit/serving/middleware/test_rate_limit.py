import asyncio
import sys

import pytest
from pydantic import SecretStr

from serving.middleware.rate_limit import RateLimit, client_prefix, rate_limit
from serving.observability.metrics import Metrics
from serving.settings import Settings, SettingsError


def hits(limit: RateLimit, *callers: str) -> list[float | None]:
    async def ask() -> list[float | None]:
        return [await limit.hit(caller) for caller in callers]

    return asyncio.run(ask())


def test_a_limit_holds_for_each_caller_and_says_how_long_to_wait() -> None:
    *within, wait, other = hits(RateLimit(3), *"aaaab")
    assert within == [None] * 3
    assert wait is not None
    assert 0 <= wait <= 120
    assert other is None


def test_without_a_limit_every_request_passes() -> None:
    assert hits(RateLimit(0), *"a" * 1000) == [None] * 1000


def test_redis_counts_only_if_there_is_a_limit() -> None:
    url = SecretStr("redis://127.0.0.1:1")
    for settings in (Settings(rate_limit_storage=url), Settings(requests_per_minute=5)):
        assert not rate_limit(settings, Metrics()).is_shared
    assert rate_limit(Settings(rate_limit_storage=url, requests_per_minute=5), Metrics()).is_shared


def test_without_the_package_redis_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    settings = Settings(rate_limit_storage=SecretStr("redis://h"), requests_per_minute=5)
    with pytest.raises(SettingsError, match=r"pip install 'toxic-tweet-tagger\[redis\]'"):
        rate_limit(settings, Metrics())


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_all_addresses_of_an_ipv6_64_are_one_client(address: str, prefix: str) -> None:
    assert client_prefix(address) == prefix
