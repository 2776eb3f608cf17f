"""The app: connects settings, model, log, middleware and routes, and runs the server.

    serve -> uvicorn (LoadSheddingProtocol) -> RequestMiddleware -> routes -> Classifier

The server runs until SIGTERM: then, after SHUTDOWN_DELAY_SECONDS, it stops accepting, finishes the
accepted requests, and exits.
"""

import asyncio
import errno
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from math import ceil
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from uvicorn.supervisors import Multiprocess

from serving.api import openapi, operations, review, v1
from serving.api.routing import route_table
from serving.bundle import BundleError, read_manifest
from serving.classifier import Classifier
from serving.compat import compatible_apis
from serving.errors import ServiceError
from serving.explain.explainer import Explainer
from serving.inference.cpu import cpu_limit
from serving.inference.policy import Policy
from serving.middleware.load_shedding import METRICS, STATE, LoadShedder, LoadSheddingProtocol
from serving.middleware.rate_limit import rate_limit
from serving.middleware.request import RequestMiddleware
from serving.middleware.route_table import UNKNOWN
from serving.model_manager import ModelManager, bundle_folder
from serving.observability import json_logging, metrics, tracing
from serving.prediction_log.archive import ArchiveRefusedError
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.outbox import Outbox
from serving.prediction_log.sqlite_writer import OutboxError
from serving.review.outbox import OutboxReviews
from serving.review.service import QueueOptions, ReviewQueue
from serving.review.store import ReviewStore
from serving.settings import (
    Settings,
    SettingsError,
    environment_warnings,
    load_settings,
    origin_pattern,
    variable,
)
from serving.ui import pages

CANNOT_START = (SettingsError, BundleError, OutboxError, ArchiveRefusedError)

REPORT_SECONDS = 5.0

# Headers of replies that scripts of other origins may read.
EXPOSED_HEADERS = [
    "retry-after",
    "x-categories-judged",
    "x-request-id",
    "x-truncated-inputs",
    "x-truncated-spans",
]

log = logging.getLogger("serving.app")


