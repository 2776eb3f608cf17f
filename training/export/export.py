"""Stage 4: the fine-tuned checkpoint becomes a sealed int8 bundle in models/candidate/.

    checkpoint -> ONNX (optimum) -> activation ranges -> int8 graph -> temperature, thresholds
               -> calibrations of the attributes -> golden examples -> manifest, written last

models/fp32.onnx, the unquantised export, is kept beside it for `evaluate` and the benchmark.
"""

import datetime
import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from serving.bundle import (
    LABELS,
    LEARNED_ATTRIBUTES,
    SCHEMA_VERSION,
    Bundle,
    BundleError,
    Manifest,
    content_version,
    scores_by_attribute,
    scores_by_label,
)
from training.config import (
    ExportParams,
    Source,
    TrainParams,
    load_params,
    load_profile,
    load_sources,
)
from training.errors import ArtifactError, run_stage
from training.export.calibration import choose_thresholds, fit_calibration, fit_temperature
from training.export.int8_graph import activation_ranges, int8_graph, split_outputs
from training.files import read_json, sha256, write_json
from training.frames import read_frame
from training.partial_labels import classes_by_source, label_mask
from training.paths import CANDIDATE, FINETUNED, FP32, split_file
from training.tracking import git_sha

SAMPLE = Path("data/sample/tweets.csv")


def export_onnx(checkpoint: Path, folder: Path, opset: int) -> Path:
    """Write `checkpoint` as folder/model.onnx and return that path."""
    from optimum.exporters.onnx import main_export

    main_export(
        str(checkpoint), folder, task="text-classification", opset=opset, do_validation=False,
        no_post_process=True, library_name="transformers", framework="pt",
    )  # fmt: skip
    return folder / "model.onnx"


def _golden(bundle: Bundle, sample: Path, count: int) -> list[dict[str, Any]]:
    # The bundled sample's texts may be published, whatever the model learned from.
    rows = []
    for text in read_frame(sample)["text"].head(count):
        labels, attributes = (part[0] for part in bundle.score([text]))
        scores = {
            "scores": scores_by_label(labels),
            "attributes": scores_by_attribute(attributes),
        }
        rows.append({"text": text} | scores)
    return rows


def calibrate_attributes(
    probabilities: npt.NDArray[Any],
    shares: npt.NDArray[np.float64],
    source: npt.NDArray[Any],
    sources: Mapping[str, Source],
) -> dict[str, Any]:
    """Return each attribute's calibration, fitted to the sources of the first one's kind.

    The scores keep the prior of the first source that teaches an attribute (see
    training/modeling/trainer.py), so they are calibrated to that source.

    Args:
        probabilities: [rows, LEARNED_ATTRIBUTES] at scale 1.
        shares: [rows, LEARNED_ATTRIBUTES] the raters' shares; NaN: unknown.
        source: [rows] names.
        sources: as configured.
    """
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    logits = np.log(p / (1 - p))
    calibrations = {}
    for i, attribute in enumerate(LEARNED_ATTRIBUTES):
        teaches = [n for n in sources if attribute in sources[n].attributes and (source == n).any()]
        rows = source == next(iter(teaches), "")
        calibrations[attribute] = fit_calibration(logits[rows, i], shares[rows, i]).model_dump()
    return calibrations


def threshold_weights(sources: Mapping[str, Source], present: Iterable[str]) -> dict[str, float]:
    """Return how much each source counts where thresholds are chosen: not at all with `thresholds:
    false`, unless no other is present.
    """
    names = list(present)
    weights = {name: sources[name].weight * sources[name].thresholds for name in names}
    return weights if any(weights.values()) else {name: sources[name].weight for name in names}


def export(
    params: ExportParams, manifest: dict[str, Any], splits: dict[str, pd.DataFrame], folder: Path
) -> Manifest:
    """Write the bundle to the empty `folder`, and FP32; return the manifest, written last.

    Args:
        params: the section `export`.
        manifest: the fields that are already known: data, data_sha, base, git_sha, max_tokens.
        splits: `train` to calibrate on, `val` for temperature and thresholds.
        folder: where to write.
    """
    shutil.copyfile(FINETUNED / "tokenizer.json", folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        onnx.save(
            split_outputs(onnx.load(export_onnx(FINETUNED, Path(scratch), params.opset))), FP32
        )
    texts = splits["train"]["text"].head(params.calibration_rows).tolist()
    rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    ranges = activation_ranges(onnx.load(FP32), rows)
    weights = load_file(FINETUNED / "model.safetensors")
    config = read_json(FINETUNED / "config.json")
    onnx.save(int8_graph(config, weights, ranges, params.opset), folder / "model.onnx")

    content: dict[str, Any] = manifest | {
        "schema_version": SCHEMA_VERSION,
        "name": "tweet-tagger",
        "version": "",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "labels": LABELS,
        "temperature": 1.0,
        "thresholds": {"hate": 0.5, "toxic": 0.5},
        "attributes": {name: {"scale": 1.0, "bias": 0.0} for name in LEARNED_ATTRIBUTES},
        "files": {name: sha256(folder / name) for name in ("model.onnx", "tokenizer.json")},
        "golden": [],
        "golden_tolerance": params.golden_tolerance,
        "quantisation": "static int8: weights by channel, embeddings by row",
        "opset": params.opset,
    }
    model = (folder / "model.onnx").read_bytes()

    def bundle() -> Bundle:
        return Bundle(Manifest.model_validate(content), tokenizer, model)

    val = splits["val"]
    allowed, source = label_mask(val["labels"]), val["source"].to_numpy()
    scores, attributes = bundle().score(val["text"].tolist())  # at temperature 1, scale 1
    sources = load_sources()
    classes = classes_by_source(sources, source)
    reference = source == next(iter(classes))
    content["temperature"] = fit_temperature(scores[reference], allowed[reference])
    scores = scores ** np.float32(1 / content["temperature"])
    scores /= scores.sum(axis=1, keepdims=True)
    by_source = threshold_weights(sources, classes)
    thresholds = choose_thresholds(scores, allowed, source, classes, by_source)
    content["thresholds"] = thresholds.model_dump()
    shares = np.array(val["attributes"].tolist(), dtype=np.float64)
    content["attributes"] = calibrate_attributes(attributes[:, 1:], shares, source, sources)
    content["golden"] = _golden(bundle(), SAMPLE, params.golden_rows)
    content["version"] = content_version(json.loads(json.dumps(content)))
    write_json(folder / "bundle.json", content)
    return Manifest.model_validate(content)


def _base(name: str, config: dict[str, Any]) -> str:
    """Return what the manifest says of the base; a student's config knows its teacher's layers."""
    if "teacher_layers" not in config:
        return name
    return f"{name}, {config['teacher_layers']} layers distilled into {config['n_layers']}"


def main() -> None:
    """Export models/finetuned to models/candidate, which is replaced in one rename."""
    params, trained = load_params("export", ExportParams), load_params("train", TrainParams)
    if not (FINETUNED / "model.safetensors").is_file():
        raise ArtifactError(f"{FINETUNED}: no checkpoint; run `make train`")
    logging.getLogger("optimum").setLevel(logging.ERROR)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    splits = {split: pd.read_parquet(split_file(split)) for split in ("train", "val")}
    known = {
        "data": load_profile().data,
        "data_sha": read_json(FINETUNED / "run.json")["data_sha"],
        "base": _base(trained.base, read_json(FINETUNED / "config.json")),
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
