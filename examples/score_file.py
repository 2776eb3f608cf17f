"""Score a CSV file that has a column `text`: write its rows with the predictions added.

python examples/score_file.py comments.csv scored.csv    TAGGER_URL is the service; needs httpx
"""

import csv
import os
import sys
import time
from itertools import islice
from pathlib import Path

import httpx

URL = os.environ.get("TAGGER_URL", "http://127.0.0.1:8000")
BATCH = 64  # texts in a request; the service takes up to TAGGER_MAX_TEXTS, by default 256
CSV = {"encoding": "utf-8-sig", "newline": ""}  # with or without a byte order mark
COLUMNS = ["predicted", "action", "hate", "offensive", "neither"]


def predict(client: httpx.Client, texts: list[str]) -> list[dict]:
    body = {"texts": texts, "do_not_store": True}  # keep a bulk run out of the prediction log
    while (response := client.post("/v1/predict", json=body)).status_code == 429:  # overloaded
        time.sleep(int(response.headers["Retry-After"]))
    if response.is_error:  # the error's `field` is `texts[i]` if one text is wrong
        sys.exit(response.text)
    return response.json()["predictions"]


source, target = map(Path, sys.argv[1:])
with source.open(**CSV) as read, target.open("w", encoding="utf-8", newline="") as write:
    rows, client = csv.DictReader(read, strict=True), httpx.Client(base_url=URL, timeout=30)
    writer = csv.DictWriter(write, [*rows.fieldnames, *COLUMNS])
    writer.writeheader()
    while batch := list(islice(rows, BATCH)):
        if wrong := [row for row in batch if None in row or None in row.values()]:
            sys.exit(f"{source}: the row {wrong[0]} has another number of fields than the header")
        for row, reply in zip(batch, predict(client, [row["text"] for row in batch]), strict=True):
            added = {"predicted": reply["label"], "action": reply["action"], **reply["scores"]}
            writer.writerow(row | added)
