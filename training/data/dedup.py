"""Which rows are the same text, what its label then is, and which rows are nearly the same.

The rules are those of `prepare`.
"""

import hashlib
from collections import Counter

import numpy as np
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


def near_duplicates(word_sets: list[set[str]], threshold: float) -> list[int]:
    """Return the positions of sets whose Jaccard similarity to an earlier, kept one is ≥ threshold.

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
    for first, second in zip(pairs.row[order].tolist(), pairs.col[order].tolist(), strict=True):
        if first in dropped or second in dropped:
            continue
        one, other = word_sets[first], word_sets[second]
        if len(one & other) >= threshold * len(one | other):
            dropped.add(second)
    return sorted(dropped)
