"""Promotion of real bundles: which are refused and why, what changes, and what a kill leaves."""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime.quantization
import pandas as pd
import pytest
import yaml
from tokenizers import Tokenizer, normalizers

from serving.bundle import Bundle, content_version, scores_by_attribute, scores_by_label
from tests.conftest import ROOT
from training.errors import ArtifactError, RefusedError
from training.files import sha256
from training.release import promote, releases
from training.release.releases import PREVIOUS, PRODUCTION, RELEASES, State, read_state

MODEL = "tweet-tagger"
# The project's limits, as far as a tiny model of a few hundred rows can fulfil them.
TINY = {
    "floors": {
        "sources.sample.rows": 30,
        "sources.sample.macro_f1": 0.55,
        "sources.sample.classes.*.recall": 0.3,
        "attributes.sample.*.f1": 0.0,
        "behaviour.all": 0.2,
        "int8_against_fp32.macro_f1_difference": -0.2,
    },
    "ceilings": {
        "sources.sample.ece": 0.3,
        "int8_against_fp32.label_change_share": 0.2,
        "batch_invariance.label_changes": 0,
        "batch_invariance.max_abs_difference": 0.001,
        "megabytes": 26,
    },
    "max_drop": {"behaviour.all": 0.03},
    "max_rise": {"sources.sample.ece": 0.02, "identity.gap": 0.15},
    # Of a fraction of a millisecond, beside other tests.
    "max_ratio": {"milliseconds_a_text.int8.p95": 3.0, "megabytes": 1.25},
}
SUITE = {
    "groups": {"group": ["women", "Jews", "immigrants"]},
    "capabilities": [
        {
            "name": "praise",
            "description": "kind words",
            "expect": ["neither", "offensive"],
            "floor": 0.0,
            "templates": ["I met some {group} on the train"],
        },
        {
            "name": "insult",
            "description": "unkind words",
            "expect": ["hate", "offensive"],
            "floor": 0.1,
            "cases": ["you absolute clown", "what an idiot, delete your account", "shut up, moron"],
        },
    ],
}


