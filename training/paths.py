"""Where the pipeline's files are, relative to the checkout."""

from pathlib import Path

RAW = Path("data/raw")
PROCESSED = Path("data/processed")
REPORTS = Path("reports")
MODELS = Path("models")
FINETUNED = MODELS / "finetuned"
CANDIDATE = MODELS / "candidate"
FP32 = MODELS / "fp32.onnx"  # the unquantised export
# The training data of the model in production, as far as `validate` compares with it.
REFERENCE = RAW / "reference.parquet"


def split_file(split: str) -> Path:
    """Return the file of a split: train, val, test or external."""
    return PROCESSED / f"{split}.parquet"
