"""The trainer: transformers' Trainer with partial labels, averaged weights and exact resuming.

What is validated and kept is an exponential moving average of the weights. It replaces a learning
rate that falls to zero, and keeps more distance from single rows.

Sources differ in how much of each label they hold, because they were collected differently. Each
source has a bias on the logits, which is learned with the rest and used in training only: it takes
up that source's prior. It is fixed at zero for the first source, and for the first that teaches an
attribute, so that the scores keep their priors. Where a source shares the first one's prior in
part, that part of its rows, drawn anew in each batch, is learned without the bias.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from training.config import TrainParams
from training.files import atomic_write, read_json, write_json
from training.modeling.loss import attribute_loss, partial_label_loss
from training.partial_labels import LABELS, label_mask

SOURCE_BIAS_RATE = 20  # times the learning rate
HEAD_RATE = 3  # the same, of the new layers
# Tokens of a row in training. Few are longer, and a batch of them would need twice the memory.
LONGEST = 256


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """Batches of texts of similar length, in an order that depends on seed and epoch only.

    The sampler in transformers draws from the global generator: a run that is resumed in the middle
    of an epoch would see some rows twice and others never.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size = np.array(lengths), batch_size
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; the Trainer calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = rng.permutation(len(self.lengths))
        pool = 50 * self.batch_size  # rows are sorted within pools, so that batches stay random
        pools = [rows[start : start + pool] for start in range(0, len(rows), pool)]
        rows = np.concatenate([part[np.argsort(self.lengths[part])] for part in pools])
        full = len(rows) // self.batch_size * self.batch_size
        batches = rows[:full].reshape(-1, self.batch_size)
        yield from rng.permutation(batches).ravel().tolist()
        yield from rows[full:].tolist()  # the last, smaller batch


