import numpy as np
import pandas as pd
import pytest

from training.data.surface import is_toxic, surface_features, surface_table, surface_warnings


@pytest.mark.parametrize(
    ("feature", "text", "value"),
    [
        ("words", "two words", 2),
        ("upper case", "ABcd", 0.5),
        ("lower case only", "no capitals", 1),
        ("lower case only", "One", 0),
        ("punctuation", "well, yes.", 1),
        ("emoji", "fine \U0001f600 \u2764", 2),
        ("mentions", "@USER and <user> and me@here", 3),
        ("links", "see https://t.co/x and [URL]", 2),
        ("hashtags", "#one #two # three", 2),
        ("exclamation marks", "so! what!", 2),
        ("question marks", "so? what?", 2),
        ("digits", "in 1984", 4),
        ("line breaks", "a\nb\n", 2),
        ("names a group", "my Jewish friends", 1),
        ("names a group", "my friends", 0),
    ],
)
def test_a_feature_counts(feature: str, text: str, value: float) -> None:
    assert surface_features(pd.Series([text]))[feature].item() == value


def test_an_empty_text_has_features() -> None:
    assert np.isfinite(surface_features(pd.Series([""])).to_numpy()).all()


@pytest.mark.parametrize(
    ("labels", "toxic"),
    [
        (["hate"], 1),
        (["hate", "offensive"], 1),
        (["neither"], 0),
        (["offensive", "neither"], 0),
        (["hate", "offensive", "neither"], np.nan),
    ],
)
def test_a_partial_label_is_toxic_or_unknown(labels: list[str], toxic: float) -> None:
    np.testing.assert_equal(is_toxic(labels), toxic)


def rows(source: str, toxic: str, clean: str, count: int = 200) -> pd.DataFrame:
    texts = [toxic if i % 2 else clean for i in range(count)]
    labels = [["hate"] if i % 2 else ["offensive", "neither"] for i in range(count)]
    return pd.DataFrame({"text": texts, "labels": labels, "source": source})


def test_each_corpus_has_a_row_and_train_as_a_whole() -> None:
    fair, telling = rows("fair", "same words", "same words"), rows("telling", "stop", "stop!")
    few = rows("few", "short", "much longer", count=20)
    table = surface_table(pd.concat([fair, telling, few], ignore_index=True))
    assert [row.source for row in table] == ["fair", "telling", "(all of train)"]
    assert table[0].feature_auc == 0.5
    assert table[0].auc < 0.55
    assert (table[1].feature, table[1].more, table[1].feature_auc) == (
        "exclamation marks",
        False,
        1.0,
    )
    assert surface_warnings(table[:2], 0.7) == [
        "train.parquet: telling: 'exclamation marks' alone tells toxic texts from others with an "
        "AUC of 1.00; wanted less than 0.70"
    ]


def test_the_whole_of_train_can_tell_what_no_corpus_does() -> None:
    """One corpus is short and mostly toxic, the other long and mostly not."""
    one = rows("one", "short", "short").assign(labels=[["hate"]] * 170 + [["neither"]] * 30)
    other = rows("other", "much longer", "much longer").assign(
        labels=[["hate"]] * 30 + [["neither"]] * 170
    )
    table = surface_table(pd.concat([one, other], ignore_index=True))
    assert [round(row.feature_auc, 2) for row in table] == [0.5, 0.5, 0.85]
