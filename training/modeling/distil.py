"""Distillation: a student of fewer layers learns what the fine-tuned model, its teacher, answers.

    teacher ──> soft targets of the train split ─┐
       └──────> some of its layers ──> student ──┴──> fine-tuned student

As DistilBERT was made from BERT (Sanh et al. 2019), the student starts as the teacher without some
of its layers. Its embeddings stay the teacher's: they are half of the weights, and learning them
again takes longer and ends no better. What was tried is in docs/experiments.md.
"""

import copy
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import DistilBertForSequenceClassification

from training.config import TrainParams
from training.modeling.loss import distillation_loss
from training.modeling.trainer import PartialLabelTrainer

# A student of half the layers sees a row in half of the time, and larger batches suit soft targets.
EPOCHS = 2  # times the teacher's
BATCH_SIZE = 2  # the same
LEARNING_RATE = 2.8  # the same
HARD_SHARE = 0.3  # of the loss that is the data's own labels; the rest is the teacher's answers
LAYER = "distilbert.transformer.layer."


def kept_layers(teacher: int, student: int) -> list[int]:
    """Return which of the teacher's layers the student has: evenly spaced, its first and its last.

    With one layer it is the last.
    """
    return [round(i) for i in np.linspace(teacher - 1, 0, student)][::-1]


def student_of(
    teacher: DistilBertForSequenceClassification, layers: int
) -> DistilBertForSequenceClassification:
    """Return a copy of the teacher with `layers` of its layers; its embeddings do not learn."""
    config = copy.deepcopy(teacher.config)
    config.n_layers, config.teacher_layers = layers, teacher.config.n_layers
    kept = kept_layers(teacher.config.n_layers, layers)
    new_name = {f"{LAYER}{old}.": f"{LAYER}{new}." for new, old in enumerate(kept)}
    weights = {}
    for name, weight in teacher.state_dict().items():
        if not name.startswith(LAYER):
            weights[name] = weight
            continue
        number, _, rest = name.removeprefix(LAYER).partition(".")
        if new := new_name.get(f"{LAYER}{number}."):
            weights[new + rest] = weight
    student = DistilBertForSequenceClassification(config)
    student.load_state_dict(weights)
    student.distilbert.embeddings.requires_grad_(False)
    return student


def student_params(params: TrainParams) -> TrainParams:
    """Return the student's schedule."""
    return params.model_copy(
        update={
            "epochs": EPOCHS * params.epochs,
            "batch_size": BATCH_SIZE * params.batch_size,
            "learning_rate": LEARNING_RATE * params.learning_rate,
        }
    )


def with_soft_targets(teacher: PartialLabelTrainer, rows: Dataset) -> Dataset:
    """Return the rows with a column `teacher`: the logits of the trainer's model, [outputs]."""
    order = np.argsort(rows["length"], kind="stable")  # less padding
    teacher.compute_metrics = None
    logits = teacher.predict(rows.select(order)).predictions
    return rows.add_column("teacher", logits[np.argsort(order)].tolist())


class DistillationTrainer(PartialLabelTrainer):
    """Trains a student on rows with soft targets.

    It needs no bias for each source: the teacher's answers have one prior.
    """

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:  # fmt: skip
        """Return the batch's loss."""
        output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        loss = self.hard_loss(output.logits, inputs)
        if "teacher" in inputs:
            soft = distillation_loss(
                output.logits, inputs["teacher"], inputs["weight"], self.attribute_weight
            )
            loss = HARD_SHARE * loss + (1 - HARD_SHARE) * soft
        return (loss, output) if return_outputs else loss
