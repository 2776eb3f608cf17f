"""How often a caller may ask. It knows callers by a name, and nothing of HTTP."""

import ipaddress
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter


class RateLimit:
    """Requests a minute for each caller, counted in a sliding window in this process."""

    def __init__(self, per_minute: int) -> None:
        """Make a limit; 0 is none."""
        self._item = RateLimitItemPerMinute(per_minute) if per_minute else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage()) if per_minute else None

    def hit(self, caller: str) -> float | None:
        """Count a request; return None if it may pass, else the seconds until one may."""
        if self._limiter is None or self._item is None or self._limiter.hit(self._item, caller):
            return None
        return max(0.0, self._limiter.get_window_stats(self._item, caller).reset_time - time.time())


def neighbourhood(address: str) -> str:
    """Return whom an address stands for: of IPv6 a household's /64, which one caller commands."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
