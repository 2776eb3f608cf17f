"""What zizmor and check-jsonschema do not check about the workflows."""

import re
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
    for job in (promote, space):
        assert job["if"] == "${{ github.ref == 'refs/heads/main' }}"