@pytest.fixture
def checkout(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained checkout; its candidate's manifest says `data: sources`."""
    folder = tmp_path / "alone"
    shutil.copytree(trained, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    gates = yaml.safe_load((ROOT / "configs/gates.yaml").read_text()) | TINY
    Path("configs/gates.yaml").write_text(yaml.safe_dump(gates))
    suite = Path("configs/behaviour.yaml")
    suite.write_text(yaml.safe_dump(SUITE))
    seal(data="sources")
    return folder


def seal(**changes: object) -> str:
    """Seal the candidate anew after its files or manifest changed, and register it."""
    folder = promote.CANDIDATE
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text()) | changes
    manifest["files"] = {name: sha256(folder / name) for name in manifest["files"]}
    manifest["version"] = content_version(manifest)
    path.write_text(json.dumps(manifest))
    bundle = Bundle.load(folder)
    for golden in manifest["golden"]:
        scores = bundle.score([golden["text"]])
        golden["scores"] = scores_by_label(scores.labels[0])
        golden["attributes"] = scores_by_attribute(scores.attributes[0])
    manifest["version"] = content_version(manifest)
    path.write_text(json.dumps(manifest))
    metrics = folder / "metrics.json"
    metrics.write_text(
        json.dumps(json.loads(metrics.read_text()) | {"version": manifest["version"]})
    )
    promote.connect()
    client = mlflow.MlflowClient()
    registered = client.create_model_version(MODEL, source=str(folder.resolve()))
    client.set_model_version_tag(MODEL, registered.version, "bundle.version", manifest["version"])
    return str(manifest["version"])


def aliases() -> dict[str, str]:
    """The bundle version of each of MLflow's aliases, except `candidate`."""
    client = mlflow.MlflowClient()
    versions = {v.version: v for v in client.search_model_versions(f"name = '{MODEL}'")}
    (model,) = client.search_registered_models(f"name = '{MODEL}'")
    return {
        alias: versions[version].tags["bundle.version"]
        for alias, version in model.aliases.items()
        if alias != "candidate"
    }


def refused() -> str:
    """Promote, which must be refused and move nothing; return reports/gates.md."""
    before = read_state(), aliases(), sorted(RELEASES.glob("*"))
    with pytest.raises(RefusedError):
        promote.promote(dry_run=False)
    assert (read_state(), aliases(), sorted(RELEASES.glob("*"))) == before
    return Path("reports/gates.md").read_text()


def another() -> str:
    """Make the candidate another bundle of equal quality."""
    manifest = json.loads((promote.CANDIDATE / "bundle.json").read_text())
    return seal(temperature=manifest["temperature"] * 1.001)


def test_the_first_good_candidate_becomes_production(checkout: Path) -> None:
    version = json.loads((promote.CANDIDATE / "bundle.json").read_text())["version"]
    promote.promote(dry_run=True)
    assert read_state() == State()
    assert not PRODUCTION.exists()
    promote.promote(dry_run=False)
    assert read_state() == State(version)
    assert Bundle.load(PRODUCTION).manifest.version == version
    assert {path.name for path in PRODUCTION.iterdir()} == {
        "model.onnx", "tokenizer.json", "bundle.json", "metrics.json", "MODEL_CARD.md",
        "reference.parquet", "drift_reference.json",
    }  # fmt: skip
    assert aliases() == {"production": version}
    assert {path.name for path in Path("models").iterdir()} == {
        "candidate", "finetuned", "fp32.onnx", "production", "releases", "releases.json",
    }  # fmt: skip
    assert Path("reports/gates.md").read_text().startswith(f"# Gates: {version} is accepted")
    # What validate will compare the next training data with.
    from training.data import drift, ingest, validate

    ingest.ingest("sample", ingest.load_sources())
    reference = pd.read_parquet(validate.REFERENCE)
    train = pd.read_parquet("data/processed/train.parquet")
    assert drift.features(reference).equals(drift.features(train))


def test_a_second_promotion_keeps_the_first_as_previous_and_rollback_exchanges_them(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promote.promote(dry_run=False)
    first = str(read_state().production)
    with pytest.raises(ArtifactError, match="no previous release"):
        promote.roll_back()
    second = another()
    promote.promote(dry_run=False)
    assert read_state() == State(second, first)
    assert aliases() == {"production": second, "previous": first}
    assert f"against production {first}" in capsys.readouterr().out
    promote.roll_back()
    assert Bundle.load(PRODUCTION).manifest.version == first
    assert Bundle.load(PREVIOUS).manifest.version == second
    assert aliases() == {"production": first, "previous": second}
    promote.promote(dry_run=False)  # and back in, through the gates
    assert aliases() == {"production": second, "previous": first}
    promote.promote(dry_run=False)
    assert f"{second} is in production already" in capsys.readouterr().out
    releases.write_state(read_state()._replace(pending=True))
    promote.promote(dry_run=True)
    assert read_state().pending  # `make gates` changes nothing
    assert promote.GATES_REPORT.read_text() == f"# Gates: {second} is in production already\n"
    promote.promote(dry_run=False)
    assert not read_state().pending
    third = another()
    promote.promote(dry_run=False)
    assert read_state() == State(third, second)
    assert {path.name for path in RELEASES.iterdir()} == {third, second}


@pytest.mark.parametrize("links_moved", [False, True])
def test_an_interrupted_change_is_finished(checkout: Path, links_moved: bool) -> None:
    promote.promote(dry_run=False)
    first, second = str(read_state().production), another()
    releases.add(second, {path.name: path for path in promote.CANDIDATE.iterdir()})
    cut_off = read_state().promote(second)
    releases.write_state(cut_off)
    if links_moved:
        releases.sync_links(cut_off)
    assert Bundle.load(PRODUCTION).manifest.version == (second if links_moved else first)
    promote.roll_back()  # finishes what was begun, and says so
    assert read_state() == State(second, first)
    assert Bundle.load(PRODUCTION).manifest.version == second
    assert aliases() == {"production": second, "previous": first}


def test_a_model_of_the_sample_is_always_refused(checkout: Path) -> None:
    seal(data="sample")
    page = refused()
    assert "- **training data: sample, wanted sources**" in page
    assert "1 failed" in page


def test_dynamic_int8_fails_the_batch_gate(checkout: Path) -> None:
    promote.promote(dry_run=False)
    model = promote.CANDIDATE / "model.onnx"
    onnxruntime.quantization.quantize_dynamic(promote.FP32, model)
    seal(quantisation="dynamic int8")
    assert "- **batch_invariance.max_abs_difference: " in refused()


def test_a_slow_model_fails_the_latency_gate(checkout: Path) -> None:
    promote.promote(dry_run=False)
    path = Path("configs/gates.yaml")
    ratio = {"max_ratio": {"milliseconds_a_text.int8.p95": 1.2}}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | ratio))
    path = promote.CANDIDATE / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.normalizer = normalizers.Sequence([tokenizer.normalizer] * 20)
    tokenizer.save(str(path))
    seal()
    assert "- **milliseconds_a_text.int8.p95: ratio against production: " in refused()


