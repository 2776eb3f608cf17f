"""Stage 3: fine-tune the base on the train split; keep the epoch that is best on validation. Then
distil it into a student of `train.layers` layers, in the same way.

    train, val -> models/finetuned/ model.safetensors, config.json   the fp32 checkpoint
                                    tokenizer.json
                                    history.json   what was logged, by step; the student's
                                    run.json       the MLflow run that later stages continue

A killed training continues from its last checkpoint, to the same model bit for bit. How the recipe
was chosen is in docs/experiments.md.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import transformers
from torch import nn
from transformers import DistilBertForSequenceClassification, EvalPrediction

from training.config import Source, TrainParams, load_params, load_profile, load_sources
from training.errors import ArtifactError, DataError, run_stage
from training.files import atomic_write, read_json, sha256, write_json
from training.modeling.base import OUTPUTS, load_base
from training.modeling.distil import (
    DistillationTrainer,
    student_of,
    student_params,
    with_soft_targets,
)
from training.modeling.trainer import (
    PartialLabelTrainer,
    Progress,
    collator,
    encode,
    training_arguments,
)
from training.partial_labels import (
    LABELS,
    LEARNED_ATTRIBUTES,
    balanced_macro_f1,
    classes_by_source,
    macro_f1_by_source,
)
from training.paths import FINETUNED, MODELS, split_file
from training.tracking import git_sha, tracked_run

CHECKPOINTS = MODELS / "checkpoints"
NEEDED_BYTES = 2 * 2**30


def checkpoint_folder(params: TrainParams, sources: Mapping[str, Source], data_sha: str) -> Path:
    """Return the folder of this training's checkpoints; each recipe, code and data has its own."""
    code = [sha256(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    entries = {name: source.model_dump_json() for name, source in sources.items()}
    recipe = f"{params.model_dump_json()}{entries}{data_sha}{code}"
    return CHECKPOINTS / hashlib.sha256(recipe.encode()).hexdigest()[:12]


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint, and remove incomplete ones."""
    complete = []
    for path in folder.glob("checkpoint-*"):
        if (path / "average.pt").is_file():
            complete.append(path)
        else:
            shutil.rmtree(path)
    return max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)


def train(
    params: TrainParams,
    frames: dict[str, pd.DataFrame],
    configured: Mapping[str, Source],
    folder: Path,
) -> tuple[DistilBertForSequenceClassification, Any, dict[str, Any]]:
    """Fine-tune and distil, or continue from the checkpoints in `folder`.

    Returns the best epoch's averaged model, its tokenizer, and `{"log": […], "best": {…}}`; of the
    student if there is one.
    """
    if params.threads:
        torch.set_num_threads(params.threads)
    transformers.set_seed(params.seed)
    model, tokenizer = load_base(
        params.base, dropout=params.dropout, encoder_dropout=params.encoder_dropout,
        max_tokens=params.max_tokens,
    )  # fmt: skip
    classes = classes_by_source(configured, frames["val"]["source"])
    # In the order of sources.yaml; sources without classes come last.
    seen = {name for frame in frames.values() for name in frame["source"]}
    names = [*classes, *sorted(seen - set(classes))]
    weights = {name: configured[name].weight for name in names}
    model.source_logit_bias = nn.Parameter(torch.zeros(len(weights), len(OUTPUTS)))
    model.register_buffer("source_bias_share", _bias_shares(names, configured))
    # Sorted by length: validation runs in this order.
    val = frames["val"].sort_values("text", key=lambda text: text.str.len())
    passes = repeated(frames["train"]["source"], configured)
    rows = encode(frames["train"], tokenizer, weights, params)
    options = {
        "decay": params.ema_decay,
        "attribute_weight": params.attribute_weight,
        "eval_dataset": encode(val, tokenizer, weights, params),
        "data_collator": collator(tokenizer.token_to_id("[PAD]")),
        "compute_metrics": _validation_metrics(val["source"].to_numpy(), classes, weights),
    }
    trainer = PartialLabelTrainer(
        model=model, args=training_arguments(params, folder), train_dataset=rows.select(passes),
        **options,
    )  # fmt: skip
    history = _fit(trainer, folder)
    del model.source_logit_bias, model.source_bias_share
    if not 0 < params.layers < model.config.n_layers:
        return model, tokenizer, history
    print("the teacher scores the train split", flush=True)
    rows, folder = with_soft_targets(trainer, rows), folder / "student"
    transformers.set_seed(params.seed)
    student = student_of(model, params.layers)
    trainer = DistillationTrainer(
        model=student, args=training_arguments(student_params(params), folder),
        train_dataset=rows.select(passes), **options,
    )  # fmt: skip
    return student, tokenizer, _fit(trainer, folder, "student_")


def repeated(sources: pd.Series, configured: Mapping[str, Source]) -> npt.NDArray[np.int64]:
    """Return the positions of an epoch's rows, each as often as its source has passes."""
    passes = sources.map({name: source.passes for name, source in configured.items()})
    return np.repeat(np.arange(len(sources)), passes)


def _bias_shares(names: list[str], configured: Mapping[str, Source]) -> torch.Tensor:
    """Return [sources, outputs]: 0 where a source's prior is the one that the scores keep."""
    shares = torch.ones(len(names), len(OUTPUTS))
    for i, name in enumerate(names):
        shares[i, : len(LABELS)] = 0.0 if i == 0 else 1 - configured[name].shares_prior
    for i, attribute in enumerate(LEARNED_ATTRIBUTES, len(LABELS)):
        teaches = [name for name in configured if attribute in configured[name].attributes]
        first = next((name for name in teaches if name in names), None)
        if first:
            shares[names.index(first), i] = 0
    return shares


def _validation_metrics(
    source: npt.NDArray[Any],
    classes: dict[str, npt.NDArray[np.int64]],
    weights: Mapping[str, float],
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return the metrics of validation rows, by which the best epoch is chosen."""

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        chosen = prediction.predictions[:, : len(LABELS)].argmax(axis=1)
        scores = macro_f1_by_source(chosen, prediction.label_ids, source, classes)
        named = {f"macro_f1_{name}": score for name, score in scores.items()}
        return named | {"macro_f1": balanced_macro_f1(scores, source, classes, weights)}

    return metrics


def _fit(trainer: PartialLabelTrainer, folder: Path, prefix: str = "") -> dict[str, Any]:
    """Train from the newest checkpoint in `folder`, or from the start; leave the best epoch's
    averaged weights in the trainer's model and return the history.

    Args:
        trainer: of the model.
        folder: of its checkpoints.
        prefix: of the metrics in MLflow.

    Raises:
        ArtifactError: the disk is full, or the checkpoint is unreadable.
    """
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(Progress(folder, trainer, prefix))
    finished = folder / "history.json"
    if not finished.is_file():
        _run(trainer, folder)
        best = read_json(folder / "best.json")
        write_json(finished, {"log": trainer.state.log_history, "best": best})
    trainer.model.load_state_dict(load_tensors(folder / "best.pt"))
    history: dict[str, Any] = read_json(finished)
    return history


def load_tensors(path: Path) -> Any:
    """Return a state dict, on the CPU: the run may have begun on another device."""
    return torch.load(path, map_location="cpu", weights_only=True)


def _run(trainer: PartialLabelTrainer, folder: Path) -> None:
    checkpoint = _last_checkpoint(folder)
    try:
        if checkpoint:
            print(f"resuming from {checkpoint}")
            trainer.average.load_state_dict(load_tensors(checkpoint / "average.pt"))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Exception as error:
        # torch and safetensors have errors of their own for a full disk and a broken file.
        problem = " ".join(str(error).split())
        if "No space left" in problem or "PytorchStreamWriter" in problem:
            raise ArtifactError(f"{folder}: the disk is full ({problem})") from None
        if checkpoint and trainer.state.global_step == 0:
            raise ArtifactError(
                f"{checkpoint}: unreadable checkpoint ({problem}); delete {folder} to start over"
            ) from None
        raise


def main() -> None:
    """Train on data/processed and write models/finetuned."""
    params = load_params("train", TrainParams)
    files = {split: split_file(split) for split in ("train", "val")}
    frames = {split: pd.read_parquet(path) for split, path in files.items()}
    learned = {label for labels in frames["train"]["labels"] for label in labels}
    if learned != set(LABELS):
        raise DataError(f"{files['train']}: labels: got {sorted(learned)}, wanted all of {LABELS}")
    sources = load_sources()
    free = shutil.disk_usage(".").free
    if free < NEEDED_BYTES:
        raise ArtifactError(f"models: {free >> 20} MiB free, wanted {NEEDED_BYTES >> 20} MiB")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

    data_sha = "-".join(sha256(path)[:16] for path in files.values())
    folder = checkpoint_folder(params, sources, data_sha)
    run_file = folder / "run.json"
    run_id = read_json(run_file)["run_id"] if run_file.exists() else None
    with tracked_run(run_id) as run_id:
        write_json(run_file, {"run_id": run_id, "data_sha": data_sha})
        mlflow.set_tags({"git_sha": git_sha(), "data_sha": data_sha} | load_profile().model_dump())
        mlflow.log_params({f"train.{key}": value for key, value in params.model_dump().items()})
        mlflow.log_params({f"weight.{name}": source.weight for name, source in sources.items()})
        model, tokenizer, history = train(params, frames, sources, folder)

    with atomic_write(FINETUNED / "tokenizer.json") as scratch:
        tokenizer.save(str(scratch))
    model.save_pretrained(FINETUNED)
    write_json(FINETUNED / "history.json", history)
    shutil.copyfile(run_file, FINETUNED / "run.json")
    shutil.rmtree(CHECKPOINTS)
    print(
        f"best epoch {history['best']['epoch']}: macro-F1 {history['best']['macro_f1']:.3f} on val"
    )


if __name__ == "__main__":
    run_stage(main)
