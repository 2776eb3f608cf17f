"""Reading a source: a file of any supported kind becomes rows with partial labels, votes and
attributes.

data/raw/NAME.{csv,tsv,parquet,jsonl,txt} -> text, labels, votes, attributes, source
"""

import re
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from serving.tables import decimal_point, no_column, no_text
from training.config import Source
from training.data.ingest import RawFiles, raw_files
from training.errors import DataError
from training.frames import check_rows, read_frame, read_text_lines
from training.groups import fill_groups
from training.partial_labels import LABELS, LEARNED_ATTRIBUTES

# How programs write whole numbers in a column of text, and yes and no.
WHOLE_NUMBER = re.compile(r"(-?\d+)[.,]00?")
BOOLEANS = {"true": "1", "false": "0"}


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
    # Where a wrong label is.
    label_path = files.labels if path.suffix == ".txt" and files.labels else path
    frame = _read_file(files, source)
    for column in _columns(source):
        if column not in frame.columns:
            raise DataError(no_column(path, [column], frame.columns.tolist()))
    if frame.empty and source.kind == "log":  # nobody has labelled anything yet
        return pd.DataFrame(columns=["text", "labels", "votes", "attributes", "source"])
    if frame.empty:
        raise DataError(f"{path}: no rows; wanted at least one")
    # Some corpora have the words of a text in a list.
    texts = frame[source.text].map(_joined)
    wrong = texts.map(lambda value: not isinstance(value, str) or bool(no_text(value)))
    check_rows(path, texts, wrong, f"{source.text}: got", "a text")
    rows = pd.DataFrame(
        {
            "text": texts.to_numpy(),
            "labels": _labels(label_path, frame, source),
            "votes": _votes(label_path, frame, source).tolist(),
            "attributes": _attributes(label_path, frame, source).tolist(),
            "source": name,
        }
    )
    # A label that allows none of ours says nothing: the row is left out.
    rows = rows[rows["labels"].str.len() > 0].reset_index(drop=True)
    if source.groups and source.fillings:
        return _filled(path, source, rows)
    return rows


def _filled(path: Path, source: Source, rows: pd.DataFrame) -> pd.DataFrame:
    groups_path = Path(str(source.groups))
    groups = read_frame(groups_path)
    if groups.empty:
        raise DataError(f"{groups_path}: no rows; wanted at least one group")
    try:
        return fill_groups(rows, groups, source.fillings)
    except ValueError as error:
        known = ", ".join(f"{{{name}}}" for name in groups.columns)
        raise DataError(f"{path}: {error}; {groups_path} has {known}") from None


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
        labels = frame[source.label].map(lambda value: allowed.get(_known_label(value, allowed)))
        wanted = f"one of sources.yaml: {', '.join(allowed)}"
        check_rows(path, frame[source.label], labels.isna(), "got label", wanted)
        return [list(names) for names in labels]
    undecided = np.ones(len(frame), dtype=bool)
    chosen: list[list[str]] = [[] for _ in range(len(frame))]
    for rule in source.labels:
        reaches = undecided.copy()
        if rule.column:
            shares = _numbers(path, frame, rule.column, source)
            # A row that nobody rated would become one of the last rule, such as [neither].
            unknown = (undecided & np.isnan(shares)).tolist()
            check_rows(
                path, frame[rule.column], unknown, f"{rule.column}: got", "a share for this rule"
            )
            reaches &= shares >= rule.at_least
        for i in np.flatnonzero(reaches):
            chosen[i] = list(rule.labels)
        undecided &= ~reaches
    return chosen


