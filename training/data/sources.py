"""Reading a source: a file of any supported kind becomes rows with partial labels and votes.

data/raw/NAME.{csv,parquet,jsonl,txt} -> text, labels, votes, source
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from training.config import Source
from training.data.ingest import RawFiles, raw_files
from training.errors import DataError
from training.partial_labels import LABELS


def read_source(name: str, source: Source) -> pd.DataFrame:
    """Return a source's rows: `text`, `labels`, `votes`, `source`.

    Raises:
        DataError: the file is unreadable, or a row has no text or an unknown label.
    """
    files = raw_files(name)
    if files is None:
        raise DataError(f"data/raw/{name}: missing; run `make train`")
    path = files.text
    frame = _read_file(files, source)
    for column in (source.text, source.label):
        if column not in frame.columns:
            raise DataError(
                f"{path}: no column {column!r}; it has {sorted(map(str, frame.columns))}"
            )
    if frame.empty:
        raise DataError(f"{path}: no rows; wanted at least one")
    allowed = {str(label): names for label, names in source.labels.items()}
    labels = frame[source.label].map(lambda value: allowed.get(_label_key(value)))
    texts = frame[source.text]
    is_text = texts.map(lambda value: isinstance(value, str))
    if not is_text.all():
        row = int(np.argmin(is_text))
        raise DataError(
            f"{path}: row {row + 1}: {source.text}: got {texts.iloc[row]!r}, wanted a text"
        )
    if labels.isna().any():
        row = int(np.argmax(labels.isna()))
        raise DataError(
            f"{path}: row {row + 1}: got label {frame[source.label].iloc[row]!r}, "
            f"wanted one of sources.yaml: {', '.join(allowed)}"
        )
    return pd.DataFrame(
        {
            "text": texts.to_numpy(),
            "labels": labels.to_numpy(),
            "votes": _votes(path, frame, source).tolist(),
            "source": name,
        }
    )


def _read_file(files: RawFiles, source: Source) -> pd.DataFrame:
    path = files.text
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype=str, keep_default_na=False)
        if path.suffix == ".jsonl":
            return pd.read_json(path, lines=True, dtype=False)
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return _read_parallel(path, files.labels, source)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is {error.reason}; wanted UTF-8") from None
    except (ValueError, OSError) as error:
        problem = " ".join(str(error).split())
        raise DataError(f"{path}: unreadable as {path.suffix}: {problem}") from None


def _votes(path: Path, frame: pd.DataFrame, source: Source) -> npt.NDArray[np.float64]:
    votes = np.zeros((len(frame), len(LABELS)))
    for label, names in source.votes.items():
        present = [name for name in names if name in frame.columns]
        if not present:
            raise DataError(f"{path}: votes: no column {' or '.join(names)}")
        counts = pd.to_numeric(frame[present[0]], errors="coerce")
        if not (counts >= 0).all():
            row = int(np.argmin(counts >= 0))
            value = frame[present[0]].iloc[row]
            raise DataError(f"{path}: row {row + 1}: {present[0]}: got {value!r}, wanted a count")
        votes[:, LABELS.index(label)] = counts
    return votes


def _read_parallel(path: Path, label_path: Path | None, source: Source) -> pd.DataFrame:
    if label_path is None:
        raise DataError(f"{path}: its labels are missing; run `make train`")
    # Split at line feeds only: tweets contain other characters that Python counts as line ends.
    texts, labels = (
        p.read_text(encoding="utf-8").rstrip("\n").split("\n") for p in (path, label_path)
    )
    if len(texts) != len(labels):
        raise DataError(
            f"{path}: {len(texts)} texts, but {len(labels)} labels; wanted equal numbers"
        )
    return pd.DataFrame({source.text: texts, source.label: labels})


def _label_key(value: object) -> str:
    # A column of whole numbers with a gap arrives as floats.
    return (
        str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    )
