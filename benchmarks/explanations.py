"""Compares explanations with the reasons that people marked (HateXplain).

    python -m benchmarks.explanations --bundle FOLDER [--posts 200] [--write docs/benchmarks.md]

In HateXplain's toxic posts, people marked the spans that are the reason. Here the weights that LIME
gives to words, towards toxicity (hate or offensive), become weights of the posts' tokens. They are
measured as in ERASER (DeYoung 2020) and HateXplain (Mathew 2021), each figure a mean over posts:

    AUPRC              of the tokens' weights against the marked tokens
    token F1           of the k heaviest tokens, with k the mean number of marked tokens
    comprehensiveness  how far p(toxic) falls without those k tokens; higher is better
    sufficiency        how far it falls with only them; lower is better

The posts are a seeded sample. The run ends after some minutes and says how many posts it used. It
scores with the bundle itself and needs no service.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap
from sklearn.metrics import auc, precision_recall_curve

from benchmarks.markdown import publish, table
from serving.bundle import Bundle
from serving.explain.explainer import visible_text
from serving.explain.lime import DIGITS, apply_mask, fit, make_masks, number_of_masks

MASKS = {"`[MASK]`": "[MASK]", "`[UNK]`": "[UNK]", "deleted": ""}
FIGURES = ("token F1", "AUPRC", "comprehensiveness", "sufficiency")


@dataclass(frozen=True, slots=True)
class Post:
    """A post: its tokens, and which of them people marked."""

    tokens: list[str]
    marked: np.ndarray

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Post":
        marked = np.zeros(len(row["tokens"]), dtype=bool)
        for begin, end in row["rationale"]:
            marked[begin:end] = True
        return cls(row["tokens"], marked)

    @property
    def text(self) -> str:
        return " ".join(self.tokens)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where each token begins and ends in the text."""
        ends = np.cumsum([len(token) + 1 for token in self.tokens]) - 1
        return [(end - len(t), end) for t, end in zip(self.tokens, ends, strict=True)]

    def keep(self, chosen: np.ndarray) -> str:
        """Return the text with only the chosen tokens."""
        return " ".join(token for token, keep in zip(self.tokens, chosen, strict=True) if keep)


Method = Callable[[Post], np.ndarray]  # a weight towards toxicity for each token


def lime(bundle: Bundle, mask: str, samples: int) -> Method:
    """Return the service's method, with words masked by `mask`."""

    def weights_of(post: Post) -> np.ndarray:
        visible = visible_text(bundle, post.text)
        words = len(visible.occurrences)
        masks = make_masks(words, number_of_masks(words, samples), seed=0)
        scores = bundle.score(
            [apply_mask(visible.text, visible.occurrences, row, mask) for row in masks]
        ).labels.round(DIGITS)
        of_groups, _ = fit(masks, 1 - scores[:, 2].astype(np.float64))
        weights = np.zeros(len(post.tokens))
        for group, weight in zip(visible.occurrences, of_groups, strict=True):
            for i, (begin, end) in enumerate(post.spans):
                if any(begin < word.end and word.begin < end for word in group):
                    weights[i] = max(weights[i], weight) if weights[i] else weight
        return weights

    return weights_of


def chance() -> Method:
    generator = np.random.default_rng(0)
    return lambda post: generator.random(len(post.tokens))


def figures_of(bundle: Bundle, post: Post, weights: np.ndarray, k: int) -> list[float]:
    """Return the four figures of one post, in the order of `FIGURES`."""
    precision, recall, _ = precision_recall_curve(post.marked, weights)
    top = np.zeros(len(weights), dtype=bool)
    top[np.argsort(-weights, kind="stable")[:k]] = True
    hits = (top & post.marked).sum()
    f1 = 2 * hits / (top.sum() + post.marked.sum())
    texts = [post.text, post.keep(~top), post.keep(top)]
    whole, without, only = 1 - bundle.score(texts).labels[:, 2]
    return [f1, auc(recall, precision), whole - without, whole - only]


def interval(values: np.ndarray) -> str:
    """Return a mean with its 95 % bootstrap interval over posts."""
    low, high = bootstrap(
        (values,), np.mean, n_resamples=1000, method="percentile", rng=0
    ).confidence_interval
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def measure(
    bundle: Bundle, posts: list[Post], k: int, samples: int, minutes: float
) -> dict[str, np.ndarray]:
    """Return, for each method, the figures [posts, 4] of as many posts as the time allows."""
    methods = {name: lime(bundle, mask, samples) for name, mask in MASKS.items()}
    methods["chance"] = chance()
    figures: dict[str, list[list[float]]] = {name: [] for name in methods}
    end = time.monotonic() + 60 * minutes
    for post in posts:
        for name, method in methods.items():
            figures[name].append(figures_of(bundle, post, method(post), k))
        if time.monotonic() > end:
            break
    return {name: np.array(rows) for name, rows in figures.items()}


def arguments() -> argparse.Namespace:
    data = Path(os.environ.get("DATA_DIR") or "../shared/data") / "hatexplain" / "val.jsonl"
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=data, help="posts, one JSON document a line")
    parser.add_argument("--posts", type=int, default=200, help="size of the sample")
    parser.add_argument("--minutes", type=float, default=15, help="after which the run ends")
    parser.add_argument("--samples", type=int, default=1000, help="masks for each post")
    parser.add_argument("--write", type=Path, help="a page with the block `explanations`")
    options = parser.parse_args()
    if not options.data.exists():
        parser.error(f"{options.data} does not exist; it should hold HateXplain's posts")
    return options


def main() -> None:
    options = arguments()
    bundle = Bundle.load(options.bundle)
    lines = options.data.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    posts = [Post.from_row(row) for row in rows if row["toxic"] and row["rationale"]]
    k = round(np.mean([post.marked.sum() for post in posts]))
    chosen = random.Random(0).sample(posts, min(options.posts, len(posts)))
    figures = measure(bundle, chosen, k, options.samples, options.minutes)
    manifest = bundle.manifest
    text = (
        f"Model {manifest.name} {manifest.version} (data: {manifest.data}); "
        f"{len(figures['chance'])} of {len(posts)} toxic posts with marked reasons, drawn with "
        f"seed 0; k = {k}; {options.samples} masks for each post; 95 % intervals.\n\n"
        + table(
            ["a masked word is", *FIGURES],
            [[name, *map(interval, values.T)] for name, values in figures.items()],
        )
    )
    publish(text, "explanations", options.write)


if __name__ == "__main__":
    main()