def create_app(settings: Settings) -> FastAPI:
    """Return the app; it loads its model when it starts.

    Raises:
        SettingsError: a file that a setting names cannot be used.
    """
    threads = settings.threads or cpu_limit()
    app_metrics = metrics.Metrics(settings.drift_report, tracing.from_environment())
    models = ModelManager(settings, app_metrics, threads=max(1, threads // settings.workers))
    prediction_log = create_log(settings)
    reviews = create_review_queue(settings, prediction_log)
    rate = rate_limit(settings, app_metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        await prediction_log.start()
        try:
            await models.start()
            if models.not_ready:
                log.error("not ready: %s", models.not_ready)
            # Browsers of other origins need headers that only the CORS middleware adds.
            shedder = LoadShedder(models, app_metrics, routes)
            tasks = [
                asyncio.create_task(models.watch()),
                asyncio.create_task(_report(app_metrics, models, prediction_log)),
            ]
            if any("review" in key.scopes for key in settings.api_keys):
                report = app_metrics.review_queue
                tasks.append(
                    asyncio.create_task(reviews.watch(lambda n, agreed: report(n, agreed.kappa)))
                )
            if settings.shutdown_delay_seconds:
                _delay_shutdown(models, settings.shutdown_delay_seconds)
            await rate.start()
            yield {STATE: None if settings.cors_origins else shedder, METRICS: app_metrics}
            for task in tasks:
                task.cancel()
            await models.close()
            await rate.close()
        finally:
            await prediction_log.close()
            if app_metrics.tracing:
                await asyncio.to_thread(app_metrics.tracing.close)

    app = FastAPI(
        title="Tweet Tagger",
        description="Tells whether a short text is hate, offensive or neither, and how sure it is.",
        version="1",
        lifespan=lifespan,
        servers=[{"url": settings.public_url}] if settings.public_url else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # the request middleware takes a path with a slash at its end
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.models, app.state.rate = models, rate
    app.state.classifier = Classifier(settings, app_metrics, prediction_log)
    app.state.explainer = Explainer()
    app.state.reviews = reviews
    apis = list(compatible_apis())
    routers = [v1.router, review.router, operations.router, pages.router(), openapi.router]
    routers += [api.router for api in apis]
    for router in routers:
        app.include_router(router)
    for api in apis:
        if hasattr(api, "configure"):
            api.configure(app, settings)
    openapi.describe(app, settings)
    routes = route_table([app.router, *routers])
    _add_middleware(app, settings, app_metrics, routes)
    return app


def _delay_shutdown(models: ModelManager, seconds: float) -> None:
    """Let SIGTERM reach the server's own handler `seconds` later; a second one reaches it at once.

    A load balancer needs that time to notice that /readyz fails. uvicorn closes idle connections
    when it stops, and a request that is on its way on one of them would be lost.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # Python allows signal handlers in the main thread only; a server is never elsewhere
    loop = asyncio.get_running_loop()
    stop = cast(Callable[[int, FrameType | None], None], signal.getsignal(signal.SIGTERM))

    def on_term(number: int, frame: FrameType | None) -> None:
        if models.stopping:
            stop(number, frame)
            return
        models.stopping = True
        log.info("shutting down in %g seconds", seconds)
        loop.call_soon_threadsafe(loop.call_later, seconds, stop, number, None)

    signal.signal(signal.SIGTERM, on_term)


def _add_middleware(
    app: FastAPI,
    settings: Settings,
    app_metrics: metrics.Metrics,
    routes: Any,
) -> None:
    for exception in (HTTPException, RequestValidationError):
        app.add_exception_handler(exception, _raise)
    app.add_middleware(
        RequestMiddleware,
        admission=app.state.models,
        metrics=app_metrics,
        routes=routes,
        rate=app.state.rate,
        settings=settings,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=["*"] if "*" in settings.cors_origins else [],
            allow_origin_regex=origin_pattern(settings.cors_origins),
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            # Client libraries send headers of their own, such as x-stainless-*. There are no
            # cookies that a page could abuse: a key is a header that the page itself must know.
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
            # A public page may call a service in a private network, if its origin is allowed.
            allow_private_network=True,
        )
    if app_metrics.tracing:

        def route(path: str) -> str:
            rule = routes.find(path)
            rule = routes.find(path.removesuffix("/")) if rule is UNKNOWN else rule
            return str(rule.path)

        app.add_middleware(tracing.TracingMiddleware, tracing=app_metrics.tracing, route=route)


async def _report(
    app_metrics: metrics.Metrics, models: ModelManager, prediction_log: PredictionLog
) -> None:
    """Set the gauges of model and log, until cancelled.

    Each process does so by itself: Prometheus keeps its connection, and so asks one of several
    workers, which need not be the one whose relay works.
    """
    while True:
        app_metrics.ready(ready=models.not_ready is None and models.alive)
        app_metrics.log(prediction_log.stats())
        await asyncio.sleep(REPORT_SECONDS)


async def _raise(_: Request, error: Exception) -> Response:
    """Pass an error on to the request middleware, which renders it in the route's format."""
    raise error


def create_log(settings: Settings) -> PredictionLog:
    """Return the prediction log of these settings; it opens nothing yet.

    Raises:
        ArchiveRefusedError: MONGODB_URI is malformed.
    """
    archive = None
    if settings.mongodb_uri:
        from serving.prediction_log.mongo import MongoArchive  # its driver takes a fifth of a start

        ttl = timedelta(days=settings.mongodb_ttl_days)
        archive = MongoArchive(settings.mongodb_uri.get_secret_value(), ttl=ttl or None)
    outbox = Outbox(settings.outbox, max_bytes=settings.outbox_mb * 10**6, ring=archive is None)
    max_age = timedelta(days=settings.outbox_days) or None
    return PredictionLog(outbox, archive, text=settings.store_text, max_age=max_age)


def create_review_queue(settings: Settings, prediction_log: PredictionLog) -> ReviewQueue:
    """Return the review queue of a log: its store is MongoDB, else the outbox."""
    return ReviewQueue(
        review_store(prediction_log),
        prediction_log,
        QueueOptions(
            days=settings.review_days,
            random_share=settings.review_random_share,
            second_share=settings.review_second_share,
            lease_seconds=settings.review_lease_seconds,
            has_texts=settings.store_text == "full",
        ),
    )


def review_store(prediction_log: PredictionLog) -> ReviewStore:
    """Return the store of reviews that belongs to a log."""
    if prediction_log.archive is None:
        return OutboxReviews(prediction_log.outbox)
    from serving.prediction_log.mongo import MongoArchive
    from serving.review.mongo import MongoReviews

    assert isinstance(prediction_log.archive, MongoArchive)
    return MongoReviews(prediction_log.archive)


def from_environment() -> FastAPI:
    """Return the app of a worker process."""
    settings = load_settings()
    json_logging.configure(settings.log_level)
    if settings.prometheus_multiproc_dir:
        metrics.forget_dead_workers(settings.prometheus_multiproc_dir)
    return create_app(settings)


class Server(uvicorn.Server):
    """uvicorn's server; it prints its URL once it listens, and reloads the model on SIGHUP.

    With several workers uvicorn's parent process gets that signal and replaces them one by one.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._reloads: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Start, and print the URL."""
        await super().startup(sockets)
        if self.started:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hangup)
            announce(self.servers[0].sockets[0])

    def _on_hangup(self) -> None:
        self._reloads.add(task := asyncio.create_task(self._reload()))
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        with suppress(ServiceError):  # the model manager has logged it
            await cast(FastAPI, self.config.app).state.models.reload()


def announce(listener: Any) -> None:
    """Print the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"Tweet Tagger on http://{shown}:{port}  (try /docs)", flush=True)


def _listen(settings: Settings) -> socket.socket:
    """Return a socket that is bound to HOST and PORT; SettingsError if it cannot be."""
    host = settings.host.removeprefix("[").removesuffix("]")
    listener = None
    try:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, settings.port))
    except (OSError, UnicodeError) as error:
        if listener:
            listener.close()
        raise SettingsError(_cannot_listen(settings, error)) from None
    listener.set_inheritable(True)
    return listener


def _cannot_listen(settings: Settings, error: OSError | UnicodeError) -> str:
    """Return which setting must change."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    if isinstance(error, OSError) and error.errno in {errno.EADDRINUSE, errno.EACCES}:
        place = f"port {settings.port} of {settings.host}"
        wanted = "a free port, above 1023 for an ordinary user"
        return f"{variable('port')}: cannot listen on {place}: {reason}; wanted {wanted}"
    name = variable("host")
    wanted = "an address of this machine, such as 127.0.0.1 or 0.0.0.0 (all of them)"
    # Build tools such as conda's compilers set HOST to something that is not an address.
    hint = "; TAGGER_HOST comes before HOST" if name == "HOST" else ""
    return f"{name}: cannot listen on {settings.host!r}: {reason}; wanted {wanted}{hint}"


def _warn(settings: Settings) -> None:
    """Log what an operator may have meant otherwise."""
    for warning in environment_warnings():
        log.warning(warning)
    if settings.public_url is None and not is_loopback(settings.host):
        log.warning(
            "TAGGER_PUBLIC_URL is not set: behind a TLS proxy that is not in "
            "TAGGER_TRUSTED_PROXIES the discovery document says http://, and its clients send "
            "their keys in clear"
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to an address."""
    return host in {"localhost", "::1", "[::1]"} or host.startswith("127.")


async def _check_log(settings: Settings) -> None:
    """Raise what would keep the prediction log from working."""
    await create_log(settings).check()


def serve(settings: Settings) -> None:
    """Serve until SIGTERM.

    Raises:
        SettingsError, BundleError, OutboxError, ArchiveRefusedError: the service cannot start.
    """
    json_logging.configure(settings.log_level)
    read_manifest(bundle_folder(settings))
    Policy.load(settings.policy)
    _warn(settings)
    asyncio.run(_check_log(settings))
    app = create_app(settings)
    listener = _listen(settings)
    config = uvicorn.Config(
        "serving.app:from_environment" if settings.workers > 1 else app,
        factory=settings.workers > 1,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        http=LoadSheddingProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=ceil(settings.shutdown_grace_seconds),
        timeout_keep_alive=75,
        # How long a worker that hangs, and SIGTERM to it, may go unnoticed.
        timeout_worker_healthcheck=10,
        backlog=2048,
    )
    if settings.workers == 1:
        Server(config).run(sockets=[listener])
    else:
        _serve_workers(config, listener)


def _serve_workers(config: uvicorn.Config, listener: socket.socket) -> None:
    with _metrics_folder() as folder:
        # The workers inherit it, and prometheus_client looks there.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        listener.listen(config.backlog)  # connections that come before the workers are ready wait
        announce(listener)
        Multiprocess(config, [listener]).run()


@contextmanager
def _metrics_folder() -> Iterator[str]:
    """Make the folder in which the workers share their metrics; SettingsError if it cannot be."""
    name = "PROMETHEUS_MULTIPROC_DIR"
    if folder := os.environ.get(name, "").strip():
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"{name}: {folder}: {error.strerror}") from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SettingsError(
                f"{name}: {folder}: wanted a folder that uid {os.geteuid()} can write"
            )
        yield folder
        return
    try:
        temporary = tempfile.TemporaryDirectory(prefix="tagger-metrics-")
    except OSError as error:
        raise SettingsError(
            f"{name}: workers need a folder that they can write ({error.strerror}); set it, or "
            "mount a tmpfs at /tmp"
        ) from None
    with temporary as folder:
        yield folder
