"""Stage 2: rules that the prepared data must keep, surface features, and drift.

    data/processed -> reports/rules.json, reports/surface.json, reports/drift/ (Evidently)

A broken rule stops the pipeline; long texts, telling surface features and drift warn. Drift
compares test with train, and train with the training data of the model in production, if there is
one.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pandas as pd

from training.config import ValidateParams, load_params
from training.data.drift import DRIFT, report_drift
from training.data.surface import surface_table, surface_text, surface_warnings
from training.errors import DataError, run_stage
from training.files import write_json
from training.partial_labels import LABELS, LEARNED_ATTRIBUTES
from training.paths import PROCESSED, REFERENCE, REPORTS, split_file

RULES = REPORTS / "rules.json"
SURFACE = REPORTS / "surface.json"
COLUMNS = ("id", "text", "labels", "votes", "attributes", "source")
LEARNED = ("train", "val", "test")


class RuleViolation(NamedTuple):
    """A rule that rows break: their number, and one of them."""

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


def _is_partial_label(value: object) -> bool:
    try:
        names = list(map(str, value))  # type: ignore[call-overload]
    except TypeError:
        return False
    return 0 < len(names) == len(set(names)) and set(names) <= set(LABELS)


def _are_votes(value: object) -> bool:
    try:
        votes = [float(each) for each in value]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return False
    return len(votes) == len(LABELS) and all(0 <= each < float("inf") for each in votes)


def _are_shares(value: object) -> bool:
    try:
        shares = [float(each) for each in value]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return False
    return len(shares) == len(LEARNED_ATTRIBUTES) and all(
        math.isnan(each) or 0 <= each <= 1 for each in shares
    )


# Rule, column, and a function that says whether a value keeps it.
ROW_RULES: list[tuple[str, str, Callable[[Any], bool]]] = [
    ("an id is 16 hex digits", "id", lambda v: isinstance(v, str) and len(v) == 16),
    ("a text is a string", "text", lambda v: isinstance(v, str)),
    ("a text is not empty", "text", lambda v: not isinstance(v, str) or bool(v.strip())),
    (f"labels are a set of {', '.join(LABELS)}", "labels", _is_partial_label),
    ("votes are a count of each label", "votes", _are_votes),
    ("attributes are shares from 0 to 1, or unknown", "attributes", _are_shares),
    ("a source is named", "source", lambda v: isinstance(v, str) and bool(v)),
]


def row_violations(splits: dict[str, pd.DataFrame]) -> Iterator[RuleViolation]:
    """Yield the broken rules for columns and single rows."""
    for split, frame in splits.items():
        for column in COLUMNS:
            if column not in frame.columns:
                yield RuleViolation(
                    "the column is there", split, column, len(frame), f"{[*frame.columns]}"
                )
                return
        for rule, column, keeps in ROW_RULES:
            broken = frame[~frame[column].map(keeps).astype(bool)]
            if len(broken):
                yield RuleViolation(rule, split, column, len(broken), f"id {broken['id'].iloc[0]}")
        repeated = frame[frame["id"].duplicated()]
        if len(repeated):
            yield RuleViolation(
                "an id is there once", split, "id", len(repeated), f"id {repeated['id'].iloc[0]}"
            )


def split_violations(
    splits: dict[str, pd.DataFrame], params: ValidateParams
) -> Iterator[RuleViolation]:
    """Yield the broken rules for whole splits and for pairs of splits."""
    for split, frame in splits.items():
        others = {row for name, other in splits.items() if name != split for row in other["id"]}
        leaked = frame[frame["id"].isin(others)]
        if len(leaked):
            rule = "a text is in one split only"
            yield RuleViolation(rule, split, "id", len(leaked), f"id {leaked['id'].iloc[0]}")
    unlearned = splits["test"][~splits["test"]["source"].isin(splits["train"]["source"])]
    if len(unlearned):
        rule, example = "a source in test is in train", f"id {unlearned['id'].iloc[0]}"
        yield RuleViolation(rule, "test", "source", len(unlearned), example)
    for split in LEARNED:
        frame = splits[split]
        if len(frame) < params.min_rows:
            yield RuleViolation(
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
                yield RuleViolation(
                    rule, split, "labels", int((single == label).sum()), f"{share:.2%}"
                )


def validate(splits: dict[str, pd.DataFrame], params: ValidateParams) -> list[str]:
    """Return the warnings.

    Raises:
        DataError: a rule is broken; the text has the first one and the number of the others.
    """
    # Rows first: the rules for splits need correct columns.
    broken = list(row_violations(splits)) or list(split_violations(splits, params))
    write_json(RULES, {"broken": [violation._asdict() for violation in broken]})
    if broken:
        more = f" (and {len(broken) - 1} more, in {RULES})" if len(broken) > 1 else ""
        raise DataError(f"{PROCESSED}/{broken[0]}{more}")
    warnings = []
    for split, frame in splits.items():
        long = frame[frame["text"].str.len() > params.max_length]
        if len(long):
            rule = f"at most {params.max_length} characters"
            warnings.append(
                str(RuleViolation(rule, split, "text", len(long), f"id {long['id'].iloc[0]}"))
            )
    table = surface_table(splits["train"])
    write_json(SURFACE, [row._asdict() for row in table])
    print(surface_text(table))
    warnings += surface_warnings(table, params.surface_auc)
    # A source that is not in test would look like drift between the splits.
    train = splits["train"]
    like_test = train[train["source"].isin(splits["test"]["source"])]
    comparisons = {"test_against_train": (splits["test"], like_test)}
    if REFERENCE.is_file():
        comparisons["train_against_production"] = (train, pd.read_parquet(REFERENCE))
    for name, (current, reference) in comparisons.items():
        share = report_drift(current, reference, name, params.drift_share)
        if share >= params.drift_share:
            warnings.append(f"{name}: {share:.0%} of the watched columns drifted; see {DRIFT}")
    write_json(RULES, {"broken": [], "warned": warnings})
    return warnings


def main() -> None:
    """Check data/processed."""
    splits = {split: pd.read_parquet(split_file(split)) for split in (*LEARNED, "external")}
    for warning in validate(splits, load_params("validate", ValidateParams)):
        print(f"warning: {warning}")
    print(f"all rules kept: {', '.join(f'{name} {len(f)}' for name, f in splits.items())}")


if __name__ == "__main__":
    run_stage(main)
