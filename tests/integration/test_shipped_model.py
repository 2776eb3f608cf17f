"""models/release, the model that the project ships: sealed, within the gates, and in the wheel."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serving.bundle import ATTRIBUTES, LABELS, SEALED, Bundle
from serving.drift.columns import MAX_REFERENCE_ROWS, REFERENCE, read_reference
from tests.conftest import ROOT
from tests.support.service import without_settings
from training.evaluation.behaviour import HIGH, load_suite, outcomes
from training.files import flatten
from training.release.gates import Gates, Report, evaluate_gates, refusals

FOLDER = ROOT / "models" / "release"
FILES = {*SEALED, "bundle.json", "metrics.json", "MODEL_CARD.md", REFERENCE}
THREAT = "I will find you and break your legs"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The shipped bundle; loading it checks each file's SHA-256 and the content version."""
    return Bundle.load(FOLDER)


@pytest.fixture(scope="module")
def metrics() -> dict:
    return dict(json.loads((FOLDER / "metrics.json").read_text(encoding="utf-8")))


def test_its_files_are_those_of_a_bundle_and_their_size_is_limited() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(files) == FILES
    assert sum(files.values()) <= 26e6


def test_this_machine_reproduces_its_golden_scores(bundle: Bundle) -> None:
    assert len(bundle.manifest.golden) >= 10
    assert bundle.golden_error() <= bundle.manifest.golden_tolerance


def test_card_and_metrics_are_its_own(bundle: Bundle, metrics: dict) -> None:
    assert bundle.manifest.data == "sources"
    assert metrics["version"] == bundle.manifest.version
    assert bundle.manifest.version in (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"`{bundle.manifest.version}`" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_its_drift_reference_is_its_own_and_has_no_texts(bundle: Bundle) -> None:
    reference = read_reference(FOLDER / REFERENCE)
    assert reference is not None
    assert reference.version == bundle.manifest.version
    assert reference.columns.rows == MAX_REFERENCE_ROWS
    assert set(reference.columns.present()) == {
        *LABELS,
        "label",
        "language",
        "characters",
        "unknown",
    }
    words = set(re.findall("[a-z]{2,}", (FOLDER / REFERENCE).read_text().partition("columns")[2]))
    assert words <= {*reference.columns.present(), *LABELS, *reference.columns.language}
    assert (FOLDER / REFERENCE).stat().st_size <= 150_000


def test_it_passes_every_gate_that_needs_no_other_model(bundle: Bundle, metrics: dict) -> None:
    """With the figures of its metrics.json, and the behavioural suite as it is now."""
    suite = load_suite(ROOT / "configs" / "behaviour.yaml")
    scores = bundle.score([text for capability in suite for text in capability.texts])
    labels = [LABELS[i] for i in bundle.decide(scores.labels)]
    report = Report(
        version=bundle.manifest.version,
        data=bundle.manifest.data,
        reference=metrics["reference"],
        sources={},
        behaviour=outcomes(suite, labels, scores.attributes),
        figures=flatten(metrics),
        rankings={},
    )
    gates = Gates.model_validate(yaml.safe_load((ROOT / "configs" / "gates.yaml").read_text()))
    assert [str(result) for result in refusals(evaluate_gates(report, None, gates))] == []


def test_it_sees_a_threat_but_not_in_weather(bundle: Bundle) -> None:
    threat, weather = bundle.score([THREAT, "this heat is killing me"]).attributes
    column = ATTRIBUTES.index("THREAT")
    assert threat[column] >= HIGH > weather[column]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of the wheel; what it depends on is this Python's."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    for name in ("serving", "training", "configs", "models/release"):
        shutil.copytree(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    for arguments in (
        ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(source)],
        ["install", "--no-deps", "--no-index", "--target", str(target), "--find-links",
         str(target), "toxic-tweet-tagger"],
    ):  # fmt: skip
        subprocess.run([*pip, *arguments], check=True, cwd=source, timeout=300)
    return target


def test_the_wheel_answers_from_any_folder(installed: Path, bundle: Bundle, tmp_path: Path) -> None:
    environment = without_settings()
    for arguments in (["predict", THREAT], ["model"]):
        ended = subprocess.run(
            [sys.executable, "-m", "serving", *arguments],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(installed)},
            check=True,
            capture_output=True,
            timeout=120,
        )
        reply = json.loads(ended.stdout)
        if arguments == ["model"]:
            assert reply["manifest"]["version"] == bundle.manifest.version
            assert reply["card"]
        else:
            want = bundle.score([THREAT]).attributes[0][ATTRIBUTES.index("THREAT")]
            assert reply["attributes"]["THREAT"] == pytest.approx(want, abs=1e-3)


def test_the_wheel_has_the_files_that_the_checkout_has(installed: Path) -> None:
    for name in (*(f"models/release/{file}" for file in FILES), "configs/policy.yaml"):
        assert (installed / "serving" / name).read_bytes() == (ROOT / name).read_bytes(), name
