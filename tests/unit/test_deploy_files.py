"""The files of a deployment agree with the code and the lock file."""

import re
import shlex

import click
import pytest
import yaml

from serving.cli import main, score
from serving.settings import Settings, load_settings, variables
from tests.conftest import ROOT

# PORT in .env is the port of the host, which compose.yaml reads.
SETTINGS = {variables(name)[0] for name in Settings.model_fields} | {"PORT"}


def test_the_dockerfiles_end_as_an_ordinary_user() -> None:
    for name in ("Dockerfile.serve", "Dockerfile.train"):
        lines = (ROOT / name).read_text().splitlines()
        assert [line for line in lines if line.startswith("USER ")] == ["USER 1000"]


def test_the_image_leaves_out_packages_of_the_lock_file_only() -> None:
    unused = (ROOT / "deploy/unused.txt").read_text().split()
    lock = (ROOT / "requirements/serve.txt").read_text().splitlines()
    assert unused == sorted(unused)
    assert set(unused) <= {line.split("==")[0] for line in lock}


def test_the_example_environment_shows_defaults_of_real_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (ROOT / ".env.example").read_text()
    values = re.findall(r"^(?:# )?([A-Z_]+)=(.*)$", text, re.MULTILINE)
    assert len(values) >= 15
    assert {name for name, _ in values} <= SETTINGS
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    defaults = load_settings()
    for name, value in values:
        monkeypatch.setenv(name, value)
    assert load_settings() == defaults


def test_compose_sets_real_settings_and_serves_the_images_port() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    service = services["tweet-tagger"]
    assert set(service["environment"]) <= SETTINGS
    image = (ROOT / "Dockerfile.serve").read_text()
    port = re.search(r"PORT=(\d+)", image)
    assert port
    assert service["ports"][0].endswith(f":{port[1]}")
    assert service["environment"]["TAGGER_MONGODB_URI"] == "mongodb://mongo:27017"


def test_the_rayjob_scores_into_a_mounted_volume_with_options_that_exist() -> None:
    job, claim = yaml.safe_load_all((ROOT / "deploy/kubernetes/rayjob.yaml").read_text())
    spec = job["spec"]
    (_, _, line) = shlex.split(spec["entrypoint"])
    words = shlex.split(line.partition(" || ")[0])
    assert words[:2] == ["tweet-tagger", "score"]
    # In the group's context: click keeps the names of --help that it finds in the first one.
    parent = click.Context(main, help_option_names=["-h", "--help"])
    given = score.make_context("score", words[2:], parent).params
    assert (given["ray"], given["resume"]) == ("auto", True)  # a job that is retried goes on
    cluster = spec["rayClusterSpec"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    (mount,) = head["containers"][0]["volumeMounts"]
    assert str(given["out"]).startswith(mount["mountPath"] + "/")
    (volume,) = head["volumes"]
    assert volume["name"] == mount["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    for group in cluster["workerGroupSpecs"]:
        worker = group["template"]["spec"]["containers"][0]
        # An actor takes a whole CPU, and Ray offers what the container has.
        assert group["rayStartParams"]["num-cpus"] == worker["resources"]["limits"]["cpu"]
        assert worker["image"] == head["containers"][0]["image"]
        assert worker["image"].endswith(f":{cluster['rayVersion']}")
