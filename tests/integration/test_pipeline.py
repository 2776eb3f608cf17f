"""The whole pipeline, run on the sample with a tiny base (the fixture `trained`), and its seams."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml

from serving.bundle import ATTRIBUTES, LABELS, LEARNED_ATTRIBUTES, Bundle
from serving.drift.columns import REFERENCE, read_reference
from serving.drift.run import MIN_REFERENCE_ROWS
from tests.conftest import ROOT, TINY_PARAMS, make_checkout, set_params, tiny_base
from training.pipeline import run_lock

EPOCHS = TINY_PARAMS["train"]["epochs"]
TEXTS = ["have a lovely day", "you absolute clown", "they should all be sent away"]


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_the_bundle_is_complete_and_names_its_origin(trained: Path) -> None:
    bundle = Bundle.load(trained / "models" / "candidate")
    assert bundle.manifest.data == "sample"
    assert bundle.manifest.data_sha == read(trained / "models/finetuned/run.json")["data_sha"]
    assert len(bundle.manifest.golden) == TINY_PARAMS["export"]["golden_rows"]
    assert not list((trained / "models").glob(".*"))  # no scratch folder is left


def test_metrics_and_card_are_written(trained: Path) -> None:
    metrics = read(trained / "models/candidate/metrics.json")
    figures = metrics["sources"]["sample"]
    assert figures["rows"] == sum(map(sum, figures["confusion"]))
    assert figures["macro_f1"] > 0.55  # it learned: what follows is no constant
    assert metrics["batch_invariance"]["label_changes"] == 0
    assert metrics["batch_invariance"]["max_abs_difference"] < 1e-3
    assert set(metrics["attributes"]["sample"]) == set(ATTRIBUTES)
    assert 0 < metrics["behaviour"]["all"] < 1
    card = (trained / "models/candidate/MODEL_CARD.md").read_text()
    assert metrics["version"] in card
    assert f"{figures['macro_f1']:.3f}" in card
    assert "trained on the bundled sample only" in card
    assert "Not used, because this machine could not get them: davidson, " in card
    pictures = {path.name for path in (trained / "reports/plots").iterdir()}
    assert pictures == {
        "confusion_matrix.png",
        "learning_curves.png",
        "precision_recall.png",
        "reliability.png",
    }


def test_the_bundle_s_folder_has_a_drift_reference_of_the_test(trained: Path) -> None:
    reference = read_reference(trained / "models/candidate" / REFERENCE)
    assert reference is not None
    test = pd.read_parquet(trained / "data/processed/test.parquet")
    metrics = read(trained / "models/candidate/metrics.json")
    texts = test["text"][test["source"] == metrics["reference"]]
    assert (reference.version, reference.origin) == (
        metrics["version"],
        f"the test split of {metrics['reference']}",
    )
    assert sorted(reference.columns.characters or []) == sorted(map(len, texts))
    assert reference.columns.rows >= MIN_REFERENCE_ROWS  # also of the smallest profile


def test_mlflow_has_the_run_and_a_candidate_that_answers_as_the_bundle(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    registered = read(trained / "reports/registered.json")
    run = mlflow.get_run(registered["run_id"])
    assert run.data.tags["data"] == "sample"
    assert run.data.params["train.epochs"] == str(EPOCHS)
    assert run.data.metrics["sources.sample.macro_f1"] == pytest.approx(
        read(trained / "models/candidate/metrics.json")["sources"]["sample"]["macro_f1"]
    )
    assert len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "eval_macro_f1")) == EPOCHS
    model = mlflow.pyfunc.load_model("models:/tweet-tagger@candidate")
    answer = model.predict(TEXTS)
    bundle = Bundle.load(trained / "models" / "candidate")
    scores = bundle.score(TEXTS)
    assert np.array_equal(answer[list(LABELS)].to_numpy(), scores.labels)
    assert np.array_equal(answer[list(ATTRIBUTES)].to_numpy(), scores.attributes)
    assert answer["label"].tolist() == [LABELS[i] for i in bundle.decide(scores.labels)]


def fresh(
    folder: Path, monkeypatch: pytest.MonkeyPatch, base_layers: int = 1, **train: object
) -> Path:
    """A checkout with prepared sample data, ready for the train stage."""
    from training.data import ingest, prepare

    checkout = make_checkout(folder, monkeypatch.chdir, monkeypatch.delenv)
    base = str(tiny_base(folder / "base", base_layers))
    set_params(checkout, TINY_PARAMS | {"train": TINY_PARAMS["train"] | {"base": base} | train})
    ingest.ingest("sample", ingest.load_sources())
    prepare.main()
    return checkout


def weights(checkout: Path) -> bytes:
    return (checkout / "models/finetuned/model.safetensors").read_bytes()


def stage(name: str, checkout: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"training.{name}"], cwd=checkout, env=os.environ | environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def kill_training(checkout: Path, pattern: str) -> None:
    """Kill the train stage once a file that fits the pattern is in its folder of checkpoints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "training.modeling.train"],
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 200
    while not list(checkout.glob(f"models/checkpoints/*/{pattern}")):
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (checkout / "models/finetuned").exists()


