"""What the service tells Prometheus: each phase's time, batches, queue, cache, labels, refusals.

With several worker processes the values lie in files that all of them write and each can add up;
`prometheus_client` does so when PROMETHEUS_MULTIPROC_DIR is set before it is imported.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from prometheus_client.values import MutexValue, ValueClass

from serving.bundle import Manifest
from serving.inference.batcher import BatchReport
from serving.inference.engine import Prediction
from serving.observability.log_metrics import LogMetrics
from serving.prediction_log.log import LogStats

SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 5, 10)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Metrics:
    """The metrics of one app; the engine's `Observer`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._requests = Counter(
            "tagger_requests", "Requests answered", ["route", "status"], registry=r
        )
        self._seconds = Histogram(
            "tagger_request_seconds", "Whole requests", ["route"], buckets=SECONDS, registry=r
        )
        phase = Histogram(
            "tagger_phase_seconds",
            "Parts of a request: tokenise, queue, infer (of its batch), store",
            ["phase"],
            buckets=SECONDS,
            registry=r,
        )
        self._tokenise, self._queue, self._infer, self._store = (
            phase.labels(name) for name in ("tokenise", "queue", "infer", "store")
        )
        self._refusals = Counter(
            "tagger_refusals", "Requests refused or failed, by kind", ["kind"], registry=r
        )
        self._log = LogMetrics(r)
        self._disconnects = Counter(
            "tagger_client_disconnects", "Callers who left before the answer", registry=r
        )
        self._rows = Histogram("tagger_batch_rows", "Texts of a batch", buckets=ROWS, registry=r)
        self._tokens = Histogram(
            "tagger_batch_tokens", "Tokens of a batch, no padding", buckets=TOKENS, registry=r
        )
        self._padding = Counter("tagger_padding_tokens", "Tokens that were padding", registry=r)
        self._failed = Counter("tagger_failed_batches", "Batches with a failure", registry=r)
        cache = Counter("tagger_cache_texts", "Texts by cache outcome", ["outcome"], registry=r)
        self._hits, self._misses = cache.labels("hit"), cache.labels("miss")
        self._predictions = Counter(
            "tagger_predictions", "Texts answered", ["label", "action", "api"], registry=r
        )
        self.queue_tokens = Gauge(
            "tagger_queue_tokens", "Tokens that wait", registry=r, multiprocess_mode="livesum"
        )
        self.active = Gauge(
            "tagger_active_requests", "Requests in work", registry=r, multiprocess_mode="livesum"
        )
        self._ready = Gauge(
            "tagger_ready", "1 if it answers", registry=r, multiprocess_mode="livemin"
        )
        self._model = Gauge(
            "tagger_model_info",
            "What is served",
            ["name", "version", "policy", "quantisation", "data"],
            registry=r,
            multiprocess_mode="livemax",
        )
        self._reloads = Counter(
            "tagger_model_reloads", "New models, by outcome", ["outcome"], registry=r
        )
        self._served: Gauge | None = None
        # Looking labels up takes longer than counting.
        self._of = functools.cache(lambda metric, *labels: metric.labels(*labels))

    def log(self, stats: LogStats) -> None:
        """Note how the prediction log does."""
        self._log.note(stats)

    def tokenised(self, seconds: float) -> None:
        """Note one request's tokenising."""
        self._tokenise.observe(seconds)

    def cached(self, hits: int, misses: int) -> None:
        """Note how many texts of a request had their scores kept."""
        if hits:
            self._hits.inc(hits)
        if misses:
            self._misses.inc(misses)

    def batch(self, report: BatchReport) -> None:
        """Note one batch."""
        for seconds in report.queued:
            self._queue.observe(seconds)
        self._infer.observe(report.seconds)
        self._rows.observe(report.rows)
        self._tokens.observe(report.tokens)
        self._padding.inc(report.padded - report.tokens)
        if report.failed:
            self._failed.inc()

    def predicted(self, predictions: Iterable[Prediction], api: str) -> None:
        """Count what was answered."""
        for row in predictions:
            self._of(self._predictions, row.label, row.action, api).inc()

    def stored(self, seconds: float) -> None:
        """Note how long the prediction log took."""
        self._store.observe(seconds)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Note one whole request."""
        self._of(self._requests, route, status).inc()
        self._of(self._seconds, route).observe(seconds)

    def refused(self, kind: str) -> None:
        """Count a refusal or failure."""
        self._of(self._refusals, kind).inc()

    def client_disconnected(self) -> None:
        """Count a client that disconnected before its reply."""
        self._disconnects.inc()

    def model(self, manifest: Manifest, policy: str, *, ready: bool) -> None:
        """Say what is being served."""
        if self._served:
            self._served.set(0)
        self._served = self._model.labels(
            manifest.name, manifest.version, policy, manifest.quantisation, manifest.data
        )
        self._served.set(1)
        self._ready.set(1 if ready else 0)

    def model_reloaded(self, outcome: str) -> None:
        """Count a new model that was taken or refused."""
        self._reloads.labels(outcome).inc()

    def render(self) -> bytes:
        """Return the exposition text, of all workers together."""
        if ValueClass is MutexValue:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def forget_dead_workers(folder: Path) -> None:
    """Drop the gauges of processes that are gone; what they counted stays."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if not Path("/proc", pid).exists():
            multiprocess.mark_process_dead(int(pid), str(folder))  # type: ignore[no-untyped-call]
