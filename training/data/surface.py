"""What surface features alone tell of a text's label, corpus by corpus.

    train split -> surface_table -> reports/surface.json, a table, warnings

A corpus can teach by accident: where only abusive texts are long, a model learns that long is
abusive. So `validate` fits a small model on features that say nothing about meaning. An AUC of 0.5
is none of it; a high one warns that the corpus needs a counterweight.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from threadpoolctl import threadpool_limits

from training.groups import names_group

MAX_ROWS = 4000  # of a corpus, drawn at random: enough for an AUC to within 0.02
MIN_ROWS = 25  # of either class
SEED = 20261123
WHOLE = "(all of train)"

# Of lower-cased text.
COUNTED = {
    "emoji": r"[\u2600-\u27bf\U0001f000-\U0001faff]",
    "mentions": r"@\w+|<user>|\[user\]",
    "links": r"https?://\S+|<url>|\[url\]",
    "hashtags": r"#\w",
    "exclamation marks": "!",
    "question marks": r"\?",
    "digits": r"\d",
    "line breaks": "\n",
}
PUNCTUATION = r"[.,;:'\"()-]"


class SurfaceRow(NamedTuple):
    """What surface features tell within a corpus.

    rows, toxic: sampled rows, and the share of them that is toxic.
    auc: cross-validated, of all features together.
    feature, feature_auc: the feature that tells most by itself.
    more: whether toxic texts have more of it.
    """

    source: str
    rows: int
    toxic: float
    auc: float
    feature: str
    feature_auc: float
    more: bool


def surface_features(texts: pd.Series) -> pd.DataFrame:
    """Return the features of texts: counts, shares, and yes or no as 1 or 0."""
    lower = texts.str.lower()
    words = texts.str.split().str.len()
    capitals = texts.str.count("[A-Z]")
    return pd.DataFrame(
        {
            "words": words,
            "upper case": capitals / texts.str.len().clip(lower=1),
            "lower case only": capitals == 0,
            "punctuation": lower.str.count(PUNCTUATION) / words.clip(lower=1),
            **{name: lower.str.count(pattern) for name, pattern in COUNTED.items()},
            "names a group": names_group(texts),
        }
    ).astype(float)


def is_toxic(labels: Iterable[str]) -> float:
    """Return 1 if neither is not allowed, 0 if it is and hate is not, NaN if both are."""
    if "neither" not in labels:
        return 1.0
    return np.nan if "hate" in labels else 0.0


def surface_table(train: pd.DataFrame) -> list[SurfaceRow]:
    """Return a row for each corpus that has both classes, and a last one for the whole split.

    Args:
        train: rows with text, labels and source.
    """
    toxic = train["labels"].map(lambda labels: is_toxic(list(labels)))
    known = train.assign(toxic=toxic)[toxic.notna()]
    return list(_rows(known))


def _rows(known: pd.DataFrame) -> Iterator[SurfaceRow]:
    for name, frame in [*known.groupby("source", sort=False), (WHOLE, known)]:
        rows = frame.sample(min(MAX_ROWS, len(frame)), random_state=SEED)
        toxic = rows["toxic"].to_numpy(dtype=np.int64)
        if min(toxic.sum(), len(toxic) - toxic.sum()) < MIN_ROWS:
            continue
        features = surface_features(rows["text"])
        alone = {column: float(roc_auc_score(toxic, features[column])) for column in features}
        best = max(alone, key=lambda column: abs(alone[column] - 0.5))
        yield SurfaceRow(
            source=str(name),
            rows=len(rows),
            toxic=float(toxic.mean()),
            auc=_together(features.to_numpy(), toxic),
            feature=best,
            feature_auc=max(alone[best], 1 - alone[best]),
            more=alone[best] > 0.5,
        )


def _together(features: npt.NDArray[np.float64], toxic: npt.NDArray[np.int64]) -> float:
    # Shallow trees see that the middle lengths differ; a linear model does not.
    model = HistGradientBoostingClassifier(
        max_iter=40, max_depth=3, learning_rate=0.15, early_stopping=False, random_state=SEED
    )
    # More threads cost more than they save on so few rows: 30 times on a busy machine.
    with threadpool_limits(1):
        scores = cross_val_predict(model, features, toxic, cv=3, method="predict_proba")[:, 1]
    return float(roc_auc_score(toxic, scores))


def surface_text(table: list[SurfaceRow]) -> str:
    """Return the table for the terminal."""
    lines = [f"{'surface features alone':<22} {'rows':>5} {'toxic':>6} {'AUC':>6}  best feature"]
    for row in table:
        best = f"{row.feature} {row.feature_auc:.2f} ({'more' if row.more else 'fewer'})"
        lines.append(f"{row.source:<22} {row.rows:>5} {row.toxic:>6.0%} {row.auc:>6.2f}  {best}")
    return "\n".join(lines)


def surface_warnings(table: list[SurfaceRow], limit: float) -> list[str]:
    """Return a sentence for each corpus in which a feature alone reaches an AUC of `limit`."""
    return [
        f"train.parquet: {row.source}: {row.feature!r} alone tells toxic texts from others with an "
        f"AUC of {row.feature_auc:.2f}; wanted less than {limit:.2f}"
        for row in table
        if row.feature_auc >= limit
    ]
