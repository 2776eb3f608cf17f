"""Distillation: which layers a student has, what it learns from, and what it leaves alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.special import expit, log_expit, log_softmax, softmax
from transformers import DistilBertConfig, DistilBertForSequenceClassification, TrainingArguments

from training.modeling.base import OUTPUTS
from training.modeling.distil import (
    HARD_SHARE,
    DistillationTrainer,
    kept_layers,
    student_of,
    with_soft_targets,
)
from training.modeling.loss import distillation_loss
from training.modeling.trainer import PartialLabelTrainer, collator

SIZES = {"vocab_size": 20, "dim": 8, "hidden_dim": 16, "n_heads": 2}


@pytest.fixture
def teacher() -> DistilBertForSequenceClassification:
    torch.manual_seed(0)
    config = DistilBertConfig(num_labels=len(OUTPUTS), n_layers=4, **SIZES)
    return DistilBertForSequenceClassification(config).eval()


def arguments(folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to="none", remove_unused_columns=False,
        label_names=["allowed"], per_device_eval_batch_size=2,
    )  # fmt: skip


def rows() -> Dataset:
    ids = [[2, 5, 6, 7, 3], [2, 5, 3], [2, 8, 9, 3], [2, 3]]
    unknown = [[float("nan")] * 5] * 4
    return Dataset.from_dict(
        {
            "input_ids": ids,
            "length": list(map(len, ids)),
            "allowed": [[True, False, False]] * 4,
            "votes": [[0.0] * 3] * 4,
            "attributes": unknown,
            "weight": [1.0] * 4,
            "source": [0] * 4,
        }
    )


@pytest.mark.parametrize(
    ("of", "layers", "kept"),
    [(6, 3, [0, 2, 5]), (6, 2, [0, 5]), (6, 1, [5]), (12, 6, [0, 2, 4, 7, 9, 11])],
)
def test_a_student_has_evenly_spaced_layers_with_the_first_and_the_last(
    of: int, layers: int, kept: list[int]
) -> None:
    assert kept_layers(of, layers) == kept


def test_a_student_starts_as_its_teacher_without_some_layers(
    teacher: DistilBertForSequenceClassification,
) -> None:
    student = student_of(teacher, 2)
    ours, theirs = student.state_dict(), teacher.state_dict()
    for name, weight in ours.items():
        assert weight.equal(theirs[name.replace("layer.1.", "layer.3.")]), name
    assert (student.config.teacher_layers, student.config.n_layers) == (4, 2)
    assert teacher.config.n_layers == 4
    fixed = {name for name, weight in student.named_parameters() if not weight.requires_grad}
    assert fixed == {name for name in ours if ".embeddings." in name}
    # Its weights are its own.
    student.classifier.weight.data += 1
    assert not student.classifier.weight.equal(teacher.classifier.weight)


def test_the_loss_is_the_cross_entropy_with_the_teachers_probabilities() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 2, 8)).astype(np.float32)
    labels = -(softmax(theirs[:, :3], axis=1) * log_softmax(ours[:, :3], axis=1)).sum(axis=1)
    share, x = expit(theirs[:, 3:]), ours[:, 3:]
    attributes = -(share * log_expit(x) + (1 - share) * log_expit(-x)).sum(axis=1)
    want = np.average(labels + 0.5 * attributes, weights=[3, 1])
    got = distillation_loss(*map(torch.tensor, (ours, theirs)), torch.tensor([3.0, 1.0]), 0.5)
    assert got.item() == pytest.approx(want, rel=1e-5)


def test_soft_targets_are_the_teachers_logits_of_each_row(
    teacher: DistilBertForSequenceClassification, tmp_path: Path
) -> None:
    trainer = PartialLabelTrainer(
        decay=0.0, attribute_weight=1.0, model=teacher, args=arguments(tmp_path),
        data_collator=collator(0),
    )  # fmt: skip
    targets = with_soft_targets(trainer, rows())
    for ids, target in zip(targets["input_ids"], targets["teacher"], strict=True):
        with torch.no_grad():
            logits = teacher(input_ids=torch.tensor([ids])).logits[0]
        assert target == pytest.approx(logits.tolist(), abs=1e-5)


def test_a_student_learns_from_the_labels_and_from_the_teacher(
    teacher: DistilBertForSequenceClassification, tmp_path: Path
) -> None:
    student = student_of(teacher, 2)
    trainer = DistillationTrainer(
        decay=0.0, attribute_weight=0.5, model=student, args=arguments(tmp_path)
    )
    target = [[1.0, 0.0, -1.0, 2.0, 0.0, 0.0, 0.0, 0.0]] * 4
    plain = collator(0)(list(rows()))
    batch = collator(0)(list(rows().add_column("teacher", target)))
    hard, output = trainer.compute_loss(student.eval(), plain, return_outputs=True)
    assert hard == trainer.hard_loss(output.logits, plain)
    soft = distillation_loss(output.logits, batch["teacher"], batch["weight"], 0.5)
    both = trainer.compute_loss(student, batch)
    assert both.item() == pytest.approx((HARD_SHARE * hard + (1 - HARD_SHARE) * soft).item())
    both.backward()
    assert student.distilbert.embeddings.word_embeddings.weight.grad is None
    assert student.classifier.weight.grad is not None
