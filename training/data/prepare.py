"""Stage 1: read the sources, drop duplicates, resolve conflicts, split by a stable hash.

    data/raw -> data/processed/{train,val,test,external}.parquet, reports/prepare.json

Columns: `id` (hash of the normalised text), `text` (as the source has it), `labels` (a list of
names: the partial label), `votes` (how many annotators gave each of LABELS; zeros if unknown),
`attributes` (the share of raters who saw each of LEARNED_ATTRIBUTES; NaN if unknown) and `source`.
The report has what was read, dropped and kept.

The rules, in this order:
0. A text that equals one of the benchmarks by which models are judged (data/benchmarks.sha256) is
   dropped, so that a model is judged fairly whatever copies of a corpus it learned from.
1. Two rows have the same text if their words are equal after normalisation, without mentions, URLs
   and retweet marks.
2. Rows of one text become one row. Its partial label is what all of their partial labels share; if
   they share nothing, the one that most rows have; on a tie the text is dropped. Its votes are the
   first row's, if no other label has more of them than the row's own; its attributes are the mean
   of the known ones.
3. A row whose words are nearly those of an earlier one (Jaccard similarity) is dropped. Between
   sources with `twins`, whose texts differ by a word on purpose, both stay, in one split. Rows for
   external validation come first, then the sources in the order of sources.yaml: a test text is
   never dropped in favour of a training text.
4. The split depends on the text's hash alone, so that a new source moves no row from one split to
   another. Only sources with single labels are in test; the other sources' share of the test goes
   to train. With `use` a source is in train only, or in none of the three.
5. A prediction log changes no row of another source: its rows come last, and a text that another
   source has too is left out. They are never in test, and in validation only with a single label.
6. With `unpunctuated` some harmless training texts lose their punctuation; their ids stay.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from training.config import PrepareParams, Source, load_params, load_profile, load_sources
from training.data.augment import remove_punctuation
from training.data.dedup import (
    combine_attributes,
    keep_if_agreeing,
    near_duplicates,
    resolve_labels,
    text_id,
)
from training.data.log_source import log_report, log_text
from training.data.normalize import build_normalizer, words
from training.data.sources import read_source
from training.errors import run_stage
from training.files import atomic_write, write_json
from training.paths import REPORTS, split_file

SPLITS = ("train", "val", "test", "external")
COLUMNS = ["id", "text", "labels", "votes", "attributes", "source"]
BENCHMARKS = Path("data/benchmarks.sha256")


def assign_split(
    row_id: str, source: Source, params: PrepareParams, labels: Sequence[str] = ()
) -> str:
    """Return the split of a row by the id of the first row of its family (rules 3 to 5)."""
    if source.use != "split":
        return source.use
    place = int(row_id, 16) / 16 ** len(row_id)
    if place < params.test_fraction:
        return "test" if source.has_single_labels else "train"
    if source.kind == "log" and len(labels) > 1:
        return "train"
    return "val" if place < params.test_fraction + params.val_fraction else "train"


def _max_rows(source: Source, params: PrepareParams) -> float:
    limits = [limit for limit in (source.max_rows, params.max_rows) if limit]
    return min(limits, default=math.inf)


def benchmark_hash(text: str) -> str:
    """Return a text's line in BENCHMARKS: SHA-256 of it in lower case, with single spaces."""
    return hashlib.sha256(" ".join(text.lower().split()).encode("utf-8", "replace")).hexdigest()


