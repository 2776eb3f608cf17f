from pathlib import Path

import pytest
import yaml

from tests.conftest import set_params
from training.config import TrainParams, load_params, load_profile, load_sources
from training.errors import ConfigError


@pytest.fixture
def full(checkout: Path) -> Path:
    (checkout / "data" / "profile.yaml").write_text("{profile: full, data: sources}")
    return checkout


def test_a_profile_changes_only_the_values_that_it_has(full: Path) -> None:
    usual = load_params("train", TrainParams)
    (full / "data" / "profile.yaml").write_text("{profile: sample, data: sources}")
    sample = load_params("train", TrainParams)
    assert sample.epochs > usual.epochs
    assert sample.model_dump(exclude={"epochs"}) == usual.model_dump(exclude={"epochs"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": "three"}, "train.epochs: got 'three'"),
        ({"epochs": 0}, "train.epochs: got 0"),
        ({"epoch": 3}, "train.epoch: got 3"),
        ({"precision": "fp8"}, "train.precision: got 'fp8'"),
        ({"class_weights": [1.0]}, "train.class_weights"),
    ],
)
def test_a_wrong_parameter_is_reported_with_its_value(
    full: Path, change: dict[str, object], message: str
) -> None:
    set_params(full, {"train": change})
    with pytest.raises(ConfigError) as error:
        load_params("train", TrainParams)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_parameter_is_reported(full: Path) -> None:
    path = full / "configs" / "params.yaml"
    params = yaml.safe_load(path.read_text())
    del params["train"]["seed"]
    path.write_text(yaml.safe_dump(params))
    with pytest.raises(ConfigError, match=r"train.seed"):
        load_params("train", TrainParams)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {path: a.csv, labels: {0: [hat]}}", r"labels\.0\.0: got 'hat'"),
        ("a: {labels: {0: [hate]}}", "neither path, public nor hub"),
        ("a: {path: a.csv, labels: {0: []}}", "labels: every one allows none"),
        ("a: {path: a.csv, label: y, labels: {0: [hate]}, sep: ','}", "sep"),
        ("a: {use: external, path: a.csv, labels: {0: [hate]}}", "no source has use: split"),
        ("a: {path: a.csv, labels: {0: [hate], 0: [neither]}}", "'0' is there twice"),
        ("a: {path: a.csv, labels: {x: [hate]}}\na: {hub: b}", "'a' is there twice"),
        ("a: [", "not YAML"),
        ("- a", "wanted a mapping"),
    ],
)
def test_a_wrong_source_is_reported(checkout: Path, text: str, message: str) -> None:
    (checkout / "configs" / "sources.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_sources()


def test_labels_are_what_is_written(checkout: Path) -> None:
    """YAML 1.1 makes booleans, octal numbers, dates and other values of them."""
    written = ["yes", "no", "on", "OFF", "true", "null", "~", "010", "1_0", "1:30", "2020-01-01"]
    labels = ", ".join(f"{label}: [hate]" for label in written)
    path = checkout / "configs" / "sources.yaml"
    path.write_text(f"a: {{path: a.csv, label: no, twins: yes, labels: {{{labels}}}}}")
    source = load_sources()["a"]
    assert list(source.labels) == written
    assert (source.label, source.twins) == ("no", True)
    path.write_text(
        "b: &b\n  path: a.csv\n  labels: &l {x: [hate]}\nc: {<<: *b, labels: {y: [hate]}}"
    )
    assert list(load_sources()["c"].labels) == ["y"]


def test_a_missing_profile_is_reported(checkout: Path) -> None:
    with pytest.raises(ConfigError, match=r"data/profile\.yaml: missing"):
        load_profile()
