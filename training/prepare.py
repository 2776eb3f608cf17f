"""Stage 1: read the sources, drop duplicates, settle conflicts, split by a stable hash.

Writes data/processed/{train,val,test,heldout}.parquet, each with the columns `id` (hash of the
normalised text), `text` (as the source has it), `labels` (list of names), `votes` (how many
annotators gave each of LABELS; zeros if that is not known) and `source`; counts go to
reports/prepare.json.

The rules, in this order:
1. Two rows are the same text if their words are equal after normalisation, without mentions, URLs
   and retweet marks.
2. Rows of one text are one row. Its label set is what all their sets share; where they share
   nothing, the set that most rows give; where that ties, the text is dropped. Its votes are the
   first row's, if as many are for its label as for any other.
3. A row whose words are nearly those of an earlier one (Jaccard similarity) is dropped. Held-out
   rows come first, then the sources in the order of sources.yaml: a test never loses to training.
4. The split depends on the text's hash alone, so that adding a source moves no row from one split
   to another. Only sources that judge all three labels are in test; the other sources' share of the
   test goes to val, never to train. A source's `use` may keep it whole in train, or out of all
   three.
"""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from training.config import (
    PrepareParams,
    Source,
    load_params,
    load_profile,
    load_sources,
)
from training.errors import DataError, run_stage
from training.fetch import raw_files
from training.files import whole, write_json
from training.labels import LABELS
from training.text import build_normalizer, words

PROCESSED = Path("data/processed")
SPLITS = ("train", "val", "test", "heldout")


def read_source(name: str, source: Source) -> pd.DataFrame:
    """Return a source's `text`, `labels`, `votes`, `source`; DataError names file and row."""
    files = raw_files(name)
    if files is None:
        raise DataError(f"data/raw/{name}: missing; run `make data`")
    path = files.text
    try:
        if path.suffix == ".csv":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        elif path.suffix == ".jsonl":
            frame = pd.read_json(path, lines=True, dtype=False)
        elif path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = _parallel(path, files.labels, source)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is {error.reason}; wanted UTF-8") from None
    except (ValueError, OSError) as error:
        problem = " ".join(str(error).split())
        raise DataError(f"{path}: not readable as {path.suffix}: {problem}") from None
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
        raise DataError(f"{path}: row {row + 1}: {source.text}: {texts.iloc[row]!r} is not a text")
    if labels.isna().any():
        row = int(np.argmax(labels.isna()))
        raise DataError(
            f"{path}: row {row + 1}: unknown label {frame[source.label].iloc[row]!r}; "
            f"sources.yaml knows {', '.join(allowed)}"
        )
    return pd.DataFrame(
        {
            "text": texts.to_numpy(),
            "labels": labels.to_numpy(),
            "votes": _votes(path, frame, source).tolist(),
            "source": name,
        }
    )


def _votes(path: Path, frame: pd.DataFrame, source: Source) -> npt.NDArray[np.float64]:
    votes = np.zeros((len(frame), len(LABELS)))
    for label, names in source.votes.items():
        found = [name for name in names if name in frame.columns]
        if not found:
            raise DataError(f"{path}: no column {' or '.join(names)}, which votes names")
        counts = pd.to_numeric(frame[found[0]], errors="coerce")
        if not (counts >= 0).all():
            row = int(np.argmin(counts >= 0))
            value = frame[found[0]].iloc[row]
            raise DataError(f"{path}: row {row + 1}: {found[0]}: {value!r} is not a count")
        votes[:, LABELS.index(label)] = counts
    return votes


def _parallel(path: Path, label_path: Path | None, source: Source) -> pd.DataFrame:
    if label_path is None:
        raise DataError(f"{path}: its labels are missing; run `make data`")
    # Split on line feeds alone: tweets contain other characters that Python counts as line ends.
    texts, labels = (
        p.read_text(encoding="utf-8").rstrip("\n").split("\n") for p in (path, label_path)
    )
    if len(texts) != len(labels):
        raise DataError(f"{path}: {len(texts)} texts, but {len(labels)} labels; wanted as many")
    return pd.DataFrame({source.text: texts, source.label: labels})


def _label_key(value: object) -> str:
    # A column of whole numbers with a gap arrives as floats.
    return (
        str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    )


def text_id(text_words: list[str]) -> str:
    """Return the id of a text: 16 hex digits of the SHA-256 of its words."""
    return hashlib.sha256(" ".join(text_words).encode()).hexdigest()[:16]


def settle(label_sets: list[list[str]]) -> list[str] | None:
    """Return the label set of rows that have one text (rule 2), or None where they cannot agree."""
    shared = set(label_sets[0]).intersection(*label_sets)
    if not shared:
        ranked = Counter(tuple(sorted(labels)) for labels in label_sets).most_common()
        if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
            return None
        shared = set(ranked[0][0])
    return [label for label in LABELS if label in shared]


