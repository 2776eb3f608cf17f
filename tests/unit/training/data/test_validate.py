import json
import math
from pathlib import Path

import pandas as pd
import pytest

from training.config import ValidateParams
from training.data.validate import validate
from training.errors import DataError

PARAMS = ValidateParams(
    min_rows=9, min_class_share=0.05, max_length=200, drift_share=0.5, surface_auc=0.7
)
LABELS = ("hate", "offensive", "neither")


def frame(prefix: str, rows: int = 30) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [f"{prefix}{i:015x}" for i in range(rows)],
            "text": [f"text {prefix} number {i} with some words" for i in range(rows)],
            "labels": [[LABELS[i % 3]] for i in range(rows)],
            "votes": [[0.0, 2.0, 1.0]] * rows,
            "attributes": [[0.0, 1.0, 0.5, math.nan, math.nan]] * rows,
            "source": "own",
        }
    )


@pytest.fixture
def splits(checkout: Path) -> dict[str, pd.DataFrame]:
    return {name: frame(f"{i}") for i, name in enumerate(("train", "val", "test", "external"))}


def test_good_data_passes_and_leaves_reports(splits: dict[str, pd.DataFrame]) -> None:
    assert validate(splits, PARAMS) == []
    assert json.loads(Path("reports/rules.json").read_text()) == {"broken": [], "warned": []}
    assert "<html" in Path("reports/drift/test_against_train.html").read_text()[:500]


def broken(
    splits: dict[str, pd.DataFrame], split: str, row: int, column: str, value: object
) -> None:
    splits[split].at[row, column] = value


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("text", "  ", "'a text is not empty', for example id 0000000000000003"),
        ("text", 5, "'a text is a string'"),
        ("votes", [1.0, 2.0], "'votes are a count of each label'"),
        ("attributes", [0.5] * 4, "'attributes are shares from 0 to 1, or unknown'"),
        ("attributes", [0.5, 0.5, 1.5, 0.5, 0.5], "'attributes are shares"),
        ("attributes", None, "'attributes are shares"),
        ("labels", ["spam"], "'labels are a set of hate, offensive, neither'"),
        ("labels", [], "labels are a set"),
        ("labels", ["hate", "hate"], "labels are a set"),
        ("source", "", "'a source is named'"),
        ("id", "short", "'an id is 16 hex digits'"),
    ],
)
def test_a_broken_row_is_reported(
    splits: dict[str, pd.DataFrame], column: str, value: object, message: str
) -> None:
    splits["train"].at[3, column] = value
    with pytest.raises(DataError, match=message) as error:
        validate(splits, PARAMS)
    assert f"train.parquet: {column}: 1 rows" in str(error.value)


def test_a_missing_column_is_reported(splits: dict[str, pd.DataFrame]) -> None:
    splits["val"] = splits["val"].drop(columns="labels")
    with pytest.raises(DataError, match=r"labels: 30 rows break 'the column is there'"):
        validate(splits, PARAMS)


def test_leakage_between_splits_is_reported(splits: dict[str, pd.DataFrame]) -> None:
    splits["test"].loc[0, "id"] = splits["train"].loc[5, "id"]
    with pytest.raises(
        DataError, match="'a text is in one split only', for example id 0000000000000005"
    ):
        validate(splits, PARAMS)


def test_a_tested_source_must_be_in_train(splits: dict[str, pd.DataFrame]) -> None:
    splits["test"].loc[4, "source"] = "elsewhere"
    with pytest.raises(DataError, match=r"test.parquet: source: 1 rows break 'a source in test is"):
        validate(splits, PARAMS)


def test_a_missing_class_is_reported(splits: dict[str, pd.DataFrame]) -> None:
    splits["test"]["labels"] = [["neither"]] * len(splits["test"])
    with pytest.raises(DataError, match=r"5\.0% of single-label rows are hate"):
        validate(splits, PARAMS)


def test_a_small_split_is_reported(splits: dict[str, pd.DataFrame]) -> None:
    splits["val"] = splits["val"].head(4)
    with pytest.raises(DataError, match=r"val.parquet: id: 4 rows break 'at least 9 rows'"):
        validate(splits, PARAMS)


def test_all_violations_are_listed(splits: dict[str, pd.DataFrame]) -> None:
    splits["train"].at[0, "text"] = ""
    splits["test"].at[0, "text"] = ""
    with pytest.raises(DataError, match=r"and 1 more, in reports/rules\.json"):
        validate(splits, PARAMS)
    assert len(json.loads(Path("reports/rules.json").read_text())["broken"]) == 2


def test_long_texts_warn(splits: dict[str, pd.DataFrame]) -> None:
    splits["train"].at[0, "text"] = "word " * 100
    assert "at most 200 characters" in validate(splits, PARAMS)[0]


def test_drift_from_the_production_model_warns(splits: dict[str, pd.DataFrame]) -> None:
    other = frame("9", 60)
    other["text"] = "@a @b #tag https://t.co/x SHOUTING " + other["text"].str.upper()
    other["source"] = "elsewhere"
    Path("data/raw").mkdir()
    other.to_parquet("data/raw/reference.parquet")
    (warning,) = validate(splits, PARAMS)
    assert warning.startswith("train_against_production:")
    assert Path("reports/drift/train_against_production.json").exists()


def test_a_telling_surface_feature_warns(
    splits: dict[str, pd.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    splits["train"] = frame("0", 300)
    toxic = splits["train"]["labels"].str[0] != "neither"
    splits["train"].loc[toxic, "text"] += " with many more words that mean nothing"
    assert (
        "train.parquet: own: 'words' alone tells toxic texts from others with an AUC of 1.00"
        in ("\n".join(validate(splits, PARAMS)))
    )
    row, whole = json.loads(Path("reports/surface.json").read_text())
    assert (row["source"], row["rows"], row["feature"], row["more"]) == ("own", 300, "words", True)
    assert row["auc"] > 0.99
    assert whole["source"] == "(all of train)"
    assert "words 1.00 (more)" in capsys.readouterr().out