def test_a_model_of_shuffled_labels_is_refused(checkout: Path) -> None:
    """It is trained again; the test keeps its labels."""
    from training.evaluation import evaluate
    from training.export import export
    from training.modeling import train

    for split in ("train", "val"):
        path = Path(f"data/processed/{split}.parquet")
        rows = pd.read_parquet(path)
        order = np.random.default_rng(3).permutation(len(rows))
        rows["labels"] = rows["labels"].to_numpy()[order]
        rows.to_parquet(path)
    for stage in (train, export, evaluate):
        stage.main()
    seal(data="sources")
    page = refused()
    assert "- **sources.sample.macro_f1: " in page


def test_a_production_model_of_an_older_schema_is_not_compared_with(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promote.promote(dry_run=False)
    first = str(read_state().production)
    manifest = RELEASES / first / "bundle.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema_version": 1}))
    second = another()
    promote.promote(dry_run=False)
    assert read_state() == State(second, first)
    printed = capsys.readouterr().out
    assert "production/bundle.json: got schema 1, wanted 2: the candidate is compared" in printed
    assert "against no production model" in printed
    with pytest.raises(ArtifactError, match="schema 1 has no attributes; wanted 2"):
        promote.roll_back()  # the service could not serve it


def test_a_damaged_production_model_is_an_error(checkout: Path) -> None:
    promote.promote(dry_run=False)
    (PRODUCTION / "model.onnx").write_bytes(b"altered")
    another()
    with pytest.raises(ArtifactError, match="altered"):
        promote.promote(dry_run=False)


def test_an_altered_or_foreign_candidate_is_an_error(checkout: Path) -> None:
    card = promote.CANDIDATE / "metrics.json"
    kept = card.read_text()
    card.write_text(json.dumps(json.loads(kept) | {"version": "0123456789ab"}))
    with pytest.raises(ArtifactError, match=r"metrics\.json: got 0123456789ab, wanted"):
        promote.promote(dry_run=False)
    card.write_text(kept)
    train = Path("data/processed/train.parquet")
    pd.read_parquet(train).head(50).to_parquet(train)
    with pytest.raises(ArtifactError, match="not the data of models/candidate"):
        promote.promote(dry_run=False)
    (promote.CANDIDATE / "model.onnx").write_bytes(b"altered")
    with pytest.raises(ArtifactError, match="altered"):
        promote.promote(dry_run=False)
    assert read_state() == State()


def test_a_folder_named_production_is_not_overwritten(checkout: Path) -> None:
    PRODUCTION.mkdir()
    (PRODUCTION / "mine").write_text("kept")
    with pytest.raises(ArtifactError, match="move the folder away"):
        promote.promote(dry_run=False)
    assert (PRODUCTION / "mine").read_text() == "kept"