def agreeing(votes: list[float], labels: list[str]) -> list[float]:
    """Return votes, or zeros where they are for another label than the row's (rule 2)."""
    settled = len(labels) == 1 and votes[LABELS.index(labels[0])] == max(votes)
    return votes if settled else [0.0] * len(LABELS)


def near_duplicates(word_sets: list[set[str]], threshold: float) -> list[int]:
    """Return the positions of sets whose Jaccard similarity to an earlier, kept one is ≥ threshold.

    Candidates come from prefix filtering (Bayardo, Ma and Srikant 2007, "Scaling up all pairs
    similarity search"): two sets that similar share one of their |s| − ⌈t·|s|⌉ + 1 rarest words.
    """
    frequency = Counter(word for word_set in word_sets for word in word_set)
    column = {word: at for at, word in enumerate(frequency)}
    rows: list[int] = []
    columns: list[int] = []
    for at, word_set in enumerate(word_sets):
        keep = len(word_set) - int(np.ceil(threshold * len(word_set))) + 1
        prefix = sorted(word_set, key=lambda word: (frequency[word], word))[:keep]
        rows += [at] * len(prefix)
        columns += [column[word] for word in prefix]
    shape = (len(word_sets), len(column))
    index = sparse.csr_matrix((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape)
    pairs = sparse.triu(index @ index.T, k=1).tocoo()
    order = np.lexsort((pairs.col, pairs.row))
    dropped: set[int] = set()
    for first, second in zip(pairs.row[order].tolist(), pairs.col[order].tolist(), strict=True):
        if first in dropped or second in dropped:
            continue
        one, other = word_sets[first], word_sets[second]
        if len(one & other) >= threshold * len(one | other):
            dropped.add(second)
    return sorted(dropped)


def assign_split(row_id: str, source: Source, params: PrepareParams) -> str:
    """Return the split of a row (rule 4)."""
    if source.use != "split":
        return source.use
    place = int(row_id, 16) / 16 ** len(row_id)
    if place < params.test_fraction:
        return "test" if source.judges_all_labels else "val"
    return "val" if place < params.test_fraction + params.val_fraction else "train"


def prepare(
    params: PrepareParams, sources: dict[str, Source]
) -> tuple[dict[str, pd.DataFrame], dict[str, object]]:
    """Return the splits by name, and what was read, dropped and kept."""
    ranked = sorted(sources.items(), key=lambda item: item[1].use != "heldout")
    frames = [read_source(name, source) for name, source in ranked]
    rows = pd.concat(frames, ignore_index=True)
    counts: dict[str, object] = {"read": _by_source(rows)}

    normalizer = build_normalizer()
    rows["words"] = [words(normalizer.normalize_str(text)) for text in rows["text"]]
    counts["without_words"] = int((rows["words"].str.len() == 0).sum())
    rows = rows[rows["words"].str.len() > 0]
    rows["id"] = rows["words"].map(text_id)

    settled = rows.groupby("id", sort=False)["labels"].agg(lambda sets: settle(list(sets)))
    counts["duplicates"] = len(rows) - len(settled)
    rows = rows.drop_duplicates("id")
    rows["labels"] = rows["id"].map(settled)
    counts["conflicts"] = int(rows["labels"].isna().sum())
    rows = rows[rows["labels"].notna()].reset_index(drop=True)
    rows["votes"] = [
        agreeing(votes, labels) for votes, labels in zip(rows["votes"], rows["labels"], strict=True)
    ]

    near = near_duplicates([set(row) for row in rows["words"]], params.near_duplicate)
    counts["near_duplicates"] = len(near)
    rows = rows.drop(index=near)

    if params.max_rows:
        # By the id's last digits: its first ones decide the split.
        rows = rows.sort_values("id", key=lambda ids: ids.str[::-1])
        rows = rows.groupby("source", sort=False).head(params.max_rows)
    rows["split"] = [
        assign_split(row_id, sources[name], params)
        for row_id, name in zip(rows["id"], rows["source"], strict=True)
    ]
    # By id: the files do not depend on the order of what was read.
    rows = rows.sort_values("id")
    splits = {
        split: rows.loc[rows["split"] == split, ["id", "text", "labels", "votes", "source"]]
        for split in SPLITS
    }
    counts["kept"] = {split: _by_source(frame) for split, frame in splits.items()}
    return splits, counts


def _by_source(rows: pd.DataFrame) -> dict[str, int]:
    return {str(name): int(count) for name, count in rows["source"].value_counts().items()}


def main() -> None:
    """Write the splits and the counts."""
    sources = load_sources()
    if load_profile().data == "sample":
        sources = {name: source for name, source in sources.items() if raw_files(name)}
    splits, counts = prepare(load_params("prepare", PrepareParams), sources)
    for split, frame in splits.items():
        with whole(PROCESSED / f"{split}.parquet") as scratch:
            frame.to_parquet(scratch, index=False)
    write_json(Path("reports/prepare.json"), counts)
    print("rows " + ", ".join(f"{split} {len(frame)}" for split, frame in splits.items()))


if __name__ == "__main__":
    run_stage(main)
