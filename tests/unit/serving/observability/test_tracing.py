"""When traces are switched on, and what they cost when they are not."""

import logging
import subprocess
import sys

import pytest

from serving.observability import tracing
from tests.conftest import ROOT

COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


def test_without_otel_variables_no_request_meets_a_span_and_nothing_is_imported() -> None:
    code = """
import sys
from serving.observability import tracing
assert tracing.from_environment() is None
assert not [name for name in sys.modules if name.startswith('opentelemetry')]
from serving.app import create_app
from serving.settings import load_settings
app = create_app(load_settings())
assert app.state.classifier.metrics.tracing is None
assert not [m for m in app.user_middleware if m.cls is tracing.TracingMiddleware]
# FastAPI imports the API, where it is installed, but no SDK.
assert not [name for name in sys.modules if name.startswith('opentelemetry.sdk')]
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SERVICE_NAME": "tagger"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        COLLECTOR | {"OTEL_SDK_DISABLED": "true"},
        COLLECTOR | {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_traces_are_off_unless_they_are_asked_for(environment: dict[str, str]) -> None:
    assert tracing.from_environment(environment) is None


@pytest.mark.parametrize(
    "environment",
    [
        COLLECTOR,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"},
        {"OTEL_TRACES_EXPORTER": "otlp"},
        {"OTEL_TRACES_EXPORTER": "console"},
    ],
)
def test_a_collector_or_an_exporter_switches_traces_on(environment: dict[str, str]) -> None:
    made = tracing.from_environment(environment)
    assert made
    assert made.context() is None  # outside of a request
    made.close()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "got 'zipkin', wanted otlp or console or none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "got 'grpc', wanted http/protobuf"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "x", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_and_the_service_runs_without_traces(
    name: str,
    value: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(name, value)  # the SDK reads it itself
    assert tracing.from_environment(COLLECTOR | {name: value}) is None
    (record,) = (record for record in caplog.records if record.name == tracing.__name__)
    assert reason in record.getMessage()


def test_a_missing_package_is_one_sentence_with_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    caplog.set_level(logging.WARNING)
    assert tracing.from_environment(COLLECTOR) is None
    (record,) = caplog.records
    assert "opentelemetry.sdk.trace is missing" in record.getMessage()
    assert "pip install 'toxic-tweet-tagger[otel]'" in record.getMessage()
