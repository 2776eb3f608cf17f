"""How often a caller may ask: requests a minute, in a sliding window."""

import ipaddress
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter


class RateLimit:
    """Requests a minute of each caller, counted in this process."""

    def __init__(self, per_minute: int) -> None:
        """Create a limit; 0 means no limit."""
        self._item = RateLimitItemPerMinute(per_minute) if per_minute else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage()) if per_minute else None

    def hit(self, caller: str) -> float | None:
        """Count a request; return None if it is within the limit, else the seconds to wait."""
        if self._limiter is None or self._item is None or self._limiter.hit(self._item, caller):
            return None
        return max(0.0, self._limiter.get_window_stats(self._item, caller).reset_time - time.time())


def client_prefix(address: str) -> str:
    """Return the address that a limit counts: of IPv6 the /64, which one household controls."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
