"""The tweets that are sent: real ones if the data folder is there, else the sample's, lengthened.

Every tweet is distinct, and their order is random but the same each time.
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
    """Return the folder in which `make train` too looks first."""
    return Path(os.environ.get("DATA_DIR") or "../shared/data")


def load(count: int = COUNT) -> tuple[list[str], str]:
    """Return at most `count` distinct tweets, and in words what they are."""
    found, names = real(data_folder())
    if not found:
        found, names = lengthened(SAMPLE, count), ["the bundled sample, each with half of another"]
    found = list(dict.fromkeys(found))
    random.Random(0).shuffle(found)
    return found[:count], f"{len(found[:count]):,} distinct tweets: {', '.join(names)}"


def real(folder: Path) -> tuple[list[str], list[str]]:
    """Return the tweets under `folder`, and of what sets they are."""
    tweets, names = [], []
    for name in LINES:
        if (path := folder / name).is_file():
            tweets += [
                line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()
            ]
            names.append(name)
    if (path := folder / DAVIDSON).is_file():
        with path.open(encoding="utf-8", newline="") as handle:
            rows = [row["tweet"] for row in csv.DictReader(handle)]
        tweets += rows[:: max(1, len(rows) // (COUNT // 2))]  # about as many as the others
        names.append(DAVIDSON)
    return tweets, names


def lengthened(path: Path, count: int) -> list[str]:
    """Return about `count` distinct texts: one of the sample's, which are short, and a half."""
    with path.open(encoding="utf-8", newline="") as handle:
        short = [row["text"] for row in csv.DictReader(handle)]
    draw, texts = random.Random(1), []
    for _ in range(count):
        whole, other = draw.sample(short, 2)
        words = other.split()
        texts.append(" ".join([whole, *words[: (len(words) + 1) // 2]]))
    return list(dict.fromkeys(texts))
