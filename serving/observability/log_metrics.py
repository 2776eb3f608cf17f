"""What the service tells Prometheus of its prediction log.

Workers share the outbox: of its level they show what one of them saw last. What each has carried
to the archive adds up.
"""

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.prediction_log.log import LogStats

DONE = {
    "flushes": "Batches that MongoDB confirmed",
    "sent": "Rows that MongoDB confirmed",
    "failures": "Batches that MongoDB did not confirm",
    "refusals": "Rows that MongoDB refused",
}


class LogMetrics:
    """The metrics of one prediction log."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(
            name: str, text: str, mode: Literal["livemostrecent", "livemin", "livemax"]
        ) -> Gauge:
            return Gauge(f"tagger_{name}", text, registry=registry, multiprocess_mode=mode)

        self._rows = gauge("outbox_rows", "Rows in the outbox", "livemostrecent")
        self._postponed = gauge(
            "outbox_postponed_rows",
            "Rows that MongoDB refused; they wait",
            "livemostrecent",
        )
        self._bytes = gauge("outbox_bytes", "Bytes of the outbox's rows", "livemostrecent")
        self._age = gauge("outbox_age_seconds", "Age of the outbox's oldest row", "livemostrecent")
        self._writable = gauge("log_writable", "1 if predictions can be kept", "livemin")
        self._reachable = gauge("archive_reachable", "1 if MongoDB answers", "livemin")
        self._lag = gauge(
            "archive_lag_seconds", "From the last batch's oldest row to its confirmation", "livemax"
        )
        self._done = {
            name: Counter(f"tagger_archive_{name}", text, registry=registry)
            for name, text in DONE.items()
        }
        self._seen = dict.fromkeys(DONE, 0)

    def note(self, stats: LogStats) -> None:
        """Take over what the log says of itself."""
        self._rows.set(stats.level.rows)
        self._postponed.set(stats.level.postponed)
        self._bytes.set(stats.level.bytes)
        self._age.set(stats.age)
        self._writable.set(stats.writable)
        if stats.archive is None:
            return
        self._reachable.set(stats.archive.reachable)
        self._lag.set(stats.archive.lag)
        for name, counter in self._done.items():
            value = getattr(stats.archive, name)
            counter.inc(value - self._seen[name])
            self._seen[name] = value
