"""The served graph: a DistilBERT checkpoint in ONNX Runtime's fused int8 operators.

    activation ranges (of the fp32 export on real texts) + weights -> int8_graph

The quantisation is static: dynamic quantisation chooses activation scales for each batch, so that a
text's score would depend on its neighbours (docs/design/static-int8.md). Weights have one scale for
each output channel, activations one for each tensor, from the smallest to the largest value seen
(percentiles fail on texts of unequal length). Only products with weights are int8: int8 products of
two activations, as in attention, lose accuracy and gain no speed. Large channels that would widen a
tensor's range are smoothed where a layer norm made them, and set apart in the feed-forward. Padding
is left out: the tokens of all rows are stored one after another, and only attention sees rows.

The graph is built here and not by a quantiser from the exporter's graph, which spent only a third
of its time in integer products: it quantised outputs that were dequantised at once, computed
attention in a dozen operators, and the last feed-forward for tokens that nothing reads. This graph
is 1.7 times as fast, and closer to its fp32 parent, because its residuals are not rounded.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from training.errors import ArtifactError
from training.partial_labels import LABELS, LEARNED_ATTRIBUTES

Floats = npt.NDArray[np.float32]
OUTPUTS = {"logits": len(LABELS), "attribute_logits": len(LEARNED_ATTRIBUTES)}  # and their columns
FUSED = "com.microsoft"
LAYER = "distilbert.transformer.layer."
LINEAR = ("q_lin", "out_lin", "lin1", "lin2")  # k_lin and v_lin have the input of q_lin
ACTIVATIONS = {"gelu": ("Gelu", FUSED), "relu": ("Relu", "")}
SMOOTHING = 0.7  # share of a channel's size that goes from the activation to the weight
SPARED = 8  # channels of each feed-forward's inner layer that stay fp32
EPSILON = 1e-12  # of DistilBERT's layer norms
# Added to the attention scores of padding. Padding repeats its row's last token, so it gets
# exp(MASKED) of that token's weight, less than float32 resolves. The usual -10,000 makes subnormal
# numbers, on which processors are slow: a quarter of the time of a batch of mixed lengths.
MASKED = -50.0


class Range(NamedTuple):
    """The smallest and the largest value of each channel of an activation; [channels] each."""

    low: Floats
    high: Floats


class _Int8(NamedTuple):
    """Names of a quantised tensor, its scale and its zero point."""

    values: str
    scale: str
    zero: str


def activation_ranges(fp32: onnx.ModelProto, rows: Sequence[Sequence[int]]) -> dict[str, Range]:
    """Return the range of the input of each weight in LINEAR, by `layer.weight`.

    Args:
        fp32: optimum's export of the checkpoint.
        rows: token ids; each is run alone, because padding would count as an activation.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(fp32)
    inputs = {}  # of each weight, the name of its input
    for node in fp32.graph.node:
        path = node.name.split("/")  # /distilbert/transformer/layer.0/attention/q_lin/MatMul
        if node.op_type == "MatMul" and path[-2] in LINEAR:
            inputs[f"{path[-4].removeprefix('layer.')}.{path[-2]}"] = node.input[0]
    names = sorted(set(inputs.values()))
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(watched.SerializeToString())
    seen: dict[str, Range] = {}
    for row in rows:
        ids = np.array([row])
        outputs = session.run(names, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        for name, output in zip(names, outputs, strict=True):
            new = Range(output.min(axis=(0, 1)), output.max(axis=(0, 1)))
            old = seen.get(name, new)
            seen[name] = Range(np.minimum(old.low, new.low), np.maximum(old.high, new.high))
    return {key: seen[name] for key, name in inputs.items()}


def int8_graph(
    config: Mapping[str, Any],
    weights: Mapping[str, Floats],
    ranges: Mapping[str, Range],
    opset: int,
) -> onnx.ModelProto:
    """Return the model: input_ids, attention_mask [rows, tokens] int64 → logits [rows, labels],
    attribute_logits [rows, attributes].

    Args:
        config: DistilBertForSequenceClassification's.
        weights: the checkpoint's, by their names there.
        ranges: see `activation_ranges`.
        opset: of the standard operators.

    Raises:
        ArtifactError: the checkpoint's activation function is not supported.
    """
    if config["activation"] not in ACTIVATIONS:
        wanted = " or ".join(ACTIVATIONS)
        raise ArtifactError(f"train.base: its activation is {config['activation']}, not {wanted}")
    graph = _Graph(weights)
    graph.positions()
    hidden = graph.embeddings()
    for layer in range(config["n_layers"]):
        inputs = {name: ranges[f"{layer}.{name}"] for name in LINEAR}
        last, prefix = layer == config["n_layers"] - 1, f"{LAYER}{layer}."
        hidden = graph.attention(prefix, hidden, inputs, config["n_heads"], only_cls=last)
        hidden = graph.feed_forward(prefix, hidden, inputs, config["activation"])
    graph.head(hidden)
    tokens = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "distilbert-int8", tokens, _outputs(), graph.constants),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(FUSED, 1)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model


