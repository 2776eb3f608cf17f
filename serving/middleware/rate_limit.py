"""How often a caller may ask: requests a minute, in a sliding window.

    RateLimit         counted in this process
    SharedRateLimit   counted in Redis, for all workers and replicas (TAGGER_RATE_LIMIT_STORAGE)

A request never fails because of Redis, and waits at most WAIT_S for it. While Redis is slow or gone
a circuit breaker is open: requests are counted in this process without asking it, and a probe in
the background closes the breaker once Redis counts as fast as it must.
"""

import asyncio
import ipaddress
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from serving.observability.metrics import Metrics
from serving.settings import Settings, SettingsError, variable

if TYPE_CHECKING:
    from limits.aio.strategies import SlidingWindowCounterRateLimiter as AsyncLimiter
    from redis.asyncio import BlockingConnectionPool

# Of the 50 ms that a request may lose, the rest is for an event loop that is busy.
WAIT_S = 0.03
PROBE_S = 0.25  # between two probes
CONNECT_S = 1.0  # for connecting, which no request waits for
# A probe waits for this many turns of the event loop, WAIT_S together: a pause of this process, in
# which it reads no reply, does not count as one of Redis.
PROBE_TURNS = 8
CONNECTIONS = 8  # of a process; asking takes a tenth of a millisecond of its processor
KEY_PREFIX = "tweet-tagger"
PROBE = RateLimitItemPerMinute(10**9)  # counts like a caller's limit, and is never reached

log = logging.getLogger("serving.rate_limit")


class RateLimit:
    """Requests a minute of each caller, counted in this process."""

    is_shared = False

    def __init__(self, per_minute: int) -> None:
        """Create a limit; 0 means no limit."""
        self._item = RateLimitItemPerMinute(per_minute)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage()) if per_minute else None

    async def start(self) -> None:
        """Connect to what counts."""

    async def close(self) -> None:
        """Disconnect from it."""

    async def hit(self, caller: str) -> float | None:
        """Count a request; return None if it is within the limit, else the seconds to wait."""
        return self._hit_here(caller)

    def _hit_here(self, caller: str) -> float | None:
        if self._limiter is None or self._limiter.hit(self._item, caller):
            return None
        return max(0.0, self._limiter.get_window_stats(self._item, caller).reset_time - time.time())


