"""A bundle's answers on the rows that nothing was fitted to; `evaluate` and `promote` share them.

test, external -> evaluation_rows -> measure -> Measurement -> metrics.json, a gates' Report
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from serving.bundle import Bundle, Floats, Ints
from training.config import Source
from training.evaluation.metrics import batch_invariance, difference, identity_gap, macro_f1
from training.partial_labels import LABELS, classes_by_source, label_mask
from training.paths import split_file

ALL_LABELS = np.arange(len(LABELS))


@dataclass(frozen=True)
class Measurement:
    """A bundle's answers on rows.

    allowed: [rows, labels] partial labels.
    source: [rows] names.
    in_test: [rows] whether of the test split; the others are for external validation.
    scores: [rows, labels] probabilities.
    chosen: [rows] label index.
    reference: the first source in test, which has all three labels.
    external: by external source that has classes, [labels] the class of each label.
    batch: how far scores in batches are from scores of single texts; see `batch_invariance`.
    identity: see `identity_gap`.
    """

    texts: list[str]
    allowed: npt.NDArray[np.bool_]
    source: npt.NDArray[Any]
    in_test: npt.NDArray[np.bool_]
    scores: Floats
    chosen: Ints
    reference: str
    external: dict[str, Ints]
    batch: dict[str, float]
    identity: dict[str, Any]

    @property
    def test_texts(self) -> list[str]:
        """The texts of the test split."""
        return [text for text, tested in zip(self.texts, self.in_test, strict=True) if tested]

    @property
    def truth(self) -> Ints:
        """[rows] the label index of single-label rows; of others the first allowed one."""
        return np.asarray(self.allowed.argmax(axis=1), dtype=np.int64)


def evaluation_rows() -> pd.DataFrame:
    """Return the rows of test and external, with a column `in_test`."""
    frames = [
        pd.read_parquet(split_file(split)).assign(in_test=split == "test")
        for split in ("test", "external")
    ]
    return pd.concat(frames, ignore_index=True)


def measure(bundle: Bundle, rows: pd.DataFrame, sources: Mapping[str, Source]) -> Measurement:
    """Score rows with a bundle, through the code that serves it."""
    texts, allowed = rows["text"].tolist(), label_mask(rows["labels"])
    source, in_test = rows["source"].to_numpy(), rows["in_test"].to_numpy(dtype=bool)
    scores = bundle.score(texts)
    chosen = bundle.decide(scores)
    return Measurement(
        texts=texts,
        allowed=allowed,
        source=source,
        in_test=in_test,
        scores=scores,
        chosen=chosen,
        reference=next(name for name in sources if (in_test & (source == name)).any()),
        external=classes_by_source(sources, source[~in_test]),
        batch=batch_invariance(bundle, rows["text"][in_test].tolist()),
        identity=identity_gap(texts, chosen, allowed),
    )


def compare_with_fp32(
    bundle: Bundle, parent: Bundle, measured: Measurement, rows: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Return what quantisation changes on single-label rows; `parent` is the fp32 model.

    `macro_f1_difference` is int8's macro-F1 less fp32's.
    """
    texts = [text for text, wanted in zip(measured.texts, rows, strict=True) if wanted]
    scores = parent.score(texts)
    truth = measured.truth[rows]
    int8, fp32 = (
        float(macro_f1(truth, chosen, len(LABELS)))
        for chosen in (measured.chosen[rows], parent.decide(scores))
    )
    return difference(bundle, measured.scores[rows], scores) | {
        "fp32_macro_f1": fp32,
        "macro_f1_difference": int8 - fp32,
    }
