"""The model bundle: a folder with a model, which this package verifies, loads and runs.

    model.onnx       int8: input_ids, attention_mask [rows, tokens] int64 -> logits [rows, labels],
                     attribute_logits [rows, attributes]
    tokenizer.json   contains the text normalisation and the truncation
    bundle.json      the manifest, written last; it seals the other two by their SHA-256

    manifest <- decision <- bundle  (imports)

The bundle is all that serving gets from training.
"""

from serving.bundle.bundle import MAX_WINDOWS, SPECIAL_TOKENS, Bundle, Encoding
from serving.bundle.decision import (
    Floats,
    Ints,
    Scores,
    decide,
    scores_by_attribute,
    scores_by_label,
)
from serving.bundle.manifest import (
    ATTRIBUTES,
    LABELS,
    LEARNED_ATTRIBUTES,
    MANIFEST,
    SCHEMA_VERSION,
    SEALED,
    BundleError,
    Calibration,
    Golden,
    Manifest,
    Thresholds,
    content_version,
    read_manifest,
    read_sealed,
)

__all__ = [
    "ATTRIBUTES",
    "LABELS",
    "LEARNED_ATTRIBUTES",
    "MANIFEST",
    "MAX_WINDOWS",
    "SCHEMA_VERSION",
    "SEALED",
    "SPECIAL_TOKENS",
    "Bundle",
    "BundleError",
    "Calibration",
    "Encoding",
    "Floats",
    "Golden",
    "Ints",
    "Manifest",
    "Scores",
    "Thresholds",
    "content_version",
    "decide",
    "read_manifest",
    "read_sealed",
    "scores_by_attribute",
    "scores_by_label",
]