def _numbers(
    path: Path, frame: pd.DataFrame, column: str, source: Source
) -> npt.NDArray[np.float64]:
    """Return a column of counts as shares of the raters, or of shares as they are; NaN: empty."""
    cells = frame[column]
    values = pd.to_numeric(cells.map(_number), errors="coerce")  # an empty cell: NaN
    wrong = values.isna() & cells.notna() & (cells.astype(str).str.strip() != "")
    wanted, most = "a share from 0 to 1", 1.0
    if column == source.raters:
        wanted, most = "a count", sys.float_info.max
    elif source.raters:
        wanted = "a count of the raters"
        values = values / _numbers(path, frame, source.raters, source)
    wrong |= (values < 0) | (values > most)
    check_rows(path, cells, wrong, f"{column}: got", wanted)
    return np.asarray(values, dtype=np.float64)


def _attributes(path: Path, frame: pd.DataFrame, source: Source) -> npt.NDArray[np.float64]:
    """Return raters' shares for each attribute, [rows, LEARNED_ATTRIBUTES]; NaN: unknown."""
    shares = np.full((len(frame), len(LEARNED_ATTRIBUTES)), np.nan)
    by_value = isinstance(source.labels, dict)
    for name, known in source.attributes.items():
        if isinstance(known, str):
            values = _numbers(path, frame, known, source)
        else:
            by_label = {str(label): share for label, share in known.items()}
            all_known = {*by_label, *map(str, source.labels)} if by_value else by_label.keys()
            keys = [_known_label(value, all_known) for value in frame[source.label]]
            values = np.array([by_label.get(key, np.nan) for key in keys])
        shares[:, LEARNED_ATTRIBUTES.index(name)] = values
    return shares


def _read_file(files: RawFiles, source: Source) -> pd.DataFrame:
    if files.text.suffix == ".txt":
        return _read_parallel(files.text, files.labels, source)
    return read_frame(files.text)


def _votes(path: Path, frame: pd.DataFrame, source: Source) -> npt.NDArray[np.float64]:
    votes = np.zeros((len(frame), len(LABELS)))
    for label, names in source.votes.items():
        present = [name for name in names if name in frame.columns]
        if not present:
            raise DataError(f"{path}: votes: no column {' or '.join(names)}")
        cells = frame[present[0]]
        counts = pd.to_numeric(cells.map(_number), errors="coerce")
        wrong = ~((counts >= 0) & (counts <= sys.float_info.max))
        check_rows(path, cells, wrong, f"{present[0]}: got", "a count")
        votes[:, LABELS.index(label)] = counts
    return votes


def _read_parallel(path: Path, label_path: Path | None, source: Source) -> pd.DataFrame:
    if label_path is None:
        raise DataError(f"{path}: its labels are missing; run `make train`")
    texts, labels = read_text_lines(path), read_text_lines(label_path)
    if len(texts) != len(labels):
        raise DataError(
            f"{path}: {len(texts)} texts, but {len(labels)} labels; wanted equal numbers"
        )
    places = [f"row {i}" for i in range(1, len(texts) + 1)]
    return pd.DataFrame({source.text: texts, source.label: labels}, index=places)


def _number(cell: object) -> object:
    # JSON's whole numbers have no bound, those of pandas do.
    if isinstance(cell, int) and abs(cell) > sys.maxsize:
        return np.inf
    if isinstance(cell, str) and (number := BOOLEANS.get(cell.strip().lower())):
        return number
    return decimal_point(cell)


def _joined(value: object) -> object:
    if isinstance(value, list | np.ndarray) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    return value


def _known_label(value: object, known: Collection[str]) -> str:
    """Return the known label that a cell stands for, else the cell as text.

    Programs write 1 also as `1.0`, because of a gap in the column, or as `True`. It is taken for 1
    only where `true` and `false` are no labels.
    """
    text = str(value).strip()
    forms = [text]
    if isinstance(value, float) and value.is_integer():
        forms.append(str(int(value)))
    elif match := WHOLE_NUMBER.fullmatch(text):
        forms.append(match[1])
    if number := BOOLEANS.get(text.lower()):
        forms.append(text.lower())
        if BOOLEANS.keys().isdisjoint(known):
            forms.append(number)
    return next((form for form in forms if form in known), text)
