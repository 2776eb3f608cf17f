"""Score a CSV file that has a column `text`: write its rows with the predictions added.

python examples/score_file.py comments.csv scored.csv

TAGGER_URL is the service's address. The program needs httpx.
"""

import csv
import os
import sys
import time
from itertools import islice
from pathlib import Path

import httpx

URL = os.environ.get("TAGGER_URL", "http://127.0.0.1:8000")
BATCH = 64  # texts in a request; the service takes up to MAX_TEXTS, by default 256
COLUMNS = ["label", "hate", "offensive", "neither", "toxicity", "action"]


def predict(client: httpx.Client, texts: list[str]) -> list[dict]:
    """Classify the texts; wait and try again while the service is overloaded."""
    body = {"texts": texts, "do_not_store": True}  # keep a bulk run out of the prediction log
    while (response := client.post("/v1/predict", json=body)).status_code == 429:
        time.sleep(int(response.headers["Retry-After"]))
    if response.is_error:  # the error's field is `texts[i]` if one text is wrong
        sys.exit(response.text)
    return response.json()["predictions"]


source, target = map(Path, sys.argv[1:])
with (
    source.open(encoding="utf-8", newline="") as read,
    target.open("w", encoding="utf-8", newline="") as write,
):
    rows = csv.DictReader(read)
    writer = csv.DictWriter(write, [*rows.fieldnames, *COLUMNS], extrasaction="ignore")
    writer.writeheader()
    with httpx.Client(base_url=URL, timeout=30) as client:
        while batch := list(islice(rows, BATCH)):
            predictions = predict(client, [row["text"] for row in batch])
            for row, prediction in zip(batch, predictions, strict=True):
                writer.writerow(row | prediction | prediction["scores"])
