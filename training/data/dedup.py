"""Which rows are the same text, what its label then is, and which rows are nearly the same.

The rules are those of `prepare`.
"""

import hashlib
import math
from collections import Counter

import numpy as np
import numpy.typing as npt
from scipy import sparse

from training.partial_labels import LABELS

PAIRS_AT_ONCE = 200_000  # bounds the memory of comparing pairs of rows


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
    """Return the mean of the known shares of rows with one text (rule 2); NaN where none knows."""
    if len(known) == 1:
        return known[0]
    columns = [
        [share for share in column if not math.isnan(share)] for column in zip(*known, strict=True)
    ]
    return [sum(column) / len(column) if column else math.nan for column in columns]


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
    # The rarest words come first.
    column = {word: i for i, word in enumerate(sorted(frequency, key=lambda w: (frequency[w], w)))}
    sizes = np.array([len(word_set) for word_set in word_sets])
    ranked = [sorted(column[word] for word in word_set) for word_set in word_sets]
    words = _rows_of_columns(ranked, len(column))
    prefixes = sizes - np.ceil(threshold * sizes).astype(int) + 1
    rarest = _rows_of_columns(
        [row[:keep] for row, keep in zip(ranked, prefixes.tolist(), strict=True)], len(column)
    )
    pairs = sparse.triu(rarest @ rarest.T, k=1).tocoo()
    first, second = pairs.row, pairs.col
    # Sets of very different sizes cannot be similar; most pairs end here.
    small, large = np.minimum(sizes[first], sizes[second]), np.maximum(sizes[first], sizes[second])
    near = small >= threshold * large
    first, second = first[near], second[near]
    shared = np.empty(len(first), dtype=np.int64)
    for start in range(0, len(first), PAIRS_AT_ONCE):
        chunk = slice(start, start + PAIRS_AT_ONCE)
        shared[chunk] = words[first[chunk]].multiply(words[second[chunk]]).sum(axis=1).A1
    near = shared >= threshold * (sizes[first] + sizes[second] - shared)
    first, second = first[near], second[near]

    dropped: set[int] = set()
    kept: list[tuple[int, int]] = []
    order = np.lexsort((second, first))
    for one, other in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if one in dropped or other in dropped:
            continue
        if twins[one] and twins[other]:
            kept.append((one, other))
        else:
            dropped.add(other)
    edges = np.array(kept, dtype=np.int64).reshape(-1, 2).T
    shape = (len(word_sets), len(word_sets))
    graph = sparse.coo_matrix((np.ones(len(kept)), (edges[0], edges[1])), shape=shape)
    _, family = sparse.csgraph.connected_components(graph, directed=False)
    _, first_of_family = np.unique(family, return_index=True)
    return sorted(dropped), first_of_family[family]


def _rows_of_columns(rows: list[list[int]], columns: int) -> sparse.csr_matrix:
    """Return a matrix [rows, columns] with ones in the given columns of each row."""
    indices = np.concatenate([np.array(row, dtype=np.int64) for row in rows])
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    ones = np.ones(len(indices), dtype=np.int32)
    return sparse.csr_matrix((ones, indices, starts), shape=(len(rows), columns))
