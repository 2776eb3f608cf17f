"""The programs in examples/, against a service with the small model."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.service import ROOT, Served

EXAMPLES = ROOT / "examples"
TEXTS = ["you are all welcome here", "you absolute clown, you"]


def run(served: Served, name: str, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        env=os.environ | {"TAGGER_URL": served.url},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_predict(served: Served) -> None:
    predictions = served.predictions(*TEXTS)
    lines = run(served, "predict.py", *TEXTS).splitlines()
    for line, text, wanted in zip(lines, TEXTS, predictions, strict=True):
        label, score, action, shown = line.split(maxsplit=3)
        assert (label, action, shown) == (wanted["label"], wanted["action"], text)
        assert score == f"{wanted['scores'][label]:.3f}"


def test_score_file_keeps_the_rows_and_adds_columns(served: Served, tmp_path: Path) -> None:
    texts = [f'{text} {i}, "quoted" ä' for i in range(50) for text in TEXTS]
    source, target = tmp_path / "comments.csv", tmp_path / "scored.csv"
    with source.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [["id", "text", "label"], *((i, text, "spam") for i, text in enumerate(texts))]
        )
    run(served, "score_file.py", str(source), str(target))
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [(row["id"], row["text"], row["label"]) for row in rows]
    assert kept == [(str(i), text, "spam") for i, text in enumerate(texts)]
    wanted = served.scores(*texts)
    assert [{k: float(row[k]) for k in wanted[0]} for row in rows] == wanted


def test_openai_client(served: Served) -> None:
    lines = run(served, "openai_client.py", *TEXTS).splitlines()
    for line, text, row in zip(lines, TEXTS, served.predictions(*TEXTS), strict=True):
        harassment = max(row["attributes"]["INSULT"], row["attributes"]["THREAT"])
        wanted = f"hate {row['scores']['hate']:.3f}  harassment {harassment:.3f}  {text}"
        assert line.endswith(wanted)


def test_perspective_client(served: Served) -> None:
    lines = run(served, "perspective_client.py", *TEXTS).splitlines()
    for line, text, row in zip(lines, TEXTS, served.predictions(*TEXTS), strict=True):
        shown = [
            f"{name} {row['attributes'][name]:.3f}"
            for name in ("TOXICITY", "IDENTITY_ATTACK", "THREAT")
        ]
        assert line == "  ".join([*shown, text])


def test_own_data_joins_the_bundled_sample(checkout: Path) -> None:
    from training.config import load_sources
    from training.data.ingest import ingest
    from training.data.sources import read_source

    path = checkout / "configs" / "sources.yaml"
    sources = yaml.safe_load(path.read_text())
    bundled = {name: sources[name] for name in ("sample", "contrast")}
    ours = (EXAMPLES / "own_data" / "sources.yaml").read_text()
    path.write_text(yaml.safe_dump(bundled) + ours)
    (checkout / "examples").symlink_to(EXAMPLES)
    ingest("quick", load_sources())
    rows = read_source("ours", load_sources()["ours"])
    assert len(rows) == 13
    assert {tuple(labels) for labels in rows["labels"]} == {
        ("neither",),
        ("offensive",),
        ("hate",),
        ("hate", "offensive"),
    }


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
