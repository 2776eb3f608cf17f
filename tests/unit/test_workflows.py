"""What zizmor and check-jsonschema do not check about the workflows."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_make_target_and_every_script_exists(path: Path) -> None:
    steps = [step for job in jobs(path).values() for step in job.get("steps", [])]
    commands = "\n".join(step.get("run", "") for step in steps)
    targets = re.findall(r"\bmake ([a-z0-9-]+)", commands)
    assert targets
    assert [name for name in targets if name not in TARGETS] == []
    scripts = re.findall(r"deploy/[\w-]+\.sh", commands)
    scripts += [
        name.replace(".", "/") + ".py" for name in re.findall(r"-m (deploy\.\w+)", commands)
    ]
    assert [name for name in scripts if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_the_comment_job_may_write(path: Path) -> None:
    for name, job in jobs(path).items():
        written = {scope for scope, level in job["permissions"].items() if level != "read"}
        assert written <= ({"pull-requests"} if name == "comment" else set())


def test_actions_have_one_version_everywhere() -> None:
    pins = {pin for path in FILES for pin in re.findall(r"uses: (actions/.+)", path.read_text())}
    assert len(pins) == len({pin.split("@")[0] for pin in pins})


def test_promotion_and_deployment_are_for_main_and_wait_for_approval() -> None:
    promote = jobs(ROOT / ".github/workflows/train.yml")["promote"]
    assert promote["environment"] == "production"
    assert promote["needs"] == "train"
    space = jobs(ROOT / ".github/workflows/deploy.yml")["space"]
    assert space["environment"] == "space"
    assert "needs.train.result == 'success' && github.ref == 'refs/heads/main'" in promote["if"]
    assert space["if"] == "${{ github.ref == 'refs/heads/main' }}"


def test_drift_trains_on_its_own_schedule_and_only_if_it_was_found() -> None:
    train = ROOT / ".github/workflows/train.yml"
    crons = [each["cron"] for each in yaml.safe_load(train.read_text())[True]["schedule"]]
    drift, trained, deploy = (jobs(train)[name] for name in ("drift", "train", "deploy"))
    daily = f"'{crons[1]}'"
    assert len(crons) == 2
    assert drift["if"] == f"${{{{ github.event.schedule == {daily} }}}}"
    assert f"github.event.schedule != {daily}" in trained["if"]
    assert "|| needs.drift.outputs.found == 'true'" in trained["if"]
    assert trained["needs"] == "drift"
    # Every step but the first needs the log's address, and only steps that read it have it.
    first, *others = drift["steps"]
    assert {step["if"] for step in others} == {"${{ steps.log.outputs.known == 'true' }}"}
    assert [step["id"] for step in drift["steps"] if "MONGODB_URI" in step.get("env", {})] == [
        "log",
        "drift",
    ]
    assert "::notice::" in first["run"]
    # After a skipped job `success()` is false, so each of the jobs behind it says what it needs.
    assert deploy["if"] == "${{ !cancelled() && needs.promote.result == 'success' }}"


@pytest.mark.parametrize(("status", "ends", "found"), [(0, 0, False), (3, 0, True), (2, 2, False)])
def test_the_drift_step_fails_only_if_drift_could_not_be_checked(
    tmp_path: Path, status: int, ends: int, found: bool
) -> None:
    step = jobs(ROOT / ".github/workflows/train.yml")["drift"]["steps"][-1]
    command = tmp_path / ".venv" / "bin" / "tweet-tagger"
    command.parent.mkdir(parents=True)
    command.write_text(f"#!/bin/sh\necho the table\nexit {status}\n")
    command.chmod(0o755)
    output, summary = tmp_path / "output", tmp_path / "summary"
    environment = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
    ended = subprocess.run(
        ["bash", "-e", "-c", step["run"]],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == ends, ended.stderr
    assert "the table" in summary.read_text()
    assert (output.is_file() and output.read_text() == "found=true\n") is found