class _Graph:
    """Nodes and constants of the graph. A node has the name of its output.

    Activations are [tokens of all rows, channels] without padding, unless stated otherwise.
    """

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, name: str) -> str:
        """Add a weight of the checkpoint unchanged."""
        return self.constant(name, self.weights[name])

    def node(
        self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Any
    ) -> str:
        self.nodes.append(
            helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes)
        )
        return output

    def int8(self, tensor: str, low: float, high: float) -> _Int8:
        """Quantise a tensor to 0…255; values outside the range saturate."""
        low, high = min(low, 0.0), max(high, 0.0)  # zero must be exact
        scale = (high - low) / 255 or 1.0
        return _Int8(
            self.node("QuantizeLinear", [tensor, f"{tensor}/s", f"{tensor}/z"], f"{tensor}/int8"),
            self.constant(f"{tensor}/s", np.float32(scale)),
            self.constant(f"{tensor}/z", np.uint8(round(-low / scale))),
        )

    def weight_int8(self, name: str, weight: Floats) -> _Int8:
        """Add a weight [inputs, outputs] with one scale for each output."""
        values, scale = _rounded(weight, axis=0)
        return _Int8(
            self.constant(f"{name}/int8", values),
            self.constant(f"{name}/s", scale[0]),
            self.constant(f"{name}/z", np.zeros(len(scale[0]), dtype=np.int8)),
        )

    def linear(self, x: _Int8, name: str, weight: Floats, output: str) -> str:
        w = self.weight_int8(f"{name}.weight", weight)
        inputs = [x.values, w.values, x.scale, w.scale, x.zero, w.zero, self.weight(f"{name}.bias")]
        return self.node("MatMulIntegerToFloat", inputs, output, FUSED)

    def smoothed(
        self, x: str, channels: Range, weights: list[Floats]
    ) -> tuple[_Int8, list[Floats]]:
        """Move some of the size of an input's large channels into the weights that it is multiplied
        with; return the quantised input and the new weights [inputs, outputs] (SmoothQuant, Xiao et
        al. 2023).
        """
        size = np.maximum(np.abs(channels.low), np.abs(channels.high)).clip(1e-5)
        weight_size = np.abs(weights).max(axis=(0, 2)).clip(1e-5)
        factor = size**SMOOTHING / weight_size ** (1 - SMOOTHING)
        low, high = (channels.low / factor).min(), (channels.high / factor).max()
        x = self.node("Mul", [x, self.constant(f"{x}/by", 1 / factor)], f"{x}/smooth")
        return self.int8(x, low, high), [weight * factor[:, None] for weight in weights]

    def norm(self, name: str, x: str, residual: str) -> str:
        total = self.node("Add", [x, residual], f"{name}/total")
        parts = [total, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.node("LayerNormalization", parts, name, axis=-1, epsilon=EPSILON)

    def positions(self) -> None:
        """Add the nodes that convert between padded rows and tokens.

        at: [tokens] each token's position in the flattened padded rows.
        slot: [rows, tokens] each position's index among the tokens; padding has that of its row's
            last token, which `mask` hides.
        """
        self.constant("all", np.array([-1]))
        self.constant("0", np.array(0))
        self.constant("1", np.array(1))
        self.constant("axis 1", np.array([1]))
        self.node("Cast", ["attention_mask"], "mask", to=TensorProto.INT32)
        flat = self.node("Reshape", ["attention_mask", "all"], "mask/flat")
        nonzero = self.node("NonZero", [flat], "at/2d")
        self.node("Reshape", [nonzero, "all"], "at")
        count = self.node("CumSum", [flat, "0"], "count")
        slot = self.node("Sub", [count, "1"], "slot/flat")
        shape = self.node("Shape", ["attention_mask"], "shape")
        self.node("Reshape", [slot, shape], "slot")
        self.node("Gather", ["slot", "0"], "slot/cls", axis=1)

    def rows(self, x: str) -> str:
        """Return [rows, tokens, channels]."""
        return self.node("Gather", [x, "slot"], f"{x}/rows")

    def tokens(self, x: str) -> str:
        """Undo `rows`."""
        x = self.node("Flatten", [x], f"{x}/padded", axis=2)
        return self.node("Gather", [x, "at"], f"{x}/tokens")

    def cls(self, x: str) -> str:
        """Keep each row's first token; [rows, channels]."""
        return self.node("Gather", [x, "slot/cls"], f"{x}/cls")

    def embeddings(self) -> str:
        ids = self.node("Reshape", ["input_ids", "all"], "ids/flat")
        ids = self.node("Gather", [ids, "at"], "ids")
        # The table is half of the model's bytes; only the rows that are looked up are dequantised.
        values, scale = _rounded(self.weights["distilbert.embeddings.word_embeddings.weight"], 1)
        row = self.node("Gather", [self.constant("words/int8", values), ids], "word/int8")
        scales = self.node("Gather", [self.constant("words/s", scale), ids], "word/s")
        row = self.node("Cast", [row], "word/float", to=TensorProto.FLOAT)
        row = self.node("Mul", [row, scales], "word")
        positions = self.weight("distilbert.embeddings.position_embeddings.weight")
        length = self.node("Shape", ["input_ids"], "length", start=1)
        column = self.node("Mod", ["at", length], "nth")
        position = self.node("Gather", [positions, column], "position")
        return self.norm("distilbert.embeddings.LayerNorm", row, position)

    def attention(
        self, prefix: str, x: str, ranges: Mapping[str, Range], heads: int, *, only_cls: bool
    ) -> str:
        names = [f"{prefix}attention.{part}_lin" for part in "qkv"]
        matrices = [self.weights[f"{name}.weight"].T for name in names]
        int8, matrices = self.smoothed(x, ranges["q_lin"], matrices)
        attributes = {"num_heads": heads, "mask_filter_value": MASKED}
        if only_cls:
            first = _Int8(self.cls(int8.values), int8.scale, int8.zero)
            query, key, value = (
                self.linear(source, name, matrix, name)
                for source, name, matrix in zip((first, int8, int8), names, matrices, strict=True)
            )
            query = self.node("Unsqueeze", [query, "axis 1"], f"{query}/row")
            inputs = [query, self.rows(key), self.rows(value), "", "mask"]
            mixed = self.node("MultiHeadAttention", inputs, f"{prefix}mixed", FUSED, **attributes)
            mixed = self.node("Squeeze", [mixed, "axis 1"], f"{prefix}mixed/cls")
            x = self.cls(x)
        else:
            w = self.weight_int8(f"{prefix}attention.qkv", np.concatenate(matrices, axis=1))
            biases = np.concatenate([self.weights[f"{name}.bias"] for name in names])
            bias = self.constant(f"{prefix}attention.qkv.bias", biases)
            source = self.rows(int8.values)
            inputs = [source, w.values, bias, int8.scale, w.scale, "mask", int8.zero, w.zero]
            mixed = self.node("QAttention", inputs, f"{prefix}mixed", FUSED, **attributes)
            mixed = self.tokens(mixed)
        channels, name = ranges["out_lin"], f"{prefix}attention.out_lin"
        int8 = self.int8(mixed, channels.low.min(), channels.high.max())
        out = self.linear(int8, name, self.weights[f"{name}.weight"].T, name)
        return self.norm(f"{prefix}sa_layer_norm", out, x)

    def feed_forward(
        self, prefix: str, x: str, ranges: Mapping[str, Range], activation: str
    ) -> str:
        """Add the feed-forward block.

        One or two of its inner channels are, at [CLS], many times as large as the others. As in
        LLM.int8() (Dettmers et al. 2022), y·W becomes min(y, c)·W₀ + y_J·W_J: J are the largest
        channels, which stay fp32, W₀ is W with zeros in their rows, and c is the largest value of
        the other channels.
        """
        inner, outer = f"{prefix}ffn.lin1", f"{prefix}ffn.lin2"
        int8, (weight,) = self.smoothed(x, ranges["lin1"], [self.weights[f"{inner}.weight"].T])
        y = self.linear(int8, inner, weight, inner)
        operator, domain = ACTIVATIONS[activation]
        y = self.node(operator, [y], f"{prefix}ffn", domain)

        channels, weight = ranges["lin2"], self.weights[f"{outer}.weight"].T.copy()
        order = np.argsort(channels.high)
        spared, rest = np.sort(order[-SPARED:]), order[:-SPARED]
        largest = self.constant(f"{outer}/J", spared)
        kept = self.constant(f"{outer}/W_J", weight[spared])
        weight[spared] = 0
        int8 = self.int8(y, channels.low[rest].min(), channels.high[rest].max())
        out = self.linear(int8, outer, weight, outer)
        exact = self.node("Gather", [y, largest], f"{outer}/y_J", axis=-1)
        exact = self.node("MatMul", [exact, kept], f"{outer}/exact")
        out = self.node("Add", [out, exact], f"{outer}/sum")
        return self.norm(f"{prefix}output_layer_norm", out, x)

    def head(self, x: str) -> None:
        for name, output in (("pre_classifier", "inner"), ("classifier", "all_logits")):
            parts = [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
            x = self.node("Gemm", parts, output, transB=1)
            if name == "pre_classifier":
                x = self.node("Relu", [x], "inner/relu")
        node, sizes = _split(x)
        self.nodes.append(node)
        self.constants.append(sizes)


def split_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an export of the checkpoint with the outputs of `int8_graph`.

    Args:
        model: its one output, `logits`, has the columns of labels and attributes.
    """
    split = onnx.ModelProto()
    split.CopyFrom(model)
    for node in split.graph.node:
        node.output[:] = ["all_logits" if name == "logits" else name for name in node.output]
    node, sizes = _split("all_logits")
    split.graph.node.append(node)
    split.graph.initializer.append(sizes)
    del split.graph.output[:]
    split.graph.output.extend(_outputs())
    onnx.checker.check_model(split)
    return split


def _split(x: str) -> tuple[onnx.NodeProto, onnx.TensorProto]:
    """Return a node that splits the classifier's columns, and the constant that it needs."""
    sizes = numpy_helper.from_array(np.array([*OUTPUTS.values()]), "sizes")
    return helper.make_node("Split", [x, "sizes"], [*OUTPUTS], name="split", axis=1), sizes


def _outputs() -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", columns])
        for name, columns in OUTPUTS.items()
    ]


def _rounded(weight: Floats, axis: int) -> tuple[npt.NDArray[np.int8], Floats]:
    """Return a weight as int8 and its scales along an axis, which is kept with length 1."""
    scale = np.abs(weight).max(axis=axis, keepdims=True) / 127
    scale[scale == 0] = 1  # all zeros, such as the embedding of [PAD]
    return np.round(weight / scale).astype(np.int8), scale.astype(np.float32)
