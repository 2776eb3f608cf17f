"""Stage 4: the fine-tuned checkpoint becomes a sealed int8 bundle in models/candidate/.

The steps: ONNX through optimum; outlier channels set apart; static int8 of the MatMuls that have
weights; int8 rows for the word embeddings; temperature and thresholds from validation data; golden
examples; the manifest.
models/fp32.onnx, the unquantised export, is kept beside it for `evaluate` and the benchmark.

Why static: dynamic quantisation picks activation scales for each batch, so that a tweet's score
would depend on its neighbours. Why only MatMuls with weights: the attention's products of two
activations lose accuracy and gain no speed. Why min-max: percentile calibration fails on texts of
unequal length.
"""

import datetime
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pandas as pd
from datasets import Dataset
from onnx import helper, numpy_helper
from scipy.ndimage import uniform_filter
from scipy.optimize import minimize_scalar
from tokenizers import Tokenizer

from serving.bundle import (
    LABELS,
    SCHEMA_VERSION,
    Bundle,
    BundleError,
    Manifest,
    Thresholds,
    content_version,
    decide,
    named,
)
from training.config import ExportParams, TrainParams, load_params, load_profile, load_sources
from training.errors import ArtifactError, run_stage
from training.files import read_json, sha256, write_json
from training.labels import (
    balanced_macro_f1,
    classes_by_source,
    label_mask,
    macro_f1_by_source,
)
from training.tracking import git_sha

FINETUNED = Path("models/finetuned")
CANDIDATE = Path("models/candidate")
FP32 = Path("models/fp32.onnx")
PROCESSED = Path("data/processed")
SAMPLE = Path("data/sample/tweets.csv")
EMBEDDING = "word_embeddings.weight"
SPARED = "W_J"


def export_onnx(checkpoint: Path, folder: Path, opset: int) -> Path:
    """Write `checkpoint` as folder/model.onnx and return that path."""
    from optimum.exporters.onnx import main_export

    main_export(
        str(checkpoint), folder, task="text-classification", opset=opset, do_validation=False,
        no_post_process=True, library_name="transformers", framework="pt",
    )  # fmt: skip
    return folder / "model.onnx"


def spare_outliers(model: Path, rows: list[list[int]], channels: int = 8) -> None:
    """Take the few channels that would spoil int8's ranges out of the MatMuls after GELU, in place.

    One or two of 1,536 channels, at [CLS], are many times as large as the rest, in the activations
    and in the weights. As in LLM.int8() (Dettmers et al. 2022), x·W becomes min(x, c)·W₀ + x_J·W_J:
    J are the largest channels, which stay fp32, W₀ is W with their rows zero, and c is the largest
    value of the others on `rows`.
    """
    loaded = onnx.load(model)
    graph = loaded.graph
    weights = {initializer.name: initializer for initializer in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "MatMul" and "ffn/lin2" in node.name]
    watched = onnx.ModelProto()
    watched.CopyFrom(loaded)
    watched.graph.output.extend(onnx.ValueInfoProto(name=node.input[0]) for node in nodes)
    session = onnxruntime.InferenceSession(watched.SerializeToString())
    size = [np.zeros(1)] * len(nodes)
    for row in rows:
        ids = np.array([row])
        outputs = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[1:]
        seen = [np.abs(output).max(axis=(0, 1)) for output in outputs]
        size = [np.maximum(before, now) for before, now in zip(size, seen, strict=True)]
    for node, largest in zip(nodes, size, strict=True):
        x, (name, product) = node.input[0], (node.name, node.output[0])
        order = np.argsort(largest)
        spared, limit = np.sort(order[-channels:]), largest[order[-channels - 1]]
        weight = numpy_helper.to_array(weights[node.input[1]]).copy()
        constants = {"J": spared, "c": np.float32(limit), SPARED: weight[spared]}
        for key, value in constants.items():
            graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{name}/{key}"))
        weight[spared] = 0
        weights[node.input[1]].CopyFrom(numpy_helper.from_array(weight, node.input[1]))
        node.input[0], node.output[0] = f"{name}/x", f"{name}/rest"
        at = list(graph.node).index(node)
        for op, inputs, output, options in [
            ("Add", [f"{name}/rest", f"{name}/spared"], product, {}),
            ("MatMul", [f"{name}/x_J", f"{name}/{SPARED}"], f"{name}/spared", {}),
            ("Gather", [x, f"{name}/J"], f"{name}/x_J", {"axis": -1}),
            ("Min", [x, f"{name}/c"], f"{name}/x", {}),
        ]:
            place = at + 1 if op == "Add" else at  # what the MatMul needs stands before it
            graph.node.insert(
                place, helper.make_node(op, inputs, [output], f"{name}/{op}", **options)
            )
    onnx.save(loaded, model)


