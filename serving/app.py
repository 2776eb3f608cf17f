"""The app: wires settings, service, gate and routes together, and runs them.

`python -m serving.app` serves with the environment's settings until SIGTERM: then it stops
accepting, finishes what it accepted, and ends.
"""

import asyncio
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from math import ceil
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from uvicorn.supervisors import Multiprocess

from serving import docs, doors, logs, metrics, routes, static
from serving.bundle import BundleError, read_manifest
from serving.cpu import cpu_limit
from serving.drain import ArchiveRefusedError
from serving.errors import ServiceError
from serving.explain import Explainer
from serving.gate import Gate
from serving.outbox import Outbox
from serving.perspective import Attributes, AttributesError
from serving.policy import Policy, PolicyError
from serving.prediction_log import PredictionLog
from serving.service import Service, bundle_folder
from serving.settings import Settings, SettingsError, load_settings
from serving.turnstile import STATE, Refuser, Turnstile
from serving.writer import OutboxError

CANNOT_START = (
    SettingsError,
    BundleError,
    PolicyError,
    AttributesError,
    OutboxError,
    ArchiveRefusedError,
)
log = logging.getLogger("serving.app")


def create_app(settings: Settings) -> FastAPI:
    """Return the app; it loads its model when it starts."""
    threads = settings.threads or cpu_limit()
    kept = prediction_log(settings)
    service = Service(settings, threads=max(1, threads // settings.workers), log=kept)

    direct = routes.direct(routes.api, doors.api)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        await kept.start()
        try:
            await service.start()
            if service.not_ready:
                log.error("not ready: %s", service.not_ready)
            # Browsers of other origins need headers that only the whole way adds.
            refuser = Refuser(service, direct, doors.DIALECTS)
            watching = asyncio.create_task(service.watch())
            yield {STATE: None if settings.cors_origins else refuser}
            watching.cancel()
            await service.close()
        finally:
            await kept.close()

    app = FastAPI(
        title="Tweet Tagger",
        description="Tells whether a short text is hate, offensive or neither, and how sure it is.",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.service = service
    app.state.attributes = Attributes.load(settings.perspective)
    app.state.explainer = Explainer()
    app.include_router(routes.api)
    app.include_router(doors.api)
    app.include_router(routes.pages)
    app.include_router(static.router())
    app.include_router(docs.router)
    docs.describe(app, settings)
    for kind in (HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _to_the_gate)
    app.add_middleware(
        Gate,
        service=service,
        right_of=doors.right_of,
        dialects=doors.DIALECTS,
        direct=direct,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return app


def prediction_log(settings: Settings) -> PredictionLog:
    """Return the log that the settings ask for; it opens nothing yet.

    Raises:
        ArchiveRefusedError: MONGODB_URI is malformed.
    """
    archive = None
    if settings.mongodb_uri:
        from serving.mongo import MongoArchive  # its driver takes a fifth of the start

        ttl = timedelta(days=settings.mongodb_ttl_days)
        archive = MongoArchive(settings.mongodb_uri.get_secret_value(), ttl=ttl or None)
    outbox = Outbox(settings.outbox, max_bytes=settings.outbox_mb * 10**6, ring=archive is None)
    max_age = timedelta(days=settings.outbox_days) or None
    return PredictionLog(outbox, archive, text=settings.log_text, max_age=max_age)


async def _to_the_gate(_: Request, error: Exception) -> Response:
    """Let an error go on to the gate, which knows how to tell of it."""
    raise error


def from_environment() -> FastAPI:
    """Return the app of a worker process."""
    settings = load_settings()
    logs.configure(settings.log_level)
    if settings.prometheus_multiproc_dir:
        metrics.forget_dead_workers(settings.prometheus_multiproc_dir)
    return create_app(settings)


class Server(uvicorn.Server):
    """uvicorn's, which says where it listens once it does, and takes a new model over on SIGHUP.

    Of several workers uvicorn's parent gets that signal, and replaces them one after the other.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._reloads: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Start, and print the URL."""
        await super().startup(sockets)
        if self.started:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
            announce(self.servers[0].sockets[0])

    def _hang_up(self) -> None:
        self._reloads.add(task := asyncio.create_task(self._reload()))
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        with suppress(ServiceError):  # the service has logged it
            await cast(FastAPI, self.config.app).state.service.reload()


def announce(socket: Any) -> None:
    """Print where a socket listens."""
    host, port = socket.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"Tweet Tagger on http://{shown}:{port}  (try /docs)", flush=True)


async def _try(settings: Settings) -> None:
    """Raise what would keep the log from working."""
    await prediction_log(settings).check()


def main() -> None:
    """Serve until told to stop."""
    try:
        settings = load_settings()
        read_manifest(bundle_folder(settings.bundle))
        Policy.load(settings.policy)
        Attributes.load(settings.perspective)
        logs.configure(settings.log_level)
        asyncio.run(_try(settings))
    except CANNOT_START as error:
        sys.exit(str(error))
    config = uvicorn.Config(
        "serving.app:from_environment" if settings.workers > 1 else create_app(settings),
        factory=settings.workers > 1,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        http=Turnstile,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=ceil(settings.drain_seconds),
        timeout_keep_alive=75,
        # A worker that dies between two looks is missed for so long, and SIGTERM with it.
        timeout_worker_healthcheck=10,
        backlog=2048,
    )
    if settings.workers == 1:
        Server(config).run()
        return
    with tempfile.TemporaryDirectory(prefix="tagger-metrics-") as folder:
        # The workers inherit it, and prometheus_client looks there.
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)
        socket = config.bind_socket()
        socket.listen(config.backlog)  # who comes before the workers are ready waits
        announce(socket)
        Multiprocess(config, [socket]).run()


if __name__ == "__main__":
    main()
