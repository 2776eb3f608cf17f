"""Reading a source: a file of any supported kind becomes rows with partial labels, votes and
attributes.

data/raw/NAME.{csv,parquet,jsonl,txt} -> text, labels, votes, attributes, source
"""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from training.config import Source
from training.data.ingest import RawFiles, raw_files
from training.errors import DataError
from training.groups import fill_groups, read_groups
from training.partial_labels import LABELS, LEARNED_ATTRIBUTES


def read_source(name: str, source: Source) -> pd.DataFrame:
    """Return a source's rows: `text`, `labels`, `votes`, `attributes`, `source`.

    Raises:
        DataError: the file is unreadable, or a row has no text, or a value that sources.yaml does
            not know.
    """
    files = raw_files(name)
    if files is None:
        raise DataError(f"data/raw/{name}: missing; run `make train`")
    path = files.text
    frame = _read_file(files, source)
    for column in _columns(source):
        if column not in frame.columns:
            raise DataError(
                f"{path}: no column {column!r}; it has {sorted(map(str, frame.columns))}"
            )
    if frame.empty:
        raise DataError(f"{path}: no rows; wanted at least one")
    # Some corpora have the words of a text in a list.
    texts = frame[source.text].map(lambda v: " ".join(v) if isinstance(v, list) else v)
    is_text = texts.map(lambda value: isinstance(value, str))
    if not is_text.all():
        row = int(np.argmin(is_text))
        raise DataError(
            f"{path}: row {row + 1}: {source.text}: got {texts.iloc[row]!r}, wanted a text"
        )
    rows = pd.DataFrame(
        {
            "text": texts.to_numpy(),
            "labels": _labels(path, frame, source),
            "votes": _votes(path, frame, source).tolist(),
            "attributes": _attributes(path, frame, source).tolist(),
            "source": name,
        }
    )
    # A label that allows none of ours says nothing: the row is left out.
    rows = rows[rows["labels"].str.len() > 0].reset_index(drop=True)
    if source.groups and source.fillings:
        return fill_groups(rows, read_groups(source.groups), source.fillings)
    return rows


def _columns(source: Source) -> list[str]:
    """Return the columns that a source must have."""
    columns = [source.text]
    by_value = isinstance(source.labels, dict)
    if by_value or any(isinstance(known, dict) for known in source.attributes.values()):
        columns.append(source.label)
    if not isinstance(source.labels, dict):
        columns += [rule.column for rule in source.labels if rule.column]
    columns += [known for known in source.attributes.values() if isinstance(known, str)]
    return columns + ([source.raters] if source.raters else [])


def _labels(path: Path, frame: pd.DataFrame, source: Source) -> list[list[str]]:
    """Return the partial label of each row; an empty one leaves the row out."""
    if isinstance(source.labels, dict):
        allowed = {str(label): names for label, names in source.labels.items()}
        labels = frame[source.label].map(lambda value: allowed.get(_label_key(value)))
        if labels.isna().any():
            row = int(np.argmax(labels.isna()))
            raise DataError(
                f"{path}: row {row + 1}: got label {frame[source.label].iloc[row]!r}, "
                f"wanted one of sources.yaml: {', '.join(allowed)}"
            )
        return [list(names) for names in labels]
    undecided = np.ones(len(frame), dtype=bool)
    chosen: list[list[str]] = [[] for _ in range(len(frame))]
    for rule in source.labels:
        reaches = undecided.copy()
        if rule.column:
            reaches &= _numbers(path, frame, rule.column, source) >= rule.at_least
        for i in np.flatnonzero(reaches):
            chosen[i] = list(rule.labels)
        undecided &= ~reaches
    return chosen


def _numbers(
    path: Path, frame: pd.DataFrame, column: str, source: Source
) -> npt.NDArray[np.float64]:
    """Return a column of counts as shares of the raters, or of shares as they are; NaN: empty."""
    values = pd.to_numeric(frame[column], errors="coerce")  # an empty cell: NaN
    wrong = values.isna() & (frame[column].astype(str).str.strip() != "")
    wanted, most = "a share from 0 to 1", 1.0
    if column == source.raters:
        wanted, most = "a count", math.inf
    elif source.raters:
        wanted = "a count of the raters"
        values = values / _numbers(path, frame, source.raters, source)
    wrong |= (values < 0) | (values > most)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{path}: row {row + 1}: {column}: got {frame[column].iloc[row]!r}, wanted {wanted}"
        )
    return np.asarray(values, dtype=np.float64)


def _attributes(path: Path, frame: pd.DataFrame, source: Source) -> npt.NDArray[np.float64]:
    """Return raters' shares for each attribute, [rows, LEARNED_ATTRIBUTES]; NaN: unknown."""
    shares = np.full((len(frame), len(LEARNED_ATTRIBUTES)), np.nan)
    for name, known in source.attributes.items():
        if isinstance(known, str):
            values = _numbers(path, frame, known, source)
        else:
            by_label = {str(label): share for label, share in known.items()}
            values = np.array([by_label.get(_label_key(v), np.nan) for v in frame[source.label]])
        shares[:, LEARNED_ATTRIBUTES.index(name)] = values
    return shares


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
    if isinstance(value, bool):
        return str(value).lower()
    # A column of whole numbers with a gap arrives as floats.
    return (
        str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    )
