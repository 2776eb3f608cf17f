"""Which rows are the same text, what its label then is, and which rows are nearly the same.

The rules are those of `prepare`.
"""

import hashlib
from collections import Counter

import numpy as np
import numpy.typing as npt
from scipy import sparse

from training.partial_labels import LABELS


def text_id(text_words: list[str]) -> str:
    """Return the id of a text: 16 hex digits of the SHA-256 of its words."""
    return hashlib.sha256(" ".join(text_words).encode()).hexdigest()[:16]


def resolve_labels(partial_labels: list[list[str]]) -> list[str] | None:
    """Return the partial label of rows with one text (rule 2); None if they tie."""
    shared = set(partial_labels[0]).intersection(*partial_labels)
    if not shared:
        ranked = Counter(tuple(sorted(labels)) for labels in partial_labels).most_common()
        if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
            return None
        shared = set(ranked[0][0])
    return [label for label in LABELS if label in shared]


def keep_if_agreeing(votes: list[float], labels: list[str]) -> list[float]:
    """Return the votes, or zeros if another label has more than the row's own (rule 2)."""
    agree = len(labels) == 1 and votes[LABELS.index(labels[0])] == max(votes)
    return votes if agree else [0.0] * len(LABELS)


def combine_attributes(known: list[list[float]]) -> list[float]:
    """Return the mean of the known shares of rows with one text; NaN where none knows."""
    shares = np.array(known)
    count = (~np.isnan(shares)).sum(axis=0)
    total = np.nansum(shares, axis=0)
    return [float(t / c) if c else float("nan") for t, c in zip(total, count, strict=True)]


def near_duplicates(
    word_sets: list[set[str]], threshold: float, twins: npt.NDArray[np.bool_]
) -> tuple[list[int], npt.NDArray[np.int64]]:
    """Find sets whose Jaccard similarity to an earlier, kept one is ≥ threshold.

    Args:
        word_sets: the words of each row.
        threshold: the similarity.
        twins: [rows] whether a row may stay beside its near-duplicates of which that is true too.

    Returns:
        The positions of rows to drop, and [rows] the position of the first row of each one's
        family: rows that are kept although they are nearly the same.

    Candidates come from prefix filtering (Bayardo, Ma and Srikant 2007, "Scaling up all pairs
    similarity search"): two sets with that similarity share one of their
    |s| − ⌈t·|s|⌉ + 1 rarest words.
    """
    frequency = Counter(word for word_set in word_sets for word in word_set)
    column = {word: i for i, word in enumerate(frequency)}
    rows: list[int] = []
    columns: list[int] = []
    for i, word_set in enumerate(word_sets):
        keep = len(word_set) - int(np.ceil(threshold * len(word_set))) + 1
        prefix = sorted(word_set, key=lambda word: (frequency[word], word))[:keep]
        rows += [i] * len(prefix)
        columns += [column[word] for word in prefix]
    shape = (len(word_sets), len(column))
    index = sparse.csr_matrix((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape)
    pairs = sparse.triu(index @ index.T, k=1).tocoo()
    order = np.lexsort((pairs.col, pairs.row))
    dropped: set[int] = set()
    kept: list[tuple[int, int]] = []
    for first, second in zip(pairs.row[order].tolist(), pairs.col[order].tolist(), strict=True):
        if first in dropped or second in dropped:
            continue
        one, other = word_sets[first], word_sets[second]
        if len(one & other) >= threshold * len(one | other):
            if twins[first] and twins[second]:
                kept.append((first, second))
            else:
                dropped.add(second)
    edges = np.array(kept, dtype=np.int64).reshape(-1, 2).T
    size = len(word_sets)
    graph = sparse.coo_matrix((np.ones(len(kept)), (edges[0], edges[1])), shape=(size, size))
    _, family = sparse.csgraph.connected_components(graph, directed=False)
    _, first_of_family = np.unique(family, return_index=True)
    return sorted(dropped), first_of_family[family]
