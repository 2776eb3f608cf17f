"""Stage 2: rules that the prepared data must keep, and drift, seen by Evidently.

A broken rule stops the pipeline; a soft one warns. Writes reports/rules.json, and to
reports/drift/ Evidently's reports (HTML and JSON) of test against train, and of train against the
training data of the model in production, where there is one.
"""

import contextlib
import io
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from training.config import ValidateParams, load_params
from training.errors import DataError, run_stage
from training.files import whole, write_json
from training.labels import LABELS

PROCESSED = Path("data/processed")
REFERENCE = Path("data/raw/reference.parquet")
RULES = Path("reports/rules.json")
DRIFT = Path("reports/drift")
COLUMNS = ("id", "text", "labels", "votes", "source")
LEARNED = ("train", "val", "test")


class Breach(NamedTuple):
    """A rule that rows break: how many, and one of them."""

    rule: str
    split: str
    column: str
    rows: int
    example: str

    def __str__(self) -> str:
        return (
            f"{self.split}.parquet: {self.column}: {self.rows} rows break {self.rule!r}, "
            f"for example {self.example}"
        )


def _is_label_set(value: object) -> bool:
    try:
        found = list(value)  # type: ignore[call-overload]
    except TypeError:
        return False
    return 0 < len(found) == len(set(map(str, found))) and set(map(str, found)) <= set(LABELS)


def _are_votes(value: object) -> bool:
    try:
        votes = [float(each) for each in value]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return False
    return len(votes) == len(LABELS) and all(0 <= each < float("inf") for each in votes)


# Rule, column, and whether a value keeps it.
ROW_RULES: list[tuple[str, str, Callable[[Any], bool]]] = [
    ("an id is 16 hex digits", "id", lambda v: isinstance(v, str) and len(v) == 16),
    ("a text is a string", "text", lambda v: isinstance(v, str)),
    ("a text is not empty", "text", lambda v: not isinstance(v, str) or bool(v.strip())),
    (f"labels are a set of {', '.join(LABELS)}", "labels", _is_label_set),
    ("votes are a count of each label", "votes", _are_votes),
    ("a source is named", "source", lambda v: isinstance(v, str) and bool(v)),
]


def row_breaches(splits: dict[str, pd.DataFrame]) -> Iterator[Breach]:
    """Yield the rules for columns and single rows that the splits break."""
    for split, frame in splits.items():
        for column in COLUMNS:
            if column not in frame.columns:
                yield Breach(
                    "the column is there", split, column, len(frame), f"{[*frame.columns]}"
                )
                return
        for rule, column, keeps in ROW_RULES:
            broken = frame[~frame[column].map(keeps).astype(bool)]
            if len(broken):
                yield Breach(rule, split, column, len(broken), f"id {broken['id'].iloc[0]}")
        repeated = frame[frame["id"].duplicated()]
        if len(repeated):
            yield Breach(
                "an id is there once", split, "id", len(repeated), f"id {repeated['id'].iloc[0]}"
            )


def split_breaches(splits: dict[str, pd.DataFrame], params: ValidateParams) -> Iterator[Breach]:
    """Yield the rules for whole splits and for one against another that they break."""
    for split, frame in splits.items():
        others = {row for name, other in splits.items() if name != split for row in other["id"]}
        leaked = frame[frame["id"].isin(others)]
        if len(leaked):
            rule = "a text is in one split only"
            yield Breach(rule, split, "id", len(leaked), f"id {leaked['id'].iloc[0]}")
    unlearned = splits["test"][~splits["test"]["source"].isin(splits["train"]["source"])]
    if len(unlearned):
        rule, example = "a source in test is in train", f"id {unlearned['id'].iloc[0]}"
        yield Breach(rule, "test", "source", len(unlearned), example)
    for split in LEARNED:
        frame = splits[split]
        if len(frame) < params.min_rows:
            yield Breach(
                f"at least {params.min_rows} rows", split, "id", len(frame), "the whole split"
            )
            continue
        single = (
            frame["labels"].map(lambda labels: labels[0] if len(labels) == 1 else None).dropna()
        )
        for label in LABELS:
            share = float((single == label).mean()) if len(single) else 0.0
            if share < params.min_class_share:
                rule = f"at least {params.min_class_share:.1%} of single-label rows are {label}"
                yield Breach(rule, split, "labels", int((single == label).sum()), f"{share:.2%}")