class SharedRateLimit(RateLimit):
    """Requests a minute of each caller, counted in Redis."""

    is_shared = True

    def __init__(self, per_minute: int, url: str, metrics: Metrics) -> None:
        """Create a limit; `start` connects.

        Raises:
            SettingsError: the package redis is missing, or cannot use the URL.
        """
        super().__init__(per_minute)
        self._metrics = metrics
        self._redis, self._pool = _redis_limiter(url, CONNECTIONS)
        # In a burst, requests wait for each other's connections; a probe must not.
        self._probe_redis, self._probe_pool = _redis_limiter(url, 1)
        self._is_open: bool | None = None  # of the breaker; None before the first probe
        self._doubted = asyncio.Event()  # a request waited in vain
        self._asking: set[asyncio.Task[float | None]] = set()
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look for Redis, and go on doing so in the background."""
        await self._probe()
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop looking, and disconnect."""
        tasks = [*self._asking, *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # they close their connections
        await self._pool.disconnect()
        await self._probe_pool.disconnect()

    async def hit(self, caller: str) -> float | None:
        """Count a request; return None if it is within the limit, else the seconds to wait."""
        if self._is_open is not False:
            return self._fall_back(caller)
        # A task of its own: cancelling it, perhaps in a burst, would close its connection.
        self._asking.add(task := asyncio.create_task(self._ask(caller)))
        task.add_done_callback(self._asked)
        await asyncio.wait({task}, timeout=WAIT_S)
        if not task.done():
            self._doubted.set()
        elif not task.cancelled() and (error := task.exception()):
            self._open(error)
        elif not task.cancelled():
            return task.result()
        return self._fall_back(caller)

    async def _ask(self, caller: str) -> float | None:
        if await self._redis.hit(self._item, caller):
            return None
        stats = await self._redis.get_window_stats(self._item, caller)
        return max(0.0, stats.reset_time - time.time())

    def _asked(self, task: "asyncio.Task[float | None]") -> None:
        self._asking.discard(task)
        if not task.cancelled():
            task.exception()  # if its request waits no longer, nobody else looks at it

    def _fall_back(self, caller: str) -> float | None:
        self._metrics.rate_limited_here()
        return self._hit_here(caller)

    async def _watch(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(PROBE_S):
                    await self._doubted.wait()
            self._doubted.clear()
            await self._probe()
            if self._is_open:
                await asyncio.sleep(PROBE_S)

    async def _probe(self) -> None:
        """Open or close the breaker."""
        try:
            if self._is_open is not False:
                await self._connect()
            await self._count_in_time()
        except Exception as error:  # of redis, of sockets, of TLS
            self._open(error)
        else:
            self._close()

    async def _count_in_time(self) -> None:
        """Count something in Redis, which shows more than a PING: it may refuse to write.

        Raises:
            TimeoutError: it took longer than WAIT_S.
        """
        task = asyncio.create_task(self._count_once(self._probe_redis))
        try:
            for _ in range(PROBE_TURNS):
                await asyncio.wait({task}, timeout=WAIT_S / PROBE_TURNS)
                if task.done():
                    return await task
        finally:
            task.cancel()
            await asyncio.wait({task})  # it closes its connection
        raise TimeoutError

    async def _count_once(self, limiter: "AsyncLimiter") -> None:
        await limiter.hit(PROBE, "probe")

    async def _connect(self) -> None:
        """Replace all connections: those to a server that was lost fail one by one."""
        await self._pool.disconnect()
        await self._probe_pool.disconnect()
        limiters = [self._probe_redis, *[self._redis] * CONNECTIONS]
        async with asyncio.timeout(CONNECT_S):
            await asyncio.gather(*map(self._count_once, limiters))

    def _open(self, error: BaseException) -> None:
        if self._is_open:
            return
        self._is_open = True
        self._metrics.rate_limit_local(local=True)
        for task in self._asking:  # their requests wait no longer
            task.cancel()
        log.warning("each process counts its own rate limits: %s", _reason(error))

    def _close(self) -> None:
        if self._is_open is False:
            return
        again = " again" if self._is_open else ""
        self._is_open = False
        self._metrics.rate_limit_local(local=False)
        log.info("rate limits are counted in Redis%s", again)


def rate_limit(settings: Settings, metrics: Metrics) -> RateLimit:
    """Return the rate limit of these settings; SettingsError if its storage cannot be used."""
    per_minute, storage = settings.requests_per_minute, settings.rate_limit_storage
    if storage is None or not per_minute:
        return RateLimit(per_minute)
    return SharedRateLimit(per_minute, storage.get_secret_value(), metrics)


def _redis_limiter(url: str, connections: int) -> "tuple[AsyncLimiter, BlockingConnectionPool]":
    name = variable("rate_limit_storage")
    try:
        from limits.aio.storage import RedisStorage
        from limits.aio.strategies import SlidingWindowCounterRateLimiter as AsyncLimiter
        from redis.asyncio import BlockingConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise SettingsError(
            f"{name}: the package redis is missing; wanted: pip install 'toxic-tweet-tagger[redis]'"
        ) from None
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=CONNECT_S,
            socket_timeout=CONNECT_S,
            socket_connect_timeout=CONNECT_S,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:  # its text may have the password
        raise SettingsError(
            f"{name}: got a value that is not shown here, wanted redis://[:password@]host[:port]"
        ) from None
    # The storage's type forgets that its client takes a pool.
    options: dict[str, Any] = {"key_prefix": KEY_PREFIX, "connection_pool": pool}
    return AsyncLimiter(RedisStorage("async+redis://", implementation="redispy", **options)), pool


def _reason(error: BaseException) -> str:
    """Return why Redis does not count, in one line; its client's errors have no password."""
    if isinstance(error, TimeoutError):
        return f"Redis does not answer within {WAIT_S * 1000:.0f} ms"
    return f"Redis: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def client_prefix(address: str) -> str:
    """Return the address that a limit counts: of IPv6 the /64, which one household controls.

    An IPv4 client of a socket that listens on `::` has an address such as `::ffff:192.0.2.1`.
    """
    if ":" not in address:
        return address
    try:
        ip = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((ip, 64), strict=False))
