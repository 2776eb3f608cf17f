"""The trainer's own parts: the logit bias of sources, learning rates, and rows as inputs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import DistilBertConfig, DistilBertForSequenceClassification, TrainingArguments

from training.config import Source, TrainParams
from training.modeling.base import OUTPUTS
from training.modeling.loss import attribute_loss, partial_label_loss
from training.modeling.train import repeated
from training.modeling.trainer import HEAD_RATE, SOURCE_BIAS_RATE, PartialLabelTrainer, encode

BIAS = [0.0, 3, 0, 5, 1, 0, 0, 2]


@pytest.fixture
def trainer(tmp_path: Path) -> PartialLabelTrainer:
    sizes = {"vocab_size": 20, "dim": 8, "hidden_dim": 16, "n_layers": 1, "n_heads": 2}
    no_dropout = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    model = DistilBertForSequenceClassification(
        DistilBertConfig(num_labels=len(OUTPUTS), **sizes, **no_dropout)
    )
    model.source_logit_bias = torch.nn.Parameter(torch.tensor([[9.0] * 8, BIAS]))
    # The first source keeps the prior of the labels, the second that of the first attribute.
    shares = torch.tensor([[0.0] * 3 + [1] * 5, [1.0] * 3 + [0] + [1] * 4])
    model.register_buffer("source_bias_share", shares)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    return PartialLabelTrainer(decay=0.0, attribute_weight=0.5, model=model, args=args)


def batch(source: int) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([[2, 5, 3]]),
        "attention_mask": torch.ones(1, 3, dtype=torch.long),
        "allowed": torch.tensor([[True, False, False]]),
        "votes": torch.tensor([[0.25, 0.25, 0]]),
        "attributes": torch.tensor([[0.0, 1, torch.nan, 0.5, 0]]),
        "weight": torch.ones(1),
        "source": torch.tensor([source]),
    }


@pytest.mark.parametrize(
    ("source", "bias"), [(0, [0.0] * 3 + [9] * 5), (1, [*BIAS[:3], 0, *BIAS[4:]])]
)
def test_a_source_has_a_logit_bias_in_training_only(
    trainer: PartialLabelTrainer, source: int, bias: list[float]
) -> None:
    inputs = batch(source)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        target = inputs["allowed"], inputs["votes"], inputs["weight"]
        labels = partial_label_loss(logits[:, :3], *target)
        attributes = attribute_loss(logits[:, 3:], inputs["attributes"], inputs["weight"])
        return labels + 0.5 * attributes

    model = trainer.model.eval()
    plain, output = trainer.compute_loss(model, inputs, return_outputs=True)
    assert plain == loss(output.logits)
    shifted = loss(output.logits + torch.tensor(bias))
    assert trainer.compute_loss(model.train(), inputs) == shifted


def test_a_source_that_shares_the_prior_has_its_bias_in_a_part_of_its_rows(
    trainer: PartialLabelTrainer,
) -> None:
    trainer.model.source_bias_share[1] = 0.25
    one = {name: value.repeat(400, *[1] * (value.dim() - 1)) for name, value in batch(1).items()}
    trainer.model.train()
    losses = {}
    for share in (0.0, 1.0):
        trainer.model.source_bias_share[1] = share
        losses[share] = trainer.compute_loss(trainer.model, one).item()
    trainer.model.source_bias_share[1] = 0.25
    loss = trainer.compute_loss(trainer.model, one).item()
    assert 0.15 < (loss - losses[0.0]) / (losses[1.0] - losses[0.0]) < 0.35


def test_what_is_new_learns_faster_and_source_biases_do_not_decay(
    trainer: PartialLabelTrainer,
) -> None:
    model, rate = trainer.model, trainer.args.learning_rate
    groups = trainer.create_optimizer().param_groups
    rates = {id(p): (g["lr"] / rate, g["weight_decay"]) for g in groups for p in g["params"]}
    decay = trainer.args.weight_decay
    assert rates[id(model.source_logit_bias)] == (SOURCE_BIAS_RATE, 0.0)
    assert rates[id(model.classifier.weight)] == (pytest.approx(HEAD_RATE), decay)
    assert rates[id(model.distilbert.embeddings.word_embeddings.weight)] == (1.0, decay)
    assert rates[id(model.distilbert.embeddings.LayerNorm.weight)] == (1.0, 0.0)
    assert len(rates) == len(list(model.parameters()))


def test_a_row_is_seen_as_often_as_its_source_has_passes() -> None:
    rows = pd.DataFrame({"source": ["twice", "once", "twice"]})
    labels = {"x": ["hate"]}
    sources = {
        "once": Source(path="x.csv", labels=labels),
        "twice": Source(path="x.csv", labels=labels, passes=2),
    }
    assert repeated(rows["source"], sources).tolist() == [0, 0, 1, 2, 2]


def test_the_weight_of_a_row_is_that_of_its_labels_times_that_of_its_source() -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, "[UNK]"))
    params = TrainParams.model_construct(class_weights=(3.0, 1.0, 2.0))
    rows = pd.DataFrame(
        {
            "text": ["a", "b", "c"],
            "labels": [["hate"], ["hate", "offensive"], ["neither"]],
            "votes": [[2.0, 1.0, 0.0], [0.0] * 3, [0.0] * 3],
            "attributes": [[0.0, 1.0, np.nan, 0.5, 0.0]] * 3,
            "source": ["often", "once", "often"],
        }
    )
    encoded = encode(rows, tokenizer, {"once": 1.0, "often": 2.5}, params)
    assert encoded["weight"] == pytest.approx([7.5, 2, 5])
    assert encoded["source"] == [1, 0, 1]
    assert np.array(encoded["votes"]) == pytest.approx(
        np.array([[2 / 3, 1 / 3, 0], [0] * 3, [0] * 3])
    )
