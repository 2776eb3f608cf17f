"""The tweets that the benchmarks send: real ones if the data folder has them, else longer ones made
from the bundled sample.

All are different, and their order is random but the same each time.
"""

import csv
import os
import random
from pathlib import Path

COUNT = 4096
SAMPLE = Path("data/sample/tweets.csv")
LINES = ("tweeteval/hate/val_text.txt", "tweeteval/offensive/val_text.txt")
DAVIDSON = "davidson/labeled_data.csv"


def data_folder() -> Path:
    """Return the folder where `make train` looks first, too."""
    return Path(os.environ.get("DATA_DIR") or "../shared/data")


def load(count: int = COUNT) -> tuple[list[str], str]:
    """Return at most `count` different tweets, and a description of them."""
    texts, names = real(data_folder())
    if not texts:
        texts, names = lengthened(SAMPLE, count), ["the bundled sample, each with half of another"]
    texts = list(dict.fromkeys(texts))
    random.Random(0).shuffle(texts)
    return texts[:count], f"{len(texts[:count]):,} different tweets: {', '.join(names)}"


def real(folder: Path) -> tuple[list[str], list[str]]:
    """Return the tweets under `folder`, and the names of their data sets."""
    tweets, names = [], []
    for name in LINES:
        if (path := folder / name).is_file():
            lines = path.read_text(encoding="utf-8").split("\n")
            tweets += [line for line in lines if line.strip()]
            names.append(name)
    if (path := folder / DAVIDSON).is_file():
        with path.open(encoding="utf-8", newline="") as handle:
            rows = [row["tweet"] for row in csv.DictReader(handle)]
        tweets += rows[:: max(1, len(rows) // (COUNT // 2))]  # about as many as the others
        names.append(DAVIDSON)
    return tweets, names


def lengthened(path: Path, count: int) -> list[str]:
    """Return about `count` different texts: a text of the sample, which are short, and half of
    another.
    """
    with path.open(encoding="utf-8", newline="") as handle:
        short = [row["text"] for row in csv.DictReader(handle)]
    generator, texts = random.Random(1), []
    for _ in range(count):
        whole, other = generator.sample(short, 2)
        words = other.split()
        texts.append(" ".join([whole, *words[: (len(words) + 1) // 2]]))
    return list(dict.fromkeys(texts))
