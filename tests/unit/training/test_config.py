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
        ("a: 2020-13-45", "not YAML: month must be"),
        ("a: " + "[" * 5000, "not YAML: maximum recursion"),
        ("a: {path: a.csv, lables: {0: [hate]}}", "a.lables: .*did you mean 'labels'"),
        ("../b: {path: a.csv, labels: {0: [hate]}}", "got source '../b'"),
        ("reference: {path: a.csv, labels: {0: [hate]}}", "got source 'reference'"),
        ("a: {path: a.csv, text: x, label: x, labels: {0: [hate]}}", "a: .* 'x' twice"),
        ("a: {path: a.csv, groups: g.csv, labels: {0: [hate]}}", "one of groups and fillings"),
        (
            "a: {path: a.csv, labels: [{labels: [hate]}, {column: x, labels: [neither]}]}",
            "rules follow one without a column",
        ),
        (
            "a: {path: a.csv, labels: [{column: x, at_least: 50, labels: [hate]}]}",
            r"labels\.0\.at_least: got 50",
        ),
        ("a: {path: a.csv, labels: [{colum: x, labels: [hate]}]}", r"labels\.0\.colum: got 'x'"),
        (
            "a: {path: a.csv, labels: {0: [hate]}, attributes: {THREAT: {1: 1}}}",
            "THREAT: '1' is not one of labels",
        ),
        (
            "a: {path: a.csv, labels: {0: [hate]}, attributes: {THREAT: {0: 2}}}",
            r"THREAT\.0: got 2",
        ),
        ("a: {path: a.csv, labels: {0: [hate]}, votes: {hate: []}}", r"votes\.hate: got \[\]"),
        (
            f"a: {{public: {{url: 'https://github.com/o/r/blob/m/a.csv', sha256: {'A' * 64}}}, "
            "labels: {0: [hate]}}",
            "a.public: url: .*raw.githubusercontent.com",
        ),
        (
            f"a: {{public: {{url: 'https://x.org/a.csv', separator: '\"', sha256: {'A' * 64}}}, "
            "labels: {0: [hate]}}",
            "public.separator",
        ),
        (
            f"a: {{public: {{url: 'https://x.org/a.csv', header: [x, x], sha256: {'A' * 64}}}, "
            "labels: {0: [hate]}}",
            "header: got a name twice",
        ),
        ("- a", "wanted a mapping"),
    ],
)
def test_a_wrong_source_is_reported(checkout: Path, text: str, message: str) -> None:
    (checkout / "configs" / "sources.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_sources()


def test_sources_in_another_encoding_are_reported(checkout: Path) -> None:
    (checkout / "configs" / "sources.yaml").write_bytes("a: ü".encode("cp1252"))
    with pytest.raises(ConfigError, match="byte 3 is not UTF-8"):
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
