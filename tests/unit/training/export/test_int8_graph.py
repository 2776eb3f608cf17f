"""The int8 graph against the fp32 export, on small models with random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from training.errors import ArtifactError
from training.export.export import export_onnx
from training.export.int8_graph import (
    LINEAR,
    MASKED,
    OUTPUTS,
    Range,
    activation_ranges,
    int8_graph,
    split_outputs,
)
from training.files import read_json

ROWS = np.random.default_rng(3).integers(4, 200, (60, 12)).tolist()
ALL = np.arange(200)[:, None]  # words, alone
Scores = np.ndarray[Any, np.dtype[np.float32]]


def checkpoint(folder: Path, layers: int, activation: str) -> Path:
    torch.manual_seed(7)
    sizes = DistilBertConfig(
        vocab_size=200, dim=48, hidden_dim=96, n_layers=layers, n_heads=4, num_labels=8,
        activation=activation, max_position_embeddings=32,
    )  # fmt: skip
    model = DistilBertForSequenceClassification(sizes)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.dim() > 1 else 1)  # so that logits differ
        model.classifier.weight.mul_(4)
        # Channels far larger than the rest, as trained models have them.
        model.distilbert.transformer.layer[0].ffn.lin1.bias[5] = 100
        model.distilbert.transformer.layer[0].sa_layer_norm.weight[7] = 20
    model.save_pretrained(folder)
    return folder


def logits(model: onnx.ModelProto, ids: Any, mask: Any = None, name: str = "logits") -> Scores:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    ids = np.array(ids)
    fed = {"input_ids": ids, "attention_mask": np.ones_like(ids) if mask is None else mask}
    return np.asarray(session.run([name], fed)[0])


def output(model: onnx.ModelProto, name: str, ids: Any, mask: Any = None) -> Scores:
    """A tensor inside the model."""
    inside = onnx.ModelProto()
    inside.CopyFrom(model)
    inside.graph.output.append(onnx.ValueInfoProto(name=name))
    return logits(inside, ids, mask, name)


@pytest.fixture(scope="module", params=[(1, "gelu"), (3, "gelu"), (2, "relu")], ids=str)
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    folder = checkpoint(tmp_path_factory.mktemp("checkpoint"), *request.param)
    fp32 = split_outputs(onnx.load(export_onnx(folder, tmp_path_factory.mktemp("onnx"), 18)))
    ranges = activation_ranges(fp32, ROWS)
    assert len(ranges) == request.param[0] * len(LINEAR)
    weights = load_file(folder / "model.safetensors")
    return fp32, int8_graph(read_json(folder / "config.json"), weights, ranges, 18)


def test_the_graph_computes_nearly_what_the_fp32_export_does(
    models: tuple[onnx.ModelProto, ...],
) -> None:
    want, have = (logits(model, ROWS) for model in models)
    assert want.std(axis=0).min() > 0.05  # there is something to get wrong
    assert 0 < np.abs(want - have).max() < 0.1 * want.std()


def test_both_outputs_are_columns_of_the_one_classifier(
    models: tuple[onnx.ModelProto, ...],
) -> None:
    for model in models:
        whole = output(model, "all_logits", ROWS)
        parts = [logits(model, ROWS, name=name) for name in OUTPUTS]
        assert [part.shape[1] for part in parts] == [3, 5]
        assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_padding_and_other_rows_do_not_change_a_score(models: tuple[onnx.ModelProto, ...]) -> None:
    alone = logits(models[1], [ROWS[0]])
    ids, mask = np.zeros((3, 20), dtype=np.int64), np.zeros((3, 20), dtype=np.int64)
    ids[0, :12], mask[0, :12] = ROWS[0], 1
    ids[1], mask[1] = (ROWS[1] + ROWS[2])[:20], 1
    ids[2, :3], mask[2, :3] = ROWS[3][:3], 1
    assert logits(models[1], ids, mask)[0] == pytest.approx(alone[0], abs=1e-5)
    inner = output(models[1], "distilbert.embeddings.LayerNorm", ids, mask)
    assert inner.shape == (12 + 20 + 3, 48)  # no token of padding


def test_the_weight_of_padding_is_negligible_but_not_subnormal(
    models: tuple[onnx.ModelProto, ...],
) -> None:
    floats, weight = np.finfo(np.float32), np.exp(np.float32(MASKED))
    assert floats.tiny * 1e12 < weight < floats.eps / 1e12
    attention = [node for node in models[1].graph.node if "Attention" in node.op_type]
    values = [{a.name: onnx.helper.get_attribute_value(a) for a in n.attribute} for n in attention]
    assert attention
    assert all(value["mask_filter_value"] == MASKED for value in values)


def test_weights_are_int8_and_every_quantised_activation_is_used(
    models: tuple[onnx.ModelProto, ...],
) -> None:
    graph = models[1].graph
    large = [tensor for tensor in graph.initializer if np.prod(tensor.dims) > 2400]
    assert large
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.INT8}
    made = {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    read = [node for node in graph.node if node.op_type in {"QAttention", "MatMulIntegerToFloat"}]
    cut = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Gather"}
    assert {cut.get(node.input[0], node.input[0]) for node in read} == made


def test_embedding_rows_keep_their_own_scale(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1, "gelu")
    fp32 = onnx.load(export_onnx(folder, tmp_path / "onnx", 18))
    weights = load_file(folder / "model.safetensors")
    table = weights["distilbert.embeddings.word_embeddings.weight"]
    table[0] = 0
    table[1] *= 40  # a row of another size
    ranges = activation_ranges(fp32, ROWS)
    rows = output(int8_graph(read_json(folder / "config.json"), weights, ranges, 18), "word", ALL)
    allowed = np.abs(table).max(axis=1, keepdims=True) / 254 + 1e-6
    assert (np.abs(rows - table) <= allowed).all()
    assert not rows[0].any()


@pytest.mark.parametrize("read_by", ["0.lin1", "0.lin2"])
def test_a_large_channel_adds_little_error_to_the_others(tmp_path: Path, read_by: str) -> None:
    folder = checkpoint(tmp_path, 1, "gelu")
    fp32 = split_outputs(onnx.load(export_onnx(folder, tmp_path / "onnx", 18)))
    weights, config = load_file(folder / "model.safetensors"), read_json(folder / "config.json")
    ranges = activation_ranges(fp32, ROWS)
    channels, want = ranges[read_by], logits(fp32, ROWS)
    size = np.sort(np.maximum(-channels.low, channels.high))
    assert size[-1] > 4 * size[-2]

    def error() -> float:
        return float(np.abs(logits(int8_graph(config, weights, ranges, 18), ROWS) - want).mean())

    usual = error()
    # One range for all channels hides which one is large.
    ranges[read_by] = Range(0 * channels.low - size[-1], 0 * channels.high + size[-1])
    assert error() > 1.5 * usual


def test_another_activation_is_refused(tmp_path: Path) -> None:
    config = read_json(checkpoint(tmp_path, 1, "relu") / "config.json")
    with pytest.raises(ArtifactError, match="its activation is silu, not gelu or relu"):
        int8_graph(config | {"activation": "silu"}, {}, {}, 18)
