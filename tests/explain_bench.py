"""Explanations against people's reasons: `make explain-bench` prints the README's table.

HateXplain's posts that people called toxic carry the spans that they marked as the reason. Our
words' weights towards toxicity (hate or offensive) are laid over the posts' tokens and judged as
ERASER (DeYoung 2020) and HateXplain (Mathew 2021) judge them, each figure a mean over posts:

    AUPRC              of the tokens' weights against the marked tokens
    token F1           of the k heaviest tokens, k the mean number of marked ones
    comprehensiveness  how far p(toxic) falls without those k tokens; higher is better
    sufficiency        how far it falls with nothing but them; lower is better

Posts are a seeded sample; the run ends after so many minutes and says how many it took in. It
scores with the bundle itself, so it measures no service.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.metrics import auc, precision_recall_curve

from serving.bundle import Bundle
from serving.classifier import bundle_folder
from serving.explain.explainer import DIGITS, fit, make_masks, masked, read

MASKS = {"`[MASK]`": "[MASK]", "`[UNK]`": "[UNK]", "deleted": ""}
FIGURES = ("token F1", "AUPRC", "comprehensiveness", "sufficiency")


class Post:
    """A post: its text, where its tokens stand, and which of them people marked."""

    def __init__(self, row: dict[str, object]) -> None:
        self.tokens: list[str] = row["tokens"]
        self.marked = np.zeros(len(self.tokens), dtype=bool)
        for begin, end in row["rationale"]:
            self.marked[begin:end] = True
        self.text = " ".join(self.tokens)
        ends = np.cumsum([len(token) + 1 for token in self.tokens])
        self.spans = [(end - 1 - len(t), end - 1) for t, end in zip(self.tokens, ends, strict=True)]

    def without(self, gone: np.ndarray) -> str:
        return " ".join(t for t, out in zip(self.tokens, gone, strict=True) if not out)


def lime(bundle: Bundle, mask: str, samples: int) -> Callable[[Post], np.ndarray]:
    """Return what gives each token of a post its weight towards toxicity."""

    def weigh(post: Post) -> np.ndarray:
        reading = read(bundle, post.text)
        masks = make_masks(len(reading.groups), samples, seed=0)
        scores = bundle.score([masked(reading, row, mask) for row in masks]).round(DIGITS)
        weights, _ = fit(masks, 1 - scores[:, 2].astype(np.float64))
        found = np.zeros(len(post.tokens))
        for group, weight in zip(reading.groups, weights, strict=True):
            for word in group:
                for at, (begin, end) in enumerate(post.spans):
                    if begin < word.end and word.begin < end:
                        found[at] = max(found[at], weight) if found[at] else weight
        return found

    return weigh


def chance(_: Bundle) -> Callable[[Post], np.ndarray]:
    draw = np.random.default_rng(0)
    return lambda post: draw.random(len(post.tokens))


def judge(bundle: Bundle, post: Post, weights: np.ndarray, k: int) -> list[float]:
    """Return the four figures of one post."""
    precision, recall, _ = precision_recall_curve(post.marked, weights)
    top = np.zeros(len(weights), dtype=bool)
    top[np.argsort(-weights, kind="stable")[:k]] = True
    hits = (top & post.marked).sum()
    f1 = 2 * hits / (top.sum() + post.marked.sum())
    whole, rest, only = 1 - bundle.score([post.text, post.without(top), post.without(~top)])[:, 2]
    return [f1, auc(recall, precision), whole - rest, whole - only]


def interval(values: np.ndarray) -> str:
    """Return a mean with its 95 % bootstrap interval over posts."""
    draw = np.random.default_rng(0)
    means = values[draw.integers(0, len(values), (1000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge explanations by people's reasons.")
    folder = Path(os.environ.get("DATA_DIR") or "../shared/data")
    parser.add_argument("--data", type=Path, default=folder / "hatexplain" / "val.jsonl")
    parser.add_argument("--posts", type=int, default=200, help="in the sample")
    parser.add_argument("--minutes", type=float, default=15, help="after which it ends")
    parser.add_argument("--samples", type=int, default=1000, help="masks of a post")
    parser.add_argument("--bundle", type=Path, default=None, help="folder; else what is served")
    asked = parser.parse_args()
    if not asked.data.exists():
        sys.exit(f"{asked.data} is not there: HateXplain's posts, one JSON a line; see --data")
    bundle = Bundle.load(bundle_folder(asked.bundle))
    rows = [json.loads(line) for line in asked.data.read_text(encoding="utf-8").splitlines()]
    posts = [Post(row) for row in rows if row["toxic"] and row["rationale"]]
    k = round(np.mean([post.marked.sum() for post in posts]))
    chosen = random.Random(0).sample(posts, min(asked.posts, len(posts)))

    ways = {name: lime(bundle, mask, asked.samples) for name, mask in MASKS.items()}
    ways["chance"] = chance(bundle)
    figures: dict[str, list[list[float]]] = {name: [] for name in ways}
    began = time.monotonic()
    done = 0
    for post in chosen:
        for name, weigh in ways.items():
            figures[name].append(judge(bundle, post, weigh(post), k))
        done += 1
        if time.monotonic() - began > 60 * asked.minutes:
            break
    minutes = (time.monotonic() - began) / 60
    manifest = bundle.manifest
    print(
        f"Model {manifest.name} {manifest.version} (data: {manifest.data}); {done} of {len(posts)} "
        f"toxic posts with marked reasons, drawn with seed 0; k = {k}; {asked.samples} masks a "
        f"post; {minutes:.1f} minutes.\n"
    )
    print(f"| a masked word is | {' | '.join(FIGURES)} |\n| --- |{' --- |' * len(FIGURES)}")
    for name, values in figures.items():
        shown = " | ".join(interval(column) for column in np.array(values).T)
        print(f"| {name} | {shown} |")


if __name__ == "__main__":
    main()
