"""The trainer's own parts: offsets by source, and who learns at which rate."""

from pathlib import Path

import pytest
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification, TrainingArguments

from training.model import label_set_loss
from training.train import OFFSET_RATE, LabelSetTrainer


@pytest.fixture
def trainer(tmp_path: Path) -> LabelSetTrainer:
    sizes = {"vocab_size": 20, "dim": 8, "hidden_dim": 16, "n_layers": 1, "n_heads": 2}
    still = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    model = DistilBertForSequenceClassification(DistilBertConfig(num_labels=3, **sizes, **still))
    model.source_offsets = torch.nn.Parameter(torch.tensor([[9.0, 9, 0], [0, 3, 0]]))
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    return LabelSetTrainer(class_weights=torch.ones(3), decay=0.0, model=model, args=args)


def batch(source: int) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([[2, 5, 3]]),
        "attention_mask": torch.ones(1, 3, dtype=torch.long),
        "allowed": torch.tensor([[True, False, False]]),
        "source": torch.tensor([source]),
    }


@pytest.mark.parametrize(("source", "offset"), [(0, [0.0, 0, 0]), (1, [0.0, 3, 0])])
def test_all_sources_but_the_first_have_an_offset_in_training_only(
    trainer: LabelSetTrainer, source: int, offset: list[float]
) -> None:
    inputs = batch(source)
    model = trainer.model.eval()
    plain, output = trainer.compute_loss(model, inputs, return_outputs=True)
    assert plain == label_set_loss(output.logits, inputs["allowed"], torch.ones(3))
    shifted = label_set_loss(output.logits + torch.tensor(offset), inputs["allowed"], torch.ones(3))
    assert trainer.compute_loss(model.train(), inputs) == shifted


def test_offsets_learn_ahead_and_do_not_decay(trainer: LabelSetTrainer) -> None:
    groups = trainer.create_optimizer().param_groups
    ahead = [g for g in groups if any(p is trainer.model.source_offsets for p in g["params"])]
    rate = trainer.args.learning_rate
    assert [(g["lr"], g["weight_decay"]) for g in ahead] == [(OFFSET_RATE * rate, 0.0)]
    assert sum(len(g["params"]) for g in groups) == len(list(trainer.model.parameters()))
    assert {g["lr"] for g in groups} == {rate, OFFSET_RATE * rate}
