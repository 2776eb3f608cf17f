"""The model bundle: a folder that is verified, loaded and asked for scores.

    model.onnx       int8: input_ids, attention_mask [rows, tokens] int64 -> logits [rows, labels]
    tokenizer.json   with the text normalisation and the truncation inside it
    bundle.json      the manifest, written last; it seals the other two by their SHA-256

    manifest <- decision <- bundle

This is all that training hands to serving.
"""

from serving.bundle.bundle import Bundle, Encoding
from serving.bundle.decision import Floats, Ints, decide, named
from serving.bundle.manifest import (
    LABELS,
    MANIFEST,
    SCHEMA_VERSION,
    SEALED,
    BundleError,
    Golden,
    Manifest,
    Thresholds,
    content_version,
    read_manifest,
)

__all__ = [
    "LABELS",
    "MANIFEST",
    "SCHEMA_VERSION",
    "SEALED",
    "Bundle",
    "BundleError",
    "Encoding",
    "Floats",
    "Golden",
    "Ints",
    "Manifest",
    "Thresholds",
    "content_version",
    "decide",
    "named",
    "read_manifest",
]
