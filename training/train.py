"""Stage 3: fine-tune the base on the train split; keep the epoch that is best on validation.

Writes models/finetuned/: the fp32 checkpoint in Hugging Face's layout, tokenizer.json, history.json
(what was logged, by step) and run.json (the MLflow run that the later stages go on with).

What is validated and kept is an exponential moving average of the weights. It does what a learning
rate that falls to zero would do, without the last steps' closeness to single rows: the rate ends at
`final_learning_rate`, and a third epoch is worse than the second.

Corpora differ in how much of each label they hold, because they were collected differently. Each
source but the first has an offset on the logits, learned with the rest and used in training only:
it takes up that corpus's prior, so that the scores keep the first one's.

Where it is known how many annotators gave which label, their shares are the target. That, the
weights of the sources and no dropout in the encoder were chosen by the means of nine to twelve runs
each (on a GPU; not of all together), for two runs of one recipe differ by .01. Macro-F1 on
validation, of a half that had no part in the thresholds, and the behavioural suite's pass rate:

                              Davidson  hate F1  HatEval  OLID  behaviour
    labels, weights of one      .743     .407     .759    .768    .82
    votes                       .750     .425     .757    .769    .84
    contrast sets weigh 2       .745     .411     .758    .768    .84
    Davidson weighs 1.5         .748     .418     .753    .760    .81
    half votes                  .747     .418     .762    .767    .83
    half votes, no dropout      .748     .420     .762    .769    .85
    half votes, both weights    .755     .435     .745    .768    .85

Contrast sets that weigh 2 teach that "I don't hate them" is not hate, and too much of it: of "none
of them is worth a thing" half was missed. With sixty more hateful denials they weigh 1.5.

What was tried beyond that, by macro-F1 on validation at the thresholds that `export` would choose.
How fast the offsets learn trades Davidson for HatEval: at 0, 20 and 45 times the learning rate, a
run each, .741, .760, .765 of the one and .772, .761, .712 of the other. The averaged weights'
scores as a second target cost a third more time, and two runs each say: Davidson -.005, HatEval
+.001, OLID +.002. The mean scores of nine models, nine times the work, add .005, .008 and .004.
Two hundred more contrast rows, twice, gave .89 and .86 of behaviour, but .005 less on validation.
"""

import hashlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import (
    DistilBertForSequenceClassification,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from training.config import Source, TrainParams, load_params, load_profile, load_sources
from training.errors import ArtifactError, DataError, run_stage
from training.files import read_json, sha256, whole, write_json
from training.labels import (
    LABELS,
    balanced_macro_f1,
    classes_by_source,
    label_mask,
    macro_f1_by_source,
)
from training.model import label_set_loss, load_base
from training.tracking import git_sha, tracked_run

PROCESSED = Path("data/processed")
FINETUNED = Path("models/finetuned")
CHECKPOINTS = Path("models/checkpoints")
NEEDED_BYTES = 2 * 2**30
OFFSET_RATE = 20  # times the learning rate


def uses_bf16(precision: str) -> bool:
    """Return whether to compute in bfloat16; emulated, it is slower than fp32."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and bool({"avx512_bf16", "amx_bf16"} & set(cpuinfo.read_text().split()))


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """Batches of texts of like length, in an order that depends on seed and epoch alone.

    The one in transformers draws from the global generator, so that a run resumed in the middle of
    an epoch would see some rows twice and others never.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = (
            np.array(lengths),
            batch_size,
            seed,
            0,
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the Trainer calls it before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = rng.permutation(len(self.lengths))
        pool = 50 * self.batch_size  # sorted within pools, so that batches stay a random mix
        pools = [rows[start : start + pool] for start in range(0, len(rows), pool)]
        rows = np.concatenate([part[np.argsort(self.lengths[part])] for part in pools])
        whole = len(rows) // self.batch_size * self.batch_size
        batches = rows[:whole].reshape(-1, self.batch_size)
        yield from rng.permutation(batches).ravel().tolist()
        yield from rows[whole:].tolist()


class LabelSetTrainer(Trainer):  # type: ignore[misc]
    """A Trainer with the label-set loss, an offset a source, and an average of the weights.

    The model has, beside its own parameters, `source_offsets` [sources, labels].
    """

    model: nn.Module
    model_wrapped: nn.Module

    def __init__(self, *, decay: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)

        def average(averaged: Any, current: Any, seen: Any) -> None:
            # Young averages forget faster, or the untrained head would weigh in for long.
            keep = min(decay, (1 + int(seen)) / (10 + int(seen)))
            torch._foreach_lerp_(averaged, current, 1 - keep)

        self.average = AveragedModel(kwargs["model"], multi_avg_fn=average)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LengthGroupedSampler:
        lengths = (train_dataset or self.train_dataset)["length"]
        return LengthGroupedSampler(lengths, self.args.train_batch_size, self.args.seed)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:  # fmt: skip
        """Return the batch's loss."""
        output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        logits = output.logits
        if model.training:
            # The first source's stays zero: it is the one that the scores are calibrated to.
            others = inputs["source"][:, None] > 0
            offsets = self.model.get_parameter("source_offsets")
            logits = logits + offsets[inputs["source"]] * others
        loss = label_set_loss(logits, *(inputs[name] for name in ("allowed", "votes", "weight")))
        return (loss, output) if return_outputs else loss

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW; biases and norms do not decay, and offsets, three numbers each, run ahead.

        They begin at zero and must reach a corpus's log odds within an epoch.
        """
        decays = set(self.get_decay_parameter_names(self.model)) - {"source_offsets"}
        named = dict(self.model.named_parameters())
        offsets = named.pop("source_offsets")
        rate, decay = self.args.learning_rate, self.args.weight_decay
        groups = [
            {"params": [p for n, p in named.items() if n in decays], "weight_decay": decay},
            {"params": [p for n, p in named.items() if n not in decays], "weight_decay": 0.0},
            {"params": [offsets], "weight_decay": 0.0, "lr": OFFSET_RATE * rate},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
        return self.optimizer

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the averaged weights."""
        last = self.model, self.model_wrapped
        self.model = self.model_wrapped = self.average.module
        try:
            return dict(super().evaluate(*args, **kwargs))
        finally:
            self.model, self.model_wrapped = last


class _Keeper(TrainerCallback):  # type: ignore[misc]
    """Averages after each step, seals checkpoints, keeps the best epoch, and tells MLflow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trainer: LabelSetTrainer

    def on_train_begin(self, args: Any, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        self.started, self.first = time.monotonic(), state.global_step

    def on_step_end(self, *_: Any, **kwargs: Any) -> None:
        self.trainer.average.update_parameters(kwargs["model"])

    def on_save(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        # Written last and whole: a checkpoint without it was cut off.
        with whole(self.folder / f"checkpoint-{state.global_step}" / "average.pt") as scratch:
            torch.save(self.trainer.average.state_dict(), scratch)

    def on_evaluate(
        self, args: Any, state: TrainerState, control: Any, metrics: dict[str, float], **_: Any
    ) -> None:
        best = self.folder / "best.json"
        score = metrics["eval_macro_f1"]
        if not best.exists() or score > read_json(best)["macro_f1"]:
            with whole(self.folder / "best.pt") as scratch:
                torch.save(self.trainer.average.module.state_dict(), scratch)
            write_json(best, {"macro_f1": score, "epoch": round(state.epoch or 0)})

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any], **_: Any
    ) -> None:
        values = {name: value for name, value in logs.items() if isinstance(value, int | float)}
        mlflow.log_metrics(values, step=state.global_step)
        if "loss" in logs and args.disable_tqdm:
            step, steps = state.global_step, state.max_steps
            left = (time.monotonic() - self.started) / (step - self.first) * (steps - step)
            loss = f"loss {logs['loss']:.3f}"
            print(f"step {step}/{steps}  {loss}  {left / 60:.0f} minutes left", flush=True)


def _encode(
    frame: pd.DataFrame, tokenizer: Tokenizer, sources: dict[str, float], params: TrainParams
) -> Dataset:
    """Encode rows; `sources` says what one of theirs weighs."""
    encoded = tokenizer.encode_batch(frame["text"].tolist())
    allowed = label_mask(frame["labels"])
    votes = np.array(frame["votes"].tolist(), dtype=np.float32)
    by_class = (allowed @ np.array(params.class_weights)) / allowed.sum(axis=1)
    return Dataset.from_dict(
        {
            "input_ids": [row.ids for row in encoded],
            "length": [len(row.ids) for row in encoded],
            "allowed": allowed.tolist(),
            "votes": (votes / votes.sum(axis=1, keepdims=True).clip(1)).tolist(),
            "weight": (by_class * frame["source"].map(sources)).astype(np.float32).tolist(),
            "source": frame["source"].map(list(sources).index).tolist(),
        }
    )


def _collator(pad: int) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        ones = [torch.ones_like(row) for row in ids]
        return {
            "input_ids": nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad),
            "attention_mask": nn.utils.rnn.pad_sequence(ones, batch_first=True),
        } | {
            name: torch.tensor([row[name] for row in rows])
            for name in ("allowed", "votes", "weight", "source")
        }

    return collate


def checkpoint_folder(params: TrainParams, sources: Mapping[str, Source], data_sha: str) -> Path:
    """Return where this training's checkpoints lie; another's must not be gone on with."""
    weights = {name: source.weight for name, source in sources.items()}
    asked = f"{params.model_dump_json()}{weights}{data_sha}"
    return CHECKPOINTS / hashlib.sha256(asked.encode()).hexdigest()[:12]


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the newest sealed checkpoint, and remove those that were cut off."""
    sealed = []
    for path in folder.glob("checkpoint-*"):
        if (path / "average.pt").is_file():
            sealed.append(path)
        else:
            shutil.rmtree(path)
    return max(sealed, key=lambda path: int(path.name.split("-")[1]), default=None)


def train(
    params: TrainParams,
    frames: dict[str, pd.DataFrame],
    configured: Mapping[str, Source],
    folder: Path,
) -> tuple[DistilBertForSequenceClassification, Any, dict[str, Any]]:
    """Fine-tune, or go on from the checkpoints in `folder`.

    Returns the best epoch's averaged model, its tokenizer, and `{"log": […], "best": {…}}`.
    """
    if params.threads:
        torch.set_num_threads(params.threads)
    transformers.set_seed(params.seed)
    model, tokenizer = load_base(
        params.base, dropout=params.dropout, encoder_dropout=params.encoder_dropout,
        max_tokens=params.max_tokens,
    )  # fmt: skip
    classes = classes_by_source(configured, frames["val"]["source"])
    # In the order of sources.yaml, which `classes` has; a source without classes comes after.
    seen = {name for frame in frames.values() for name in frame["source"]}
    names = [*classes, *sorted(seen - set(classes))]
    sources = {name: configured[name].weight for name in names}
    model.source_offsets = nn.Parameter(torch.zeros(len(sources), len(LABELS)))
    # Alike in length side by side: they are validated in this order.
    val = frames["val"].sort_values("text", key=lambda text: text.str.len())
    source = val["source"].to_numpy()

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        chosen = prediction.predictions.argmax(axis=1)
        scores = macro_f1_by_source(chosen, prediction.label_ids, source, classes)
        named = {f"macro_f1_{name}": score for name, score in scores.items()}
        return named | {"macro_f1": balanced_macro_f1(scores, source, classes)}

    keeper = _Keeper(folder)
    keeper.trainer = trainer = LabelSetTrainer(
        decay=params.ema_decay,
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=params.epochs,
            per_device_train_batch_size=params.batch_size,
            per_device_eval_batch_size=64,
            learning_rate=params.learning_rate,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr": params.final_learning_rate},
            warmup_ratio=params.warmup_ratio,
            weight_decay=params.weight_decay,
            max_grad_norm=params.max_grad_norm,
            bf16=uses_bf16(params.precision),
            use_cpu=not torch.cuda.is_available(),
            seed=params.seed,
            eval_strategy="epoch",
            save_steps=params.checkpoint_steps,
            save_total_limit=2,
            logging_steps=50,
            disable_tqdm=not sys.stderr.isatty(),
            remove_unused_columns=False,
            label_names=["allowed"],
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
        ),
        train_dataset=_encode(frames["train"], tokenizer, sources, params),
        eval_dataset=_encode(val, tokenizer, sources, params),
        data_collator=_collator(tokenizer.token_to_id("[PAD]")),
        compute_metrics=metrics,
        callbacks=[keeper],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    checkpoint = _last_checkpoint(folder)
    if checkpoint:
        print(f"resuming from {checkpoint}")
    try:
        if checkpoint:
            state = torch.load(checkpoint / "average.pt", weights_only=True)
            trainer.average.load_state_dict(state)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        model.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
        del model.source_offsets
    except Exception as error:
        # torch and safetensors report a full disk and a broken file as errors of their own.
        problem = " ".join(str(error).split())
        if "No space left" in problem or "PytorchStreamWriter" in problem:
            raise ArtifactError(f"{folder}: the disk is full ({problem})") from None
        if checkpoint and trainer.state.global_step == 0:
            raise ArtifactError(
                f"{checkpoint}: unreadable checkpoint ({problem}); delete {folder} to start over"
            ) from None
        raise
    history = {"log": trainer.state.log_history, "best": read_json(folder / "best.json")}
    return model, tokenizer, history


def main() -> None:
    """Train on data/processed and write models/finetuned."""
    params = load_params("train", TrainParams)
    files = {split: PROCESSED / f"{split}.parquet" for split in ("train", "val")}
    frames = {split: pd.read_parquet(path) for split, path in files.items()}
    seen = {label for labels in frames["train"]["labels"] for label in labels}
    if seen != set(LABELS):
        raise DataError(f"{files['train']}: labels: got {sorted(seen)}, wanted all of {LABELS}")
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

    with whole(FINETUNED / "tokenizer.json") as scratch:
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
