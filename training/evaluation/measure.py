"""A bundle's answers on the rows that nothing was fitted to, and all figures of them.

test, external -> evaluation_rows -> measure -> Measurement -> figures
                                                   figures -> metrics.json, a gates' Report

`evaluate` and `promote` share this code, so that a gate names a figure of metrics.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from serving.bundle import (
    ATTRIBUTES,
    LABELS,
    LEARNED_ATTRIBUTES,
    MANIFEST,
    SEALED,
    Bundle,
    Floats,
    Ints,
    Scores,
)
from training.config import Source
from training.evaluation.behaviour import (
    Capability,
    Outcome,
    differing_pairs,
    group_rates,
    outcomes,
)
from training.evaluation.metrics import (
    Ranking,
    batch_invariance,
    binary_metrics,
    bootstrap_interval,
    classification_metrics,
    difference,
    identity_gap,
    interval,
    macro_f1,
)
from training.partial_labels import NEITHER, classes_by_source, label_mask
from training.paths import split_file

ALL_LABELS = np.arange(len(LABELS))
TOXICITY = ATTRIBUTES.index("TOXICITY")
# The gap between groups is measured on these and on the reference: other corpora name groups in
# texts that were written or chosen to be hard.
TWEETS = ("davidson", "hateval", "hateval_val", "olid", "olid_val")
LONG_TEXT = (60, 250)  # words
MIN_SHARE = 0.5  # of the raters, from which a text counts as having the attribute

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Behaviour:
    """A bundle's results in the behavioural suite.

    capabilities: by name.
    differing_pairs: share of pairs of groups that the same template labels differently.
    template_gap: between the groups that harmless templates call hate most and least often.
    """

    capabilities: dict[str, Outcome]
    differing_pairs: float
    template_gap: float

    @property
    def rate(self) -> float:
        """Share of all texts that passed."""
        rows = self.capabilities.values()
        return sum(row.passed for row in rows) / sum(row.texts for row in rows)

    @property
    def worst(self) -> str:
        """The capability in which the smallest share passed."""
        return min(self.capabilities, key=lambda name: self.capabilities[name].rate)


@dataclass(frozen=True)
class Measurement:
    """A bundle's answers on rows.

    allowed: [rows, labels] partial labels.
    shares: [rows, LEARNED_ATTRIBUTES] share of raters who saw the attribute; NaN: unknown.
    source: [rows] names.
    taught: by source of the rows, in the order of sources.yaml, the attributes that it teaches.
    in_test: [rows] whether of the test split; the others are for external validation.
    scores: of the rows.
    chosen: [rows] label index.
    reference: the first source in test, which has all three labels.
    external: by external source that has classes, [labels] the class of each label.
    batch: how far scores in batches are from scores of single texts; see `batch_invariance`.
    behaviour: results in the behavioural suite.
    """

    texts: list[str]
    allowed: Bools
    shares: npt.NDArray[np.float64]
    source: npt.NDArray[Any]
    taught: dict[str, tuple[str, ...]]
    in_test: Bools
    scores: Scores
    chosen: Ints
    reference: str
    external: dict[str, Ints]
    batch: dict[str, float]
    behaviour: Behaviour

    @property
    def test_texts(self) -> list[str]:
        """The texts of the test split."""
        return [text for text, tested in zip(self.texts, self.in_test, strict=True) if tested]

    @property
    def truth(self) -> Ints:
        """[rows] the label index of single-label rows; of others the first allowed one."""
        return np.asarray(self.allowed.argmax(axis=1), dtype=np.int64)

    @property
    def labelled(self) -> Bools:
        """[rows] whether of the test split with a single label."""
        return np.asarray(self.in_test & (self.allowed.sum(axis=1) == 1))

    @property
    def harmless(self) -> Bools:
        """[rows] whether the only allowed label is neither."""
        return np.asarray(self.allowed[:, NEITHER] & (self.allowed.sum(axis=1) == 1))

    def rankings(self) -> dict[str, dict[str, Ranking]]:
        """Return an attribute's scores of the rows that know it, by source in test that teaches
        attributes, and by attribute.

        A row can know more than its source teaches, if another source had the same text.
        """
        rankings: dict[str, dict[str, Ranking]] = {}
        for source, taught in self.taught.items():
            for name in ("TOXICITY", *taught) if taught else ():
                known, truth = self.attribute(name)
                rows = self.in_test & (self.source == source) & known
                if rows.any():
                    scores = self.scores.attributes[rows, ATTRIBUTES.index(name)]
                    rankings.setdefault(source, {})[name] = Ranking(scores, truth[rows])
        return rankings

    def attribute(self, name: str) -> tuple[Bools, Bools]:
        """Return [rows] whether the attribute is known, and whether the text has it.

        A text is toxic if its partial label leaves neither out.
        """
        if name == "TOXICITY":
            toxic = ~self.allowed[:, NEITHER]
            return toxic | self.harmless, toxic
        shares = self.shares[:, LEARNED_ATTRIBUTES.index(name)]
        return ~np.isnan(shares), shares >= MIN_SHARE


def evaluation_rows() -> pd.DataFrame:
    """Return the rows of test and external, with a column `in_test`."""
    frames = [
        pd.read_parquet(split_file(split)).assign(in_test=split == "test")
        for split in ("test", "external")
    ]
    return pd.concat(frames, ignore_index=True)


def measure(
    bundle: Bundle,
    rows: pd.DataFrame,
    sources: Mapping[str, Source],
    suite: Sequence[Capability],
) -> Measurement:
    """Score rows and the behavioural suite with a bundle, through the code that serves it."""
    texts, allowed = rows["text"].tolist(), label_mask(rows["labels"])
    source, in_test = rows["source"].to_numpy(), rows["in_test"].to_numpy(dtype=bool)
    scores = bundle.score(texts)
    return Measurement(
        texts=texts,
        allowed=allowed,
        shares=np.array(rows["attributes"].tolist(), dtype=np.float64),
        source=source,
        taught={
            name: tuple(entry.attributes)
            for name, entry in sources.items()
            if (source == name).any()
        },
        in_test=in_test,
        scores=scores,
        chosen=bundle.decide(scores.labels),
        reference=next(name for name in sources if (in_test & (source == name)).any()),
        external=classes_by_source(sources, source[~in_test]),
        batch=batch_invariance(bundle, rows["text"][in_test].tolist()),
        behaviour=_behaviour(bundle, suite),
    )


def _behaviour(bundle: Bundle, suite: Sequence[Capability]) -> Behaviour:
    scores = bundle.score([text for capability in suite for text in capability.texts])
    labels = [LABELS[i] for i in bundle.decide(scores.labels)]
    rates = group_rates(suite, labels).values()
    return Behaviour(
        outcomes(suite, labels, scores.attributes),
        differing_pairs(suite, labels),
        max(rates, default=0.0) - min(rates, default=0.0),
    )


def figures(measured: Measurement, draws: int) -> dict[str, Any]:
    """Return every figure of a measurement.

    Args:
        measured: see `measure`.
        draws: bootstrap resamples of the intervals; 0: no intervals.
    """
    tweets = measured.source == measured.reference
    tweets |= np.isin(measured.source, TWEETS)
    texts = [text for text, wanted in zip(measured.texts, tweets, strict=True) if wanted]
    behaviour = measured.behaviour
    return {
        "reference": measured.reference,
        **_by_part(measured, draws),
        "attributes": {
            source: {name: binary_metrics(rows, draws) for name, rows in attributes.items()}
            for source, attributes in measured.rankings().items()
        },
        "long_texts": _long_texts(measured, draws),
        "identity": identity_gap(texts, measured.chosen[tweets], measured.allowed[tweets], draws),
        "behaviour": {
            "texts": sum(row.texts for row in behaviour.capabilities.values()),
            "all": behaviour.rate,
            "worst": behaviour.capabilities[behaviour.worst].rate,
            "worst_capability": behaviour.worst,
            "differing_pairs": behaviour.differing_pairs,
            "template_gap": behaviour.template_gap,
            "capabilities": {name: row.rate for name, row in behaviour.capabilities.items()},
        },
        "batch_invariance": measured.batch,
    }


def _by_part(measured: Measurement, draws: int) -> dict[str, Any]:
    """Return the metrics of the whole test, and by source, by length and by external source."""

    def part(rows: Bools, class_of: Ints = ALL_LABELS) -> dict[str, Any]:
        scores, chosen, allowed = (
            measured.scores.labels[rows],
            measured.chosen[rows],
            measured.allowed[rows],
        )
        return classification_metrics(scores, chosen, allowed, class_of, draws)

    tested, source, words = measured.labelled, measured.source, _words(measured)
    lengths = {
        "up to 8 words": words <= 8,
        "9 to 16 words": (words > 8) & (words <= 16),
        "17 to 59 words": (words > 16) & (words < LONG_TEXT[0]),
        "60 words and more": words >= LONG_TEXT[0],
    }
    return {
        "test": part(tested),
        "sources": {
            name: part(tested & (source == name))
            for name in measured.taught
            if (tested & (source == name)).any()
        },
        "lengths": {
            name: part(tested & rows) for name, rows in lengths.items() if (tested & rows).any()
        },
        "external": {
            name: part(source == name, class_of) for name, class_of in measured.external.items()
        },
    }


def _long_texts(measured: Measurement, draws: int) -> dict[str, Any]:
    """Return TOXICITY's `binary_metrics` on long texts, and how many harmless ones are not called
    neither; empty without harmless long texts.
    """
    words = _words(measured)
    long = (words >= LONG_TEXT[0]) & (words <= LONG_TEXT[1])
    harmless = long & measured.harmless
    if not harmless.any():
        return {}
    known, truth = measured.attribute("TOXICITY")
    rows = long & known
    ranking = Ranking(measured.scores.attributes[rows, TOXICITY], truth[rows])
    metrics = binary_metrics(ranking, draws)
    wrong = measured.chosen[harmless] != NEITHER
    if draws:
        metrics["intervals"]["harmless_called_toxic"] = interval(wrong, draws)
    return metrics | {
        "harmless_rows": int(harmless.sum()),
        "harmless_called_toxic": float(wrong.mean()),
    }


def _words(measured: Measurement) -> Ints:
    return np.array([len(text.split()) for text in measured.texts])


def compare_with_fp32(
    bundle: Bundle, parent: Bundle, measured: Measurement, draws: int
) -> dict[str, Any]:
    """Return what quantisation changes on the single-label rows of test.

    `macro_f1_difference` is int8's macro-F1 less fp32's, with a paired interval.

    Args:
        bundle: the int8 model.
        parent: the fp32 model.
        measured: see `measure`, of `bundle`.
        draws: bootstrap resamples; 0: no interval.
    """
    rows = measured.labelled
    scores = parent.score([t for t, wanted in zip(measured.texts, rows, strict=True) if wanted])
    truth, int8, fp32 = measured.truth[rows], measured.chosen[rows], parent.decide(scores.labels)

    def gain(drawn: Ints) -> Floats:
        ours, theirs = (macro_f1(truth[drawn], by[drawn], len(LABELS)) for by in (int8, fp32))
        return np.asarray(ours - theirs, dtype=np.float32)

    metrics = difference(bundle, Scores(*(part[rows] for part in measured.scores)), scores) | {
        "fp32_macro_f1": float(macro_f1(truth, fp32, len(LABELS))),
        "macro_f1_difference": float(gain(np.arange(len(truth)))),
    }
    if not draws:
        return metrics
    bounds = bootstrap_interval(gain, len(truth), draws).tolist()
    return metrics | {"intervals": {"macro_f1_difference": bounds}}


def megabytes(folder: Path) -> float:
    """Return the size of a bundle's own files."""
    return sum((folder / name).stat().st_size for name in (*SEALED, MANIFEST)) / 1e6