def prepare(
    params: PrepareParams, sources: dict[str, Source]
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Return the splits by name, and what was read, dropped and kept."""
    # The logs are the last ones in sources.yaml.
    ranked = sorted(sources.items(), key=lambda item: item[1].use != "external")
    frames = [read_source(name, source) for name, source in ranked]
    rows = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
    counts: dict[str, Any] = {"read": _by_source(rows)}

    benchmarks = set(BENCHMARKS.read_text(encoding="ascii").split())
    is_benchmark = rows["text"].map(benchmark_hash).isin(benchmarks)
    counts["benchmarks"] = _by_source(rows[is_benchmark])
    rows = rows[~is_benchmark]

    normalizer = build_normalizer()
    rows["words"] = [words(normalizer.normalize_str(text)) for text in rows["text"]]
    counts["without_words"] = int((rows["words"].str.len() == 0).sum())
    rows = rows[rows["words"].str.len() > 0].copy()
    rows["id"] = rows["words"].map(text_id)
    logs = [name for name, source in sources.items() if source.kind == "log"]
    of_log = rows["source"].isin(logs)
    is_known = of_log & rows["id"].isin(rows.loc[~of_log, "id"])
    known = _by_source(rows[is_known])
    rows = rows[~is_known].copy()

    labels, attributes = defaultdict(list), defaultdict(list)
    for row_id, allowed, shares in zip(rows["id"], rows["labels"], rows["attributes"], strict=True):
        labels[row_id].append(allowed)
        attributes[row_id].append(shares)
    counts["duplicates"] = len(rows) - len(labels)
    rows = rows.drop_duplicates("id").copy()
    rows["labels"] = [resolve_labels(labels[row_id]) for row_id in rows["id"]]
    # As arrays: of lists without any known share the file would not know the type.
    rows["attributes"] = [
        np.array(combine_attributes(attributes[row_id]), dtype=np.float64) for row_id in rows["id"]
    ]
    counts["conflicts"] = int(rows["labels"].isna().sum())
    rows = rows[rows["labels"].notna()].reset_index(drop=True)
    rows["votes"] = [
        keep_if_agreeing(votes, labels)
        for votes, labels in zip(rows["votes"], rows["labels"], strict=True)
    ]

    near, family = near_duplicates(
        [set(row) for row in rows["words"]],
        params.near_duplicate,
        rows["source"].map(lambda name: sources[name].twins).to_numpy(dtype=bool),
    )
    counts["near_duplicates"] = len(near)
    nearly_known = _by_source(rows.loc[near])
    rows["family"] = rows["id"].to_numpy()[family]
    rows = rows.drop(index=near)

    # By the id's last digits, because its first ones decide the split.
    rows = rows.sort_values("id", key=lambda ids: ids.str[::-1])
    limits = rows["source"].map(lambda name: _max_rows(sources[name], params))
    rows = rows[rows.groupby("source", sort=False).cumcount() < limits]
    rows["split"] = [
        assign_split(row_id, sources[name], params, labels)
        for row_id, name, labels in zip(rows["family"], rows["source"], rows["labels"], strict=True)
    ]
    _augment(rows, sources)
    # Sorted by id, the files do not depend on the order of reading.
    rows = rows.sort_values("id")
    splits = {split: rows.loc[rows["split"] == split, COLUMNS] for split in SPLITS}
    counts["kept"] = {split: _by_source(frame) for split, frame in splits.items()}
    for name in logs:
        report = log_report(name)
        report["rows"] = {
            "in another source too": known.get(name, 0),
            "nearly those of an earlier row": nearly_known.get(name, 0),
            **{f"in {split}": counts["kept"][split].get(name, 0) for split in ("train", "val")},
        }
        counts.setdefault("logs", {})[name] = report
    return splits, counts


def _augment(rows: pd.DataFrame, sources: dict[str, Source]) -> None:
    """Change training texts in place (rule 6)."""
    for name, source in sources.items():
        own = (rows["source"] == name) & (rows["split"] == "train")
        if source.unpunctuated:
            harmless = own & rows["labels"].map(lambda labels: labels == ["neither"])
            texts = rows[harmless].set_index("id")["text"]
            rows.loc[harmless, "text"] = remove_punctuation(texts, source.unpunctuated).to_numpy()


def _by_source(rows: pd.DataFrame) -> dict[str, int]:
    return {str(name): int(count) for name, count in rows["source"].value_counts().items()}


def main() -> None:
    """Write the splits and the counts."""
    missing = load_profile().missing
    sources = {name: source for name, source in load_sources().items() if name not in missing}
    splits, counts = prepare(load_params("prepare", PrepareParams), sources)
    for split, frame in splits.items():
        with atomic_write(split_file(split)) as scratch:
            frame.to_parquet(scratch, index=False)
    write_json(REPORTS / "prepare.json", counts)
    for name, report in counts.get("logs", {}).items():
        print(log_text(name, report))
    print("rows " + ", ".join(f"{split} {len(frame)}" for split, frame in splits.items()))


if __name__ == "__main__":
    run_stage(main)