def test_training_is_reproducible_even_if_killed_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {"base_layers": 3, "layers": 2, "epochs": 2, "checkpoint_steps": 25}
    uninterrupted = fresh(tmp_path / "uninterrupted", monkeypatch, **params)
    assert stage("modeling.train", uninterrupted).returncode == 0
    again = fresh(tmp_path / "again", monkeypatch, **params)
    base = str(tmp_path / "uninterrupted" / "base")  # the base's path is a parameter
    set_params(again, {"train": {"base": base}})

    kill_training(again, "checkpoint-*/average.pt")
    folder = next(again.glob("models/checkpoints/*"))
    (folder / "checkpoint-9999").mkdir()  # as if it had been killed while writing one
    steps = read(next(folder.glob("checkpoint-*/trainer_state.json")))["max_steps"]
    kill_training(again, f"checkpoint-{steps}/average.pt")  # the last: the epoch is evaluated
    kill_training(again, "student/checkpoint-*/average.pt")
    resumed = stage("modeling.train", again)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("resuming from") == 1  # the teacher was finished
    assert "/student/checkpoint-" in resumed.stdout
    assert weights(again) == weights(uninterrupted)
    config = read(again / "models/finetuned/config.json")
    assert (config["teacher_layers"], config["n_layers"]) == (3, 2)
    assert not (again / "models/checkpoints").exists()
    runs = [
        read(folder / "models/finetuned/run.json")["run_id"] for folder in (uninterrupted, again)
    ]
    assert len(set(runs)) == 2
    client = mlflow.MlflowClient(f"sqlite:///{uninterrupted}/mlflow.db")
    for name, epochs in (("eval_macro_f1", 2), ("student_eval_macro_f1", 4)):
        assert len(client.get_metric_history(runs[0], name)) == epochs


def test_an_unreadable_checkpoint_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = fresh(tmp_path, monkeypatch)
    from training.modeling import train

    params = train.load_params("train", train.TrainParams)
    files = [train.split_file(split) for split in ("train", "val")]
    data_sha = "-".join(train.sha256(path)[:16] for path in files)
    folder = train.checkpoint_folder(params, train.load_sources(), data_sha)
    spoiled = checkout / folder / "checkpoint-5"
    spoiled.mkdir(parents=True)
    (spoiled / "average.pt").write_bytes(b"nonsense")
    ended = stage("modeling.train", checkout)
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1].startswith("error: models/checkpoints/")
    assert "unreadable checkpoint" in ended.stderr
    assert not (checkout / "models/finetuned").exists()


