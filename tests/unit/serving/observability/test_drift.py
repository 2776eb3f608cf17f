"""The gauges of the drift report."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.observability.drift import (
    ColumnDrift,
    DriftReport,
    Estimate,
    Estimates,
    LabelEstimates,
)
from serving.observability.metrics import Metrics
from tests.conftest import ROOT

KNOWN = Estimate(value=0.5, low=0.4, high=0.6)
REPORT = DriftReport(
    checked=1_700_000_000.0,
    days=7,
    model_version="one",
    reference="a test",
    reference_rows=2000,
    rows=5000,
    found=5000,
    others=3,
    drift=True,
    share=0.25,
    columns=[ColumnDrift(name="hate", method="any", distance=0.3, threshold=0.2, drifted=True)],
    left_out=[],
    estimates=Estimates(
        reviews=40,
        unsure=1,
        skipped=2,
        ties=0,
        labels={
            "hate": LabelEstimates(
                precision=KNOWN, recall=Estimate(), prevalence=Estimate(low=0.0, high=0.1)
            )
        },
    ),
)


def served(path: Path, version: str = "one") -> Metrics:
    metrics = Metrics(path)
    metrics._drift.version = version
    return metrics


def drift_lines(metrics: Metrics) -> list[str]:
    lines = metrics.render().decode().splitlines()
    return [line for line in lines if line.startswith(("tagger_drift", "tagger_estimate"))]


def test_the_report_becomes_gauges_and_what_is_unknown_has_none(tmp_path: Path) -> None:
    path = tmp_path / "drift.json"
    path.write_text(REPORT.model_dump_json())
    assert drift_lines(served(path)) == [
        "tagger_drift_detected 1.0",
        "tagger_drift_share 0.25",
        "tagger_drift_checked_timestamp_seconds 1.7e+09",
        "tagger_estimate_reviews 40.0",
        'tagger_estimated_precision{bound="value",label="hate"} 0.5',
        'tagger_estimated_precision{bound="low",label="hate"} 0.4',
        'tagger_estimated_precision{bound="high",label="hate"} 0.6',
        'tagger_estimated_prevalence{bound="low",label="hate"} 0.0',
        'tagger_estimated_prevalence{bound="high",label="hate"} 0.1',
    ]


def test_without_a_file_or_with_one_about_another_model_there_are_no_gauges(
    tmp_path: Path,
) -> None:
    path = tmp_path / "drift.json"
    assert drift_lines(served(path)) == drift_lines(Metrics()) == []
    path.write_text(REPORT.model_dump_json())
    assert drift_lines(served(path, "two")) == []
    metrics = served(path)
    assert drift_lines(metrics)
    path.unlink()
    assert drift_lines(metrics) == []


def test_a_new_report_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "drift.json"
    path.write_text(REPORT.model_dump_json())
    metrics = served(path)
    assert "tagger_drift_share 0.25" in drift_lines(metrics)
    new = tmp_path / "new.json"
    new.write_text(REPORT.model_copy(update={"share": 0.75}).model_dump_json())
    new.replace(path)
    assert "tagger_drift_share 0.75" in drift_lines(metrics)


def damaged() -> dict[str, bytes]:
    whole = REPORT.model_dump_json()
    other: dict[str, Any] = json.loads(whole) | {"schema_version": 2}
    return {
        "half-written": whole[:200].encode(),
        "empty": b"",
        "foreign": b'{"metrics": []}',
        "newer": json.dumps(other).encode(),
        "not UTF-8": b"\xff\xfe",
        "huge": b" " * 1_000_000 + whole.encode(),
    }


@pytest.mark.parametrize("content", damaged().values(), ids=damaged().keys())
def test_a_file_that_is_no_report_is_ignored_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / "drift.json"
    path.write_text(REPORT.model_dump_json())
    metrics = served(path)
    before = drift_lines(metrics)
    path.write_bytes(content)
    assert drift_lines(metrics) == drift_lines(metrics) == before
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text


def test_with_several_workers_the_one_that_renders_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "drift.json"
    path.write_text(REPORT.model_dump_json())
    code = """
import sys
from pathlib import Path
from serving.observability.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
metrics._drift.version = "one"
print(metrics.render().decode())
"""
    shared = tmp_path / "shared"
    shared.mkdir()
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(shared)}
    ended = [
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for _ in range(2)
    ]
    for output in ended:
        assert output.count("tagger_drift_share 0.25\n") == 1
