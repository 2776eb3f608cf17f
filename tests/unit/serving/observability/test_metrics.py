"""The metrics as Prometheus reads them."""

import subprocess
import sys
from pathlib import Path

import pytest

from serving.inference.engine import Prediction
from serving.observability.metrics import Metrics, forget_dead_workers
from serving.prediction_log.log import LogStats
from serving.prediction_log.outbox import OutboxStats
from serving.prediction_log.relay import RelayStats


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_predictions_are_counted_by_label_action_and_api(metrics: Metrics) -> None:
    prediction = Prediction("hate", {}, {}, "high", "review", "en", truncated=False, warnings=())
    metrics.predicted([prediction, prediction], "openai")
    labels = {"label": "hate", "action": "review", "api": "openai"}
    assert value(metrics, "tagger_predictions_total", **labels) == 2


def test_disconnects_and_reloads_are_counted(metrics: Metrics) -> None:
    metrics.client_disconnected()
    metrics.model_reloaded("rejected")
    assert value(metrics, "tagger_client_disconnects_total") == 1
    assert value(metrics, "tagger_model_reloads_total", outcome="rejected") == 1


def test_the_state_of_the_outbox_is_shown(metrics: Metrics) -> None:
    outbox = OutboxStats(rows=7, postponed=2, bytes=4096, oldest=1)
    metrics.log(LogStats(outbox, age=12.5, writable=False, archive=None))
    assert value(metrics, "tagger_outbox_rows") == 7
    assert value(metrics, "tagger_outbox_postponed_rows") == 2
    assert value(metrics, "tagger_outbox_bytes") == 4096
    assert value(metrics, "tagger_outbox_age_seconds") == 12.5
    assert value(metrics, "tagger_log_writable") == 0


def test_alarms_know_the_limit_of_the_outbox_and_whether_there_is_an_archive(
    metrics: Metrics,
) -> None:
    names = ("outbox_limit_bytes", "archive_configured", "relay_turn_timestamp_seconds")
    metrics.log(LogStats(OutboxStats(), age=0, writable=True, archive=None, limit=5000))
    assert [value(metrics, f"tagger_{name}") for name in names] == [5000, 0, 0]
    relay = RelayStats(turn=1e9)
    metrics.log(LogStats(OutboxStats(), age=0, writable=True, archive=relay, limit=5000))
    assert [value(metrics, f"tagger_{name}") for name in names] == [5000, 1, 1e9]


def test_a_first_refused_model_is_an_increase_for_prometheus(metrics: Metrics) -> None:
    assert value(metrics, "tagger_model_reloads_total", outcome="refused") == 0


def test_readiness_can_be_lost_and_found_again(metrics: Metrics) -> None:
    for ready in (False, True):
        metrics.ready(ready=ready)
        assert value(metrics, "tagger_ready") == ready


def test_what_the_relay_has_done_is_counted_once(metrics: Metrics) -> None:
    relay = RelayStats(reachable=True, flushes=2, sent=10, failures=1, refusals=3, lag=0.5)
    for sent in (10, 10, 25):
        relay.sent = sent
        metrics.log(LogStats(OutboxStats(), age=0, writable=True, archive=relay))
        assert value(metrics, "tagger_archive_sent_total") == sent
    assert value(metrics, "tagger_archive_flushes_total") == 2
    assert value(metrics, "tagger_archive_failures_total") == 1
    assert value(metrics, "tagger_archive_refusals_total") == 3
    assert value(metrics, "tagger_archive_reachable") == 1
    assert value(metrics, "tagger_archive_lag_seconds") == 0.5


def test_gauges_of_dead_workers_are_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f"gauge_livesum_{ended.pid}.db").touch()
    (tmp_path / f"counter_{ended.pid}.db").touch()
    (tmp_path / "gauge_livesum_1.db").touch()  # process 1 always exists
    forget_dead_workers(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        f"counter_{ended.pid}.db",
        "gauge_livesum_1.db",
    }