class PartialLabelTrainer(Trainer):  # type: ignore[misc]
    """A Trainer with the losses of labels and attributes, a logit bias for each source, and
    averaged weights.

    Beside its own parameters the model has `source_logit_bias` [sources, outputs], and a buffer
    `source_bias_share` of the same shape: in which share of the rows it counts.
    """

    model: nn.Module
    model_wrapped: nn.Module

    def __init__(self, *, decay: float, attribute_weight: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attribute_weight = attribute_weight

        def average(averaged: Any, current: Any, seen: Any) -> None:
            # A young average forgets faster; otherwise the untrained head would count for long.
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
            bias = self.model.get_parameter("source_logit_bias")
            share = self.model.get_buffer("source_bias_share")[inputs["source"]]
            counts = torch.rand(len(logits), 1, device=logits.device) < share
            logits = logits + bias[inputs["source"]] * counts
        loss = self.hard_loss(logits, inputs)
        return (loss, output) if return_outputs else loss

    def hard_loss(self, logits: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss of logits [rows, outputs] on the data's own labels and attributes."""
        labels = len(LABELS)
        loss = partial_label_loss(
            logits[:, :labels], *(inputs[name] for name in ("allowed", "votes", "weight"))
        )
        return loss + self.attribute_weight * attribute_loss(
            logits[:, labels:], inputs["attributes"], inputs["weight"]
        )

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW; biases and norms do not decay, and what is new learns faster.

        The source biases start at zero and must reach a source's log odds within an epoch; the
        classifier must learn rare attributes from a few hundred rows.
        """
        decays = set(self.get_decay_parameter_names(self.model)) - {"source_logit_bias"}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            factor = 1.0
            if name == "source_logit_bias":
                factor = SOURCE_BIAS_RATE
            elif name.startswith(("classifier.", "pre_classifier.")):
                factor = HEAD_RATE
            decay = self.args.weight_decay if name in decays else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
        rate = self.args.learning_rate
        self.optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "weight_decay": decay, "lr": factor * rate}
                for (factor, decay), parameters in groups.items()
            ],
            lr=rate, fused=True,
        )  # fmt: skip
        return self.optimizer

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the averaged weights."""
        current = self.model, self.model_wrapped
        self.model = self.model_wrapped = self.average.module
        try:
            return dict(super().evaluate(*args, **kwargs))
        finally:
            self.model, self.model_wrapped = current


class Progress(TrainerCallback):  # type: ignore[misc]
    """Averages after each step, completes checkpoints, keeps the best epoch, logs to MLflow."""

    def __init__(self, folder: Path, trainer: PartialLabelTrainer, prefix: str = "") -> None:
        """Make the callback of a trainer; `prefix` begins the names of what it logs."""
        self.folder, self.trainer, self.prefix = folder, trainer, prefix

    def on_train_begin(self, args: Any, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        self.started, self.first = time.monotonic(), state.global_step

    def on_step_end(
        self, args: Any, state: TrainerState, control: Any, *, model: nn.Module,
        train_dataloader: Any, **_: Any,
    ) -> None:  # fmt: skip
        self.trainer.average.update_parameters(model)
        # Trainer itself would evaluate an epoch after its last checkpoint, and a run that is
        # resumed from there would not evaluate it any more.
        if state.global_step % len(train_dataloader) == 0:
            control.should_evaluate = True

    def on_save(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        # Written last: a checkpoint without it is incomplete.
        with atomic_write(
            self.folder / f"checkpoint-{state.global_step}" / "average.pt"
        ) as scratch:
            torch.save(self.trainer.average.state_dict(), scratch)

    def on_evaluate(
        self, args: Any, state: TrainerState, control: Any, metrics: dict[str, float], **_: Any
    ) -> None:
        best = self.folder / "best.json"
        score = metrics["eval_macro_f1"]
        if not best.exists() or score > read_json(best)["macro_f1"]:
            with atomic_write(self.folder / "best.pt") as scratch:
                torch.save(self.trainer.average.module.state_dict(), scratch)
            write_json(best, {"macro_f1": score, "epoch": round(state.epoch or 0)})

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any], **_: Any
    ) -> None:
        values = {
            self.prefix + name: value
            for name, value in logs.items()
            if isinstance(value, int | float)
        }
        mlflow.log_metrics(values, step=state.global_step)
        if "loss" in logs and args.disable_tqdm:
            step, steps = state.global_step, state.max_steps
            left = (time.monotonic() - self.started) / (step - self.first) * (steps - step)
            loss = f"loss {logs['loss']:.3f}"
            print(
                f"{self.prefix}step {step}/{steps}  {loss}  {left / 60:.0f} minutes left",
                flush=True,
            )


def uses_bf16(precision: str) -> bool:
    """Return whether to compute in bfloat16, which is slower than fp32 where it is emulated."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and bool({"avx512_bf16", "amx_bf16"} & set(cpuinfo.read_text().split()))


def training_arguments(params: TrainParams, folder: Path) -> TrainingArguments:
    """Return the Trainer's arguments; checkpoints go to `folder`."""
    return TrainingArguments(
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
        eval_strategy="no",  # `Progress` asks for it
        save_steps=params.checkpoint_steps,
        save_total_limit=2,
        logging_steps=50,
        disable_tqdm=not sys.stderr.isatty(),
        remove_unused_columns=False,
        label_names=["allowed"],
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )


def encode(
    frame: pd.DataFrame, tokenizer: Tokenizer, weights: dict[str, float], params: TrainParams
) -> Dataset:
    """Return rows as the model's inputs.

    Args:
        frame: text, labels, votes, attributes, source.
        tokenizer: the base's.
        weights: of a row, by source; their order numbers the sources.
        params: class weights.
    """
    encoded = tokenizer.encode_batch(frame["text"].tolist())
    ids = [row.ids for row in encoded]
    ids = [row if len(row) <= LONGEST else [*row[: LONGEST - 1], row[-1]] for row in ids]
    allowed = label_mask(frame["labels"])
    votes = np.array(frame["votes"].tolist(), dtype=np.float32)
    by_class = (allowed @ np.array(params.class_weights)) / allowed.sum(axis=1)
    return Dataset.from_dict(
        {
            "input_ids": ids,
            "length": list(map(len, ids)),
            "allowed": allowed.tolist(),
            "votes": (votes / votes.sum(axis=1, keepdims=True).clip(1)).tolist(),
            "attributes": [list(map(float, shares)) for shares in frame["attributes"]],
            "weight": (by_class * frame["source"].map(weights)).astype(np.float32).tolist(),
            "source": frame["source"].map(list(weights).index).tolist(),
        }
    )


def collator(pad: int) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """Return a function that pads rows with the token id `pad` into one batch."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        ones = [torch.ones_like(row) for row in ids]
        return {
            "input_ids": nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad),
            "attention_mask": nn.utils.rnn.pad_sequence(ones, batch_first=True),
        } | {
            name: torch.tensor([row[name] for row in rows])
            for name in ("allowed", "votes", "attributes", "weight", "source", "teacher")
            if name in rows[0]
        }

    return collate