def test_single_class_data_stops_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = fresh(tmp_path, monkeypatch)
    rows = [(f"nothing bad {i} alpha{i} beta{i}", "neither") for i in range(400)]
    frame = pd.DataFrame(rows, columns=["text", "label"])
    frame[[*LEARNED_ATTRIBUTES]] = ""
    frame.to_csv(checkout / "data/raw/sample.csv", index=False)
    profile = yaml.safe_load((checkout / "data/profile.yaml").read_text())
    profile["missing"] += ["contrast", "templates"]
    (checkout / "data/profile.yaml").write_text(yaml.safe_dump(profile))
    assert stage("data.prepare", checkout).returncode == 0
    ended = stage("data.validate", checkout)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: data/processed/train.parquet: labels: 0 rows break")


def test_a_second_run_in_the_same_checkout_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    checkout = fresh(tmp_path, monkeypatch)
    with (checkout / "data/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = stage("data.prepare", checkout)
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: data/.lock: another stage is running in this checkout; wait until it ends\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        ["pipeline", "--profile", "quick"],
        ["pipeline", "--clean"],
        ["release.promote"],
        ["release.promote", "--rollback"],
    ],
)
def test_a_second_make_train_says_who_runs_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    checkout = fresh(tmp_path, monkeypatch)
    with run_lock("`make train` with the profile full"):
        ended = subprocess.run(
            [sys.executable, "-m", f"training.{command[0]}", *command[1:]],
            cwd=checkout, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        "error: data/.run.lock: held by `make train` with the profile full, process "
        f"{os.getpid()} on {socket.gethostname()}, since 20"
    )
    assert ended.stderr.endswith("; wait until it ends, or stop that process\n")


def test_clean_removes_what_the_pipeline_made_and_nothing_beside_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = fresh(tmp_path, monkeypatch)
    kept = ["models/production/bundle.json", "mlflow.db", "data/sample/tweets.csv"]
    made = [
        "data/raw/a.csv",
        "data/profile.yaml",
        "reports/a/b.json",
        "models/candidate/model.onnx",
    ]
    for name in (*kept, *made):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    command = [sys.executable, "-m", "training.pipeline", "--clean"]
    with (checkout / "data" / ".lock").open("w") as lock:  # as a stage of `dvc repro` holds it
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert subprocess.run(command, cwd=checkout, check=False).returncode == 1
    assert all((checkout / name).exists() for name in made)
    for _ in range(2):
        subprocess.run(command, cwd=checkout, check=True)
        assert not any((checkout / name).exists() for name in made)
    assert all((checkout / name).exists() for name in kept)


def test_a_run_that_ended_leaves_no_lock(checkout: Path) -> None:
    with pytest.raises(RuntimeError), run_lock("one"):
        raise RuntimeError
    with run_lock("another"):
        assert Path("data/.run.lock").read_text().startswith("another, process ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_reported_and_leaves_no_partial_file(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from training.errors import run_stage
from training.files import atomic_write
def main():
    with atomic_write(Path("out.json")) as scratch:
        scratch.write_text("half")
        Path("/dev/full").write_text("x" * 100_000)
run_stage(main)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr == "error: No space left on device\n"
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_export_without_a_checkpoint_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = fresh(tmp_path, monkeypatch)
    ended = stage("export.export", checkout)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: models/finetuned: no checkpoint")


def test_int8_is_close_to_fp32(trained: Path) -> None:
    bundle = Bundle.load(trained / "models" / "candidate")
    parent = Bundle(bundle.manifest, bundle.tokenizer, (trained / "models/fp32.onnx").read_bytes())
    texts = pd.read_csv(ROOT / "data/sample/tweets.csv")["text"].tolist()
    assert np.abs(bundle.score(texts).labels - parent.score(texts).labels).max() < 0.1
    assert not np.array_equal(bundle.score(texts).labels, parent.score(texts).labels)


def test_a_bundle_can_be_moved(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "models" / "candidate", tmp_path / "elsewhere")
    assert Bundle.load(tmp_path / "elsewhere").golden_error() < 1e-5
