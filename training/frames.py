"""Reading a data file of any supported kind as a pandas frame."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from serving.tables import TableError, describe, read_lines, read_table
from training.errors import DataError

# What data/raw/ has, by the suffixes that users' files have, in any case of letters.
SUFFIXES = {
    ".csv": ".csv",
    ".tsv": ".tsv",
    ".jsonl": ".jsonl",
    ".ndjson": ".jsonl",
    ".parquet": ".parquet",
    ".txt": ".txt",
}


def file_suffix(name: str) -> str | None:
    """Return the suffix that a file gets in data/raw/; None if no such file can be read."""
    return SUFFIXES.get(Path(name).suffix.lower())


def read_frame(
    path: Path, *, separator: str | None = None, header: Sequence[str] = ()
) -> pd.DataFrame:
    """Return the rows of a .csv, .tsv, .jsonl or .parquet file.

    Cells of a .csv or .tsv are texts, and an empty one is "". The index has what an error calls
    each row: `row 3`, or `row 3, line 8`.

    Args:
        path: the file.
        separator: of a .csv; default: see `read_table`.
        header: the columns of a .csv without a header line.

    Raises:
        DataError: the file cannot be read, or rows do not fit.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    try:
        table = read_table(path, separator=separator, header=header)
    except TableError as error:
        raise DataError(str(error)) from None
    # As objects: pandas would make floats of whole numbers in a column with a gap.
    return pd.DataFrame(table.rows, columns=table.columns, index=table.places, dtype=object)


def read_text_lines(path: Path) -> list[str]:
    """Return the lines of a .txt file; DataError if it cannot be read."""
    try:
        return read_lines(path)
    except TableError as error:
        raise DataError(str(error)) from None


def check_rows(
    path: Path, values: "pd.Series[object]", wrong: Sequence[bool], name: str, wanted: str
) -> None:
    """Raise DataError with the first wrong rows of a column and their number, if there are any.

    Args:
        path: the file.
        values: the column, with the places of its rows as the index.
        wrong: [rows] whether each value is wrong.
        name: what the error calls a value.
        wanted: what it should have been.
    """
    rows = [
        (place, f"{name} {value!r}"[:120])
        for place, value, is_wrong in zip(values.index, values, wrong, strict=True)
        if is_wrong
    ]
    if rows:
        raise DataError(describe(path, rows, len(values), wanted))


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (ValueError, OSError) as error:
        problem = " ".join(str(error).split())
        raise DataError(f"{path}: unreadable as .parquet: {problem}") from None
    if not all(isinstance(name, str) for name in frame.columns):
        raise DataError(f"{path}: got columns {frame.columns.tolist()}, wanted names")
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise DataError(f"{path}: it has the column {twice[0]!r} twice; wanted different names")
    categories = frame.select_dtypes("category").columns
    frame = frame.astype(dict.fromkeys(categories, object))
    return frame.set_axis([f"row {i}" for i in range(1, len(frame) + 1)])
