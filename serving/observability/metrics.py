"""The Prometheus metrics: requests, phases, batches, cache, predictions, model, prediction log.

With several worker processes each one writes its values to files, which `render` adds up;
`prometheus_client` does so if PROMETHEUS_MULTIPROC_DIR is set before it is imported. Workers share
the outbox, so its gauges are those of the worker that set them last. The drift report's gauges are
read from its file by whichever worker renders.
"""

import functools
from collections.abc import Iterable
from math import nan
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
from serving.observability.drift import DriftCollector
from serving.observability.tracing import Tracing
from serving.prediction_log.log import LogStats

SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 5, 10)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
RELAY_COUNTS = {
    "flushes": "Batches that MongoDB confirmed",
    "sent": "Rows that MongoDB confirmed",
    "failures": "Batches that MongoDB did not confirm",
    "refusals": "Refusals of single rows by MongoDB",
}


class Metrics:
    """The metrics of one app; it is the engine's `Observer`.

    tracing: gets the same measurements, for traces; None: they are switched off.
    """

    def __init__(self, drift_report: Path | None = None, tracing: Tracing | None = None) -> None:
        """Make the metrics; `drift_report` is the file with those of `tweet-tagger drift`."""
        self.tracing = tracing
        self.registry = CollectorRegistry()
        self._drift = DriftCollector(drift_report)
        self.registry.register(self._drift)
        counter = functools.partial(Counter, registry=self.registry)
        histogram = functools.partial(Histogram, registry=self.registry)
        gauge = functools.partial(Gauge, registry=self.registry)
        self._requests = counter(
            "tagger_requests", "Requests, by route and HTTP status", ["route", "status"]
        )
        self._seconds = histogram(
            "tagger_request_seconds", "Duration of requests", ["route"], buckets=SECONDS
        )
        phase = histogram(
            "tagger_phase_seconds",
            "Duration of a request's phases: tokenise, queue, infer (the batch), store",
            ["phase"],
            buckets=SECONDS,
        )
        self._tokenise, self._queue, self._infer, self._store = (
            phase.labels(name) for name in ("tokenise", "queue", "infer", "store")
        )
        self._refusals = counter("tagger_refusals", "Requests with an error, by its type", ["kind"])
        self._disconnects = counter(
            "tagger_client_disconnects", "Clients that disconnected before their reply"
        )
        self._rows = histogram("tagger_batch_rows", "Texts in a batch", buckets=ROWS)
        self._tokens = histogram(
            "tagger_batch_tokens", "Tokens in a batch, without padding", buckets=TOKENS
        )
        self._padding = counter("tagger_padding_tokens", "Padding tokens in batches")
        self._failed = counter("tagger_failed_batches", "Batches that failed")
        cache = counter("tagger_cache_texts", "Texts looked up in the score cache", ["outcome"])
        self._hits, self._misses = cache.labels("hit"), cache.labels("miss")
        self._predictions = counter(
            "tagger_predictions", "Texts classified", ["label", "action", "api"]
        )
        self.queue_tokens = gauge(
            "tagger_queue_tokens", "Tokens that wait in the queue", multiprocess_mode="livesum"
        )
        self.active = gauge(
            "tagger_active_requests", "Requests in progress", multiprocess_mode="livesum"
        )
        self._ready = gauge(
            "tagger_ready",
            "1 if the golden scores were reproduced and all inference threads run",
            multiprocess_mode="livemin",
        )
        self._model = gauge(
            "tagger_model_info",
            "1 for the model that is served",
            ["name", "version", "policy", "quantisation", "data"],
            multiprocess_mode="livemax",
        )
        self._reloads = counter("tagger_model_reloads", "Model reloads, by outcome", ["outcome"])
        for outcome in ("done", "refused"):  # Prometheus sees no increase in what is new
            self._reloads.labels(outcome)
        self._source_reachable = gauge(
            "tagger_bundle_source_reachable",
            "0 while MLflow, or where the archive of BUNDLE is, does not answer",
            multiprocess_mode="livemin",
        )
        self._rate_limit_local = gauge(
            "tagger_rate_limit_local",
            "1 while Redis is slow or gone and each process counts its own rate limits",
            multiprocess_mode="livemax",
        )
        self._rate_limited_here = counter(
            "tagger_rate_limit_local_requests",
            "Requests that this process counted because Redis was slow or gone",
        )
        self._reviews = counter(
            "tagger_reviews", "Reviews, by label and reason", ["label", "reason"]
        )
        latest = functools.partial(gauge, multiprocess_mode="livemostrecent")
        self._waiting = latest("tagger_review_waiting", "Items that wait for a reviewer")
        self._kappa = latest(
            "tagger_review_agreement_kappa",
            "Cohen's kappa of reviewers; NaN where it is not defined",
        )
        self._kappa.set(nan)
        self._log = _LogMetrics(self.registry)
        self._served: Gauge | None = None
        # Finding a metric's labels takes longer than counting.
        self._labelled = functools.cache(lambda metric, *labels: metric.labels(*labels))

    def log(self, stats: LogStats) -> None:
        """Set the prediction log's metrics."""
        self._log.set(stats)

    def tokenised(self, seconds: float) -> None:
        """Observe the tokenisation of one request."""
        self._tokenise.observe(seconds)

    def cached(self, hits: int, misses: int) -> None:
        """Count the texts of a request whose scores were, or were not, in the cache."""
        if hits:
            self._hits.inc(hits)
        if misses:
            self._misses.inc(misses)

    def batch(self, report: BatchReport) -> None:
        """Observe one batch."""
        for seconds in report.queued:
            self._queue.observe(seconds)
        self._infer.observe(report.seconds)
        self._rows.observe(report.rows)
        self._tokens.observe(report.tokens)
        self._padding.inc(report.padded - report.tokens)
        if report.failed:
            self._failed.inc()
        if self.tracing is not None:
            self.tracing.batch(report)

    def predicted(self, predictions: Iterable[Prediction], api: str) -> None:
        """Count the predictions of a request."""
        for prediction in predictions:
            self._labelled(self._predictions, prediction.label, prediction.action, api).inc()

    def stored(self, seconds: float) -> None:
        """Observe how long the prediction log took to store a request's predictions."""
        self._store.observe(seconds)
        if self.tracing is not None:
            self.tracing.stored(seconds)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count and observe one request."""
        self._labelled(self._requests, route, status).inc()
        self._labelled(self._seconds, route).observe(seconds)

    def refused(self, kind: str) -> None:
        """Count a request that got an error."""
        self._labelled(self._refusals, kind).inc()

    def client_disconnected(self) -> None:
        """Count a client that disconnected before its reply."""
        self._disconnects.inc()

    def model(self, manifest: Manifest, policy: str, *, ready: bool) -> None:
        """Set the model that is served."""
        if self._served:
            self._served.set(0)
        self._served = self._model.labels(
            manifest.name, manifest.version, policy, manifest.quantisation, manifest.data
        )
        self._served.set(1)
        self._drift.version = manifest.version
        self._ready.set(1 if ready else 0)

    def ready(self, *, ready: bool) -> None:
        """Set whether the model is ready to serve."""
        self._ready.set(ready)

    def model_reloaded(self, outcome: str) -> None:
        """Count a reload, whether the new model was accepted or rejected."""
        self._reloads.labels(outcome).inc()

    def bundle_source(self, *, reachable: bool) -> None:
        """Set whether the place that bundles are fetched from answered last time."""
        self._source_reachable.set(reachable)

    def rate_limit_local(self, *, local: bool) -> None:
        """Set whether this process counts its own rate limits because Redis does not."""
        self._rate_limit_local.set(local)

    def rate_limited_here(self) -> None:
        """Count a request that Redis did not count."""
        self._rate_limited_here.inc()

    def reviewed(self, label: str, reason: str) -> None:
        """Count a review."""
        self._labelled(self._reviews, label, reason).inc()

    def review_queue(self, waiting: int, kappa: float | None) -> None:
        """Set how many items wait for a reviewer, and how far reviewers agree."""
        self._waiting.set(waiting)
        self._kappa.set(nan if kappa is None else kappa)

    def render(self) -> bytes:
        """Return the metrics of all workers together, in Prometheus' text format."""
        if ValueClass is MutexValue:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        together.register(self._drift)
        return generate_latest(together)