def features(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what drift is watched in: sizes and marks of the texts, their labels and sources."""
    text = frame["text"]
    return pd.DataFrame(
        {
            "characters": text.str.len(),
            "words": text.str.split().str.len(),
            "mentions": text.str.count("@"),
            "hashtags": text.str.count("#"),
            "links": text.str.count("https?://"),
            "capitals": text.str.count("[A-Z]") / text.str.len(),
            "labels": frame["labels"].map("|".join),
            "source": frame["source"],
        }
    )


def drift(current: pd.DataFrame, reference: pd.DataFrame, name: str, share: float) -> float:
    """Write Evidently's report on `current` against `reference`; return the share that drifted."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # Evidently's own use of numpy and pandas; nothing in it that we could mend.
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import DriftedColumnsCount
        from evidently.presets import DataDriftPreset, DataSummaryPreset

        now, before = features(current), features(reference)
        categorical = ["labels", "source"]
        definition = DataDefinition(
            numerical_columns=[column for column in now.columns if column not in categorical],
            categorical_columns=categorical,
        )
        report = Report([DataDriftPreset(drift_share=share), DataSummaryPreset()])
        snapshot = report.run(
            Dataset.from_pandas(now, data_definition=definition),
            Dataset.from_pandas(before, data_definition=definition),
        )
        with whole(DRIFT / f"{name}.html") as scratch:
            snapshot.save_html(str(scratch))
        with whole(DRIFT / f"{name}.json") as scratch:
            scratch.write_text(snapshot.json(), encoding="utf-8")
    metrics = json.loads((DRIFT / f"{name}.json").read_text(encoding="utf-8"))["metrics"]
    counted = next(m for m in metrics if m["metric_name"].startswith(DriftedColumnsCount.__name__))
    return float(counted["value"]["share"])


def validate(splits: dict[str, pd.DataFrame], params: ValidateParams) -> list[str]:
    """Return the warnings; DataError names the first broken rule and how many more there are."""
    # Rows first: the rules for splits take their columns for granted.
    broken = list(row_breaches(splits)) or list(split_breaches(splits, params))
    write_json(RULES, {"broken": [breach._asdict() for breach in broken]})
    if broken:
        more = f" (and {len(broken) - 1} more, in {RULES})" if len(broken) > 1 else ""
        raise DataError(f"{PROCESSED}/{broken[0]}{more}")
    warned = []
    for split, frame in splits.items():
        long = frame[frame["text"].str.len() > params.max_length]
        if len(long):
            rule = f"at most {params.max_length} characters"
            warned.append(str(Breach(rule, split, "text", len(long), f"id {long['id'].iloc[0]}")))
    # Like with like: a source that is not in test says nothing about the split.
    train = splits["train"]
    like_test = train[train["source"].isin(splits["test"]["source"])]
    comparisons = {"test_against_train": (splits["test"], like_test)}
    if REFERENCE.is_file():
        comparisons["train_against_production"] = (train, pd.read_parquet(REFERENCE))
    for name, (current, reference) in comparisons.items():
        share = drift(current, reference, name, params.drift_share)
        if share >= params.drift_share:
            warned.append(f"{name}: {share:.0%} of the watched columns drifted; see {DRIFT}")
    write_json(RULES, {"broken": [], "warned": warned})
    return warned


def main() -> None:
    """Check data/processed."""
    splits = {
        split: pd.read_parquet(PROCESSED / f"{split}.parquet") for split in (*LEARNED, "heldout")
    }
    for warning in validate(splits, load_params("validate", ValidateParams)):
        print(f"warning: {warning}")
    print(f"data keeps all rules: {', '.join(f'{name} {len(f)}' for name, f in splits.items())}")


if __name__ == "__main__":
    run_stage(main)
