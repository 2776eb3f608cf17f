import pytest
from uvicorn.middleware.proxy_headers import _TrustedHosts

from serving.app import _as_seen


@pytest.mark.parametrize(
    ("proxies", "address", "trusted"),
    [
        (("127.0.0.1",), "::ffff:127.0.0.1", True),
        (("10.0.0.0/8",), "::ffff:10.9.8.7", True),
        (("10.0.0.0/8",), "::ffff:11.9.8.7", False),
        (("*",), "192.0.2.1", True),
        (("2001:db8::/32",), "::ffff:192.0.2.1", False),
    ],
)
def test_an_ipv4_proxy_is_trusted_on_a_socket_for_both_families(
    proxies: tuple[str, ...], address: str, trusted: bool
) -> None:
    assert (address in _TrustedHosts(_as_seen(proxies))) is trusted
