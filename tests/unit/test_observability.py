"""Rules, dashboards and runbook agree with each other, with the service and with promtool."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.observability import files
from serving.app import create_app
from serving.observability.drift import FIGURES
from serving.observability.metrics import Metrics
from serving.settings import load_settings
from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
CASES = [FOLDER / "tests.yml", FOLDER / "tests-days.yml"]
NAME = re.compile(r"\b(?:job:)?tagger_\w+(?::\w+)?")
# Gauges that are there only with a report; serving/observability/drift.py yields them.
DRIFT = {
    "tagger_drift_detected",
    "tagger_drift_share",
    "tagger_drift_checked_timestamp_seconds",
    "tagger_estimate_reviews",
    *(f"tagger_estimated_{figure}" for figure in FIGURES),
}


def groups(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load((FOLDER / name).read_text())["groups"])


RECORDED = {rule["record"]: rule["expr"] for g in groups("recording.yml") for rule in g["rules"]}
ALERTS = {rule["alert"]: rule for group in groups("alerts.yml") for rule in group["rules"]}


def metrics_of(expression: str) -> set[str]:
    """The service's metrics in an expression, those of recording rules included."""
    names = set(NAME.findall(expression))
    recorded = names & RECORDED.keys()
    return (names - recorded).union(*(metrics_of(RECORDED[name]) for name in recorded))


def exported() -> set[str]:
    """The names of the service's samples."""
    names = set()
    for family in Metrics().registry.collect():
        names.add(family.name)
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        names |= {family.name + suffix for suffix in suffixes.get(family.type, [])}
    return names | DRIFT


@pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is missing: install Debian's package prometheus"
)
@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_the_rules_pass_their_cases_in_promtool(cases: Path) -> None:
    line = ["promtool", "test", "rules", cases.name]
    done = subprocess.run(line, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is missing: install Debian's package prometheus"
)
def test_promtool_accepts_the_configuration() -> None:
    line = ["promtool", "check", "config", "prometheus.yml"]
    done = subprocess.run(line, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_quiet() -> None:
    fires, quiet = set(), set()
    for case in (case for path in CASES for case in yaml.safe_load(path.read_text())["tests"]):
        given = {series["series"] for series in case["input_series"] or []}
        for test in case["promql_expr_test"]:
            expected = [sample["labels"] for sample in test["exp_samples"]]
            fires |= {name for name in ALERTS if any(f'"{name}"' in text for text in expected)}
            asked = re.search(r'alertname="(\w+)"', test["expr"])
            if asked and not expected:
                quiet.add(asked[1])
                # Without its metrics any alert would be quiet.
                wanted = metrics_of(ALERTS[asked[1]]["expr"]) or {"up"}
                named = {series.partition("{")[0] for series in given}
                assert wanted & named, case["name"]
    assert fires == quiet == ALERTS.keys()


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_severity_a_summary_and_a_section_of_the_runbook(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert 20 < len(rule["annotations"]["summary"]) < 140
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    runbook = (ROOT / page).read_text(encoding="utf-8")
    (section,) = re.findall(rf"^### {name}\n(.*?)(?=^##|\Z)", runbook, re.MULTILINE | re.DOTALL)
    assert anchor == name.lower()
    for part in ("Means", "Users see", "Look at", "Do"):
        assert f"**{part}**" in " ".join(section.split())


def test_rules_and_panels_use_metrics_of_the_service() -> None:
    used = set()
    for expression in [*RECORDED.values(), *(rule["expr"] for rule in ALERTS.values())]:
        used |= metrics_of(expression)
    for path in (ROOT / "deploy/grafana/dashboards").glob("*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                used |= metrics_of(target["expr"])
    assert len(used) > 40
    assert used - exported() == set()


def test_the_service_levels_count_the_routes_that_classify() -> None:
    patterns = {p for e in RECORDED.values() for p in re.findall(r'route=~"([^"]+)"', e)}
    paths = create_app(load_settings()).openapi()["paths"].keys()
    slow = {"/v1/explain"}  # by nature; it has no objective of its own
    predictions = {"/v1/predict", "/v1/moderations", "/v1alpha1/comments:analyze", "/predict"}
    counted = [{path for path in paths if re.fullmatch(p, path)} for p in sorted(patterns, key=len)]
    assert counted == [predictions, predictions | slow]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_what_is_made_is_as_it_would_be_made_now(path: Path) -> None:
    """If this fails: python -m deploy.observability."""
    assert path.read_text(encoding="utf-8") == files()[path]


def test_compose_starts_prometheus_and_grafana_with_these_files_for_this_machine_only() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    observe = {name for name, row in services.items() if row.get("profiles") == ["observe"]}
    assert observe == {"prometheus", "grafana"}
    for name in observe:
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", services[name]["image"])
        assert all(port.startswith("127.0.0.1:") for port in services[name]["ports"])
        mounts = [volume.split(":")[0] for volume in services[name]["volumes"]]
        assert all((ROOT / path).is_dir() for path in mounts if path.startswith("./"))
    grafana = services["grafana"]["volumes"]
    provider = (ROOT / "deploy/grafana/provisioning/dashboards/tweet-tagger.yml").read_text()
    (folder,) = re.findall(r"path: (\S+)", provider)
    assert f"./deploy/grafana/dashboards:{folder}:ro" in grafana
    target = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"][0]
    port = services["tweet-tagger"]["environment"]["TAGGER_PORT"]
    assert target["static_configs"][0]["targets"] == [f"tweet-tagger:{port}"]
