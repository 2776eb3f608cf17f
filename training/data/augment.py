"""Changes to training texts, so that a model does not learn what a corpus has by accident."""

import re

import numpy as np
import pandas as pd

PUNCTUATION = re.compile(r"[^\w\s]")


def swap_groups(texts: pd.Series, groups: pd.DataFrame, share: float) -> pd.Series:
    """Return texts with the group's name replaced by another's in a share of those that name one.

    The labels of a text should not depend on which group it names (counterfactual data
    augmentation, Lu et al. 2020). Only plurals are replaced: a singular may be an adjective.

    Args:
        texts: the index decides what is swapped: ids, so that it does not depend on the order.
        groups: with a column `group`, the plural.
        share: of the texts that name exactly one group, from 0 to 1.
    """
    names = groups["group"].tolist()
    by_length = sorted(names, key=len, reverse=True)  # "Black women" before "women"
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, by_length))})\b", re.IGNORECASE)

    def swapped(row_id: str, text: str) -> str:
        named = {match.lower() for match in pattern.findall(text)}
        rng = np.random.default_rng(list(row_id.encode()))
        if len(named) != 1 or rng.random() >= share:
            return text
        other = str(names[rng.integers(len(names))])

        def in_the_same_case(match: re.Match[str]) -> str:
            found = str(match.group())
            return other.lower() if found.islower() else other.upper() if found.isupper() else other

        return str(pattern.sub(in_the_same_case, text))

    return pd.Series(
        [swapped(str(row_id), text) for row_id, text in texts.items()], index=texts.index
    )


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
            if np.random.default_rng([1, *str(row_id).encode()]).random() < share
            else text
            for row_id, text in texts.items()
        ],
        index=texts.index,
    )
