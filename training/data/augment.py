"""Changes to training texts, so that a model does not learn what a corpus has by accident."""

import re

import numpy as np
import pandas as pd

PUNCTUATION = re.compile(r"[^\w\s]")


def remove_punctuation(texts: pd.Series, share: float) -> pd.Series:
    """Return texts of which a share has no punctuation and no line breaks any more.

    Where mostly toxic texts of a corpus have none, it would tell that a text is toxic.

    Args:
        texts: the index decides which are changed: ids.
        share: from 0 to 1.
    """
    return pd.Series(
        [
            " ".join(PUNCTUATION.sub(" ", text).split())
            or text  # of emoji alone nothing would stay
            if np.random.default_rng([1, *str(row_id).encode()]).random() < share
            else text
            for row_id, text in texts.items()
        ],
        index=texts.index,
    )