class _LogMetrics:
    """The metrics of the prediction log."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge = functools.partial(Gauge, registry=registry)
        latest = functools.partial(gauge, multiprocess_mode="livemostrecent")
        self._rows = latest("tagger_outbox_rows", "Rows in the outbox")
        self._postponed = latest(
            "tagger_outbox_postponed_rows", "Rows in the outbox that MongoDB refused"
        )
        self._bytes = latest("tagger_outbox_bytes", "Size of the rows in the outbox")
        self._limit = latest("tagger_outbox_limit_bytes", "Largest size of the rows in the outbox")
        self._age = latest("tagger_outbox_age_seconds", "Age of the oldest row in the outbox")
        self._writable = gauge(
            "tagger_log_writable", "1 if predictions can be stored", multiprocess_mode="livemin"
        )
        self._configured = gauge(
            "tagger_archive_configured",
            "1 if MONGODB_URI is set; without it the outbox is the log",
            multiprocess_mode="livemax",
        )
        self._turn = gauge(
            "tagger_relay_turn_timestamp_seconds",
            "When the relay last had the outbox's lock and began a turn; 0: never",
            multiprocess_mode="livemax",
        )
        self._reachable = gauge(
            "tagger_archive_reachable", "1 if MongoDB answers", multiprocess_mode="livemin"
        )
        self._lag = gauge(
            "tagger_archive_lag_seconds",
            "Time from the last batch's oldest row to the batch's confirmation",
            multiprocess_mode="livemax",
        )
        self._counters = {
            name: Counter(f"tagger_archive_{name}", text, registry=registry)
            for name, text in RELAY_COUNTS.items()
        }
        self._counted = dict.fromkeys(RELAY_COUNTS, 0)

    def set(self, stats: LogStats) -> None:
        self._rows.set(stats.outbox.rows)
        self._postponed.set(stats.outbox.postponed)
        self._bytes.set(stats.outbox.bytes)
        self._limit.set(stats.limit)
        self._age.set(stats.age)
        self._writable.set(stats.writable)
        self._configured.set(stats.archive is not None)
        if stats.archive is None:
            return
        self._reachable.set(stats.archive.reachable)
        self._lag.set(stats.archive.lag)
        self._turn.set(stats.archive.turn)
        for name, counter in self._counters.items():
            value = getattr(stats.archive, name)
            counter.inc(value - self._counted[name])
            self._counted[name] = value


def forget_dead_workers(folder: Path) -> None:
    """Remove the gauges of dead processes from the multiprocess folder; their counts stay."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if not Path("/proc", pid).exists():
            multiprocess.mark_process_dead(int(pid), str(folder))  # type: ignore[no-untyped-call]
