"""What the workflows rest on: targets that exist, pinned actions, no more rights than needed."""

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


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(path).values() for step in job.get("steps", [])]


def test_the_three_are_there() -> None:
    assert [path.stem for path in FILES] == ["ci", "deploy", "train"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_step_is_an_action_or_a_make_target_that_exists(path: Path) -> None:
    commands = [step["run"] for step in steps(path) if "run" in step]
    assert commands
    for command in commands:
        found = re.fullmatch(r"make ([a-z0-9-]+)( [A-Z]+=(\w+|\"\$[A-Z_]+\"))*", command)
        assert found, command
        assert found[1] in TARGETS, f"{path.name}: make {found[1]}: no such target"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_actions_are_pinned_and_say_their_version(path: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", path.read_text(encoding="utf-8"))
    assert used
    for action, comment in used:
        if action.startswith("./"):
            assert (ROOT / action).is_file()
            continue
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{action}{comment}"


def test_one_version_of_each_action() -> None:
    pins = {
        action for path in FILES for action in re.findall(r"uses: (actions/\S+)", path.read_text())
    }
    assert len(pins) == len({pin.split("@")[0] for pin in pins})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rights_are_given_job_by_job_and_only_to_read_but_for_a_comment(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"] == {}
    for name, job in jobs(path).items():
        written = {right for right, level in job["permissions"].items() if level != "read"}
        assert written <= ({"pull-requests"} if name == "comment" else set())


def test_a_forks_pull_request_needs_no_secret() -> None:
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "secrets." not in ci
    assert "pull_request_target" not in ci


def test_promotion_and_deployment_are_for_main_and_wait_for_approval() -> None:
    promote = jobs(ROOT / ".github/workflows/train.yml")["promote"]
    assert promote["environment"] == "production"
    assert promote["needs"] == "train"
    space = jobs(ROOT / ".github/workflows/deploy.yml")["space"]
    assert space["environment"] == "space"
    for job in (promote, space):
        assert job["if"] == "${{ github.ref == 'refs/heads/main' }}"