def quantise(model: Path, out: Path, rows: list[list[int]]) -> None:
    """Write `model` with int8 weights to `out`, its activation ranges from `rows` of token ids.

    One row a batch: padding would count as an activation.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantizationMode, QuantType
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import CalibrationConfig, QuantizationConfig

    graph = onnx.load(model).graph
    weights = {initializer.name for initializer in graph.initializer}
    weighted = [
        node.name
        for node in graph.node
        if node.op_type == "MatMul"
        and node.input[1] in weights
        and not node.input[1].endswith(SPARED)
    ]
    dataset = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(r) for r in rows]})
    quantizer = ORTQuantizer.from_pretrained(model.parent, file_name=model.name)
    ranges = quantizer.fit(
        dataset,
        CalibrationConfig("tweets", "", "train", len(rows), CalibrationMethod.MinMax),
        onnx_augmented_model_name=model.parent / "augmented.onnx",
        operators_to_quantize=["MatMul"],
        batch_size=1,
    )
    with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
        made = quantizer.quantize(
            save_dir=scratch,
            calibration_tensors_range=ranges,
            quantization_config=QuantizationConfig(
                is_static=True,
                format=QuantFormat.QDQ,
                mode=QuantizationMode.QLinearOps,
                activations_dtype=QuantType.QUInt8,
                weights_dtype=QuantType.QInt8,
                weights_symmetric=True,
                per_channel=True,
                reduce_range=False,
                nodes_to_quantize=weighted,
                operators_to_quantize=["MatMul"],
            ),
        )
        quantised = onnx.load(Path(made) / "model_quantized.onnx")
    _quantise_embeddings(quantised.graph)
    onnx.checker.check_model(quantised)
    onnx.save(quantised, out)


def _quantise_embeddings(graph: onnx.GraphProto) -> None:
    """Store the word embeddings, half of the model's bytes, as int8 rows with a scale each.

    ONNX Runtime would unpack a quantised table whole; here only the rows looked up are.
    """
    table = next(t for t in graph.initializer if t.name.endswith(EMBEDDING))
    gather = next(node for node in graph.node if table.name in node.input)
    values = numpy_helper.to_array(table)
    scale = np.abs(values).max(axis=1, keepdims=True) / 127
    scale[scale == 0] = 1  # a row of zeros, as the padding's
    rounded = np.round(values / scale).astype(np.int8)
    ids, looked_up = gather.input[1], gather.output[0]
    added = [
        helper.make_node("Gather", ["embedding_int8", ids], ["embedding_row"], name="EmbeddingRow"),
        helper.make_node("Gather", ["embedding_scale", ids], ["row_scale"], name="EmbeddingScale"),
        helper.make_node("Cast", ["embedding_row"], ["row_float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["row_float", "row_scale"], [looked_up], name="EmbeddingUnpack"),
    ]
    at = list(graph.node).index(gather)
    for offset, node in enumerate(added):
        graph.node.insert(at + offset, node)
    graph.node.remove(gather)
    graph.initializer.remove(table)
    graph.initializer.append(numpy_helper.from_array(rounded, "embedding_int8"))
    graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), "embedding_scale"))


def fit_temperature(probabilities: npt.NDArray[Any], allowed: npt.NDArray[np.bool_]) -> float:
    """Return the temperature that makes single-label rows likeliest (Guo et al. 2017).

    Args:
        probabilities: [rows, labels] at temperature 1.
        allowed: [rows, labels] label sets.
    """
    single = allowed.sum(axis=1) == 1
    log_p, truth = np.log(np.maximum(probabilities[single], 1e-12)), allowed[single]

    def loss(log_temperature: float) -> float:
        scaled = log_p / np.exp(log_temperature)
        return float((np.logaddexp.reduce(scaled, axis=1) - scaled[truth]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x))


def choose_thresholds(
    scores: npt.NDArray[np.float32],
    allowed: npt.NDArray[np.bool_],
    source: npt.NDArray[Any],
    classes: dict[str, npt.NDArray[np.int64]],
) -> Thresholds:
    """Return the thresholds with the best balanced macro-F1, each source by its own classes: a
    threshold bought with one corpus would be paid for by the others. What counts is the mean of a
    grid point and its neighbours, for a lone peak is luck.

    Args:
        scores: [rows, labels] calibrated probabilities.
        allowed: [rows, labels] label sets.
        source: [rows] names.
        classes: by source name, [labels] the class of each label.
    """

    def quality(thresholds: Thresholds) -> float:
        chosen = decide(scores, thresholds)
        by_source = macro_f1_by_source(chosen, allowed, source, classes)
        return balanced_macro_f1(by_source, source, classes)

    grid = [
        [
            Thresholds(hate=round(float(hate), 2), toxic=round(float(toxic), 2))
            for toxic in np.arange(0.3, 0.81, 0.05)
        ]
        for hate in np.arange(0.1, 0.71, 0.02)
    ]
    found = uniform_filter([[quality(one) for one in row] for row in grid], 3, mode="nearest")
    at, then = np.unravel_index(found.argmax(), found.shape)
    return grid[at][then]


def _golden(bundle: Bundle, sample: Path, count: int) -> list[dict[str, Any]]:
    # The bundled sample's texts: ours to publish, whatever the model learned from.
    texts = pd.read_csv(sample)["text"].head(count)
    return [{"text": text, "scores": named(bundle.score([text])[0])} for text in texts]


def export(
    params: ExportParams, manifest: dict[str, Any], splits: dict[str, pd.DataFrame], folder: Path
) -> Manifest:
    """Make the bundle in the empty `folder` and FP32; return the manifest, which it writes last.

    Args:
        params: the section `export`.
        manifest: what is known beforehand: data, data_sha, base, git_sha, max_tokens.
        splits: `train` to calibrate on, `val` for temperature and thresholds.
        folder: where to write.
    """
    shutil.copyfile(FINETUNED / "tokenizer.json", folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        plain = export_onnx(FINETUNED, Path(scratch), params.opset)
        texts = splits["train"]["text"].head(params.calibration_rows).tolist()
        rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        shutil.copyfile(plain, FP32)
        spare_outliers(plain, rows)
        quantise(plain, folder / "model.onnx", rows)

    content: dict[str, Any] = manifest | {
        "schema_version": SCHEMA_VERSION,
        "name": "tweet-tagger",
        "version": "",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "labels": LABELS,
        "temperature": 1.0,
        "thresholds": {"hate": 0.5, "toxic": 0.5},
        "files": {name: sha256(folder / name) for name in ("model.onnx", "tokenizer.json")},
        "golden": [],
        "golden_tolerance": params.golden_tolerance,
        "quantisation": "static int8 (QDQ): MatMuls by channel, outliers apart; embeddings by row",
        "opset": params.opset,
    }
    model = (folder / "model.onnx").read_bytes()

    def bundle() -> Bundle:
        return Bundle(Manifest.model_validate(content), tokenizer, model)

    val = splits["val"]
    allowed, source = label_mask(val["labels"]), val["source"].to_numpy()
    scores = bundle().score(val["text"].tolist())  # at temperature 1
    classes = classes_by_source(load_sources(), source)
    reference = source == next(iter(classes))
    content["temperature"] = fit_temperature(scores[reference], allowed[reference])
    scores = scores ** np.float32(1 / content["temperature"])
    scores /= scores.sum(axis=1, keepdims=True)
    content["thresholds"] = choose_thresholds(scores, allowed, source, classes).model_dump()
    content["golden"] = _golden(bundle(), SAMPLE, params.golden_rows)
    content["version"] = content_version(json.loads(json.dumps(content)))
    write_json(folder / "bundle.json", content)
    return Manifest.model_validate(content)


def main() -> None:
    """Export models/finetuned to models/candidate, which appears whole or not at all."""
    params, trained = load_params("export", ExportParams), load_params("train", TrainParams)
    if not (FINETUNED / "model.safetensors").is_file():
        raise ArtifactError(f"{FINETUNED}: no checkpoint; run `make train`")
    logging.getLogger("optimum").setLevel(logging.ERROR)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    splits = {split: pd.read_parquet(PROCESSED / f"{split}.parquet") for split in ("train", "val")}
    known = {
        "data": load_profile().data,
        "data_sha": read_json(FINETUNED / "run.json")["data_sha"],
        "base": trained.base,
        "git_sha": git_sha(),
        "max_tokens": trained.max_tokens,
    }
    folder = Path(tempfile.mkdtemp(prefix=".candidate.", dir=CANDIDATE.parent))
    try:
        manifest = export(params, known, splits, folder)
        error = Bundle.load(folder).golden_error()
        if error > params.golden_tolerance:
            raise ArtifactError(f"{folder}: golden scores differ by {error:.2g} when read again")
        shutil.rmtree(CANDIDATE, ignore_errors=True)
        folder.chmod(0o755)
        folder.replace(CANDIDATE)
    except BundleError as error:
        raise ArtifactError(str(error)) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(
        f"bundle {manifest.version}  temperature {manifest.temperature:.2f}  "
        f"hate from {manifest.thresholds.hate:.2f}, toxic from {manifest.thresholds.toxic:.2f}"
    )


if __name__ == "__main__":
    run_stage(main)
