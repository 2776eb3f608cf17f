import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.conftest import write_csv
from training.config import load_profile, load_sources
from training.data.ingest import ingest, raw_files
from training.data.sources import read_source
from training.errors import DataError

ROWS = [("a lovely day", "neither"), ("you clown", "offensive")]


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A closed port on this machine: the clients are real, the Hub and public files do not answer.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")


def set_sources(folder: Path, **sources: object) -> None:
    (folder / "configs" / "sources.yaml").write_text(yaml.safe_dump(sources, sort_keys=False))


def entry(**more: object) -> dict[str, object]:
    return {"labels": {name: [name] for name in ("hate", "offensive", "neither")}, **more}


SAMPLE = entry(path="data/sample/tweets.csv")


def test_data_dir_is_searched_first(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(tmp_path / "mine" / "own.csv", ROWS)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "mine"))
    set_sources(checkout, own=entry(path="own.csv"), sample=SAMPLE)
    ingest("full", load_sources())
    assert {path.name for path in Path("data/raw").iterdir()} == {"own.csv", "sample.csv"}
    assert load_profile().model_dump() == {"profile": "full", "data": "sources", "missing": []}


@pytest.mark.parametrize("name", ["REVIEW.CSV", "review.tsv", "Review.NDJSON", "review.jsonl"])
def test_the_case_and_kind_of_a_suffix_do_not_matter(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    separator = "\t" if name.endswith(".tsv") else ","
    content = "".join(f"{a}{separator}{b}\n" for a, b in [("text", "label"), *ROWS])
    if name.lower().endswith(("jsonl", "ndjson")):
        content = "".join(f'{{"text": "{a}", "label": "{b}"}}\n' for a, b in ROWS)
    (tmp_path / name).write_text(content)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    set_sources(checkout, own=entry(path=name))
    ingest("full", load_sources())
    assert read_source("own", load_sources()["own"])["text"].tolist() == [text for text, _ in ROWS]


@pytest.mark.parametrize("name", ["own.xlsx", "own.csv.gz", "own.json", "own"])
def test_another_kind_of_file_says_what_to_do(checkout: Path, name: str) -> None:
    set_sources(checkout, own=entry(path=name))
    with pytest.raises(DataError, match=r"path: got .*, wanted .csv, .*save a spreadsheet as CSV"):
        ingest("full", load_sources())


def test_a_removed_source_leaves_data_raw(checkout: Path) -> None:
    Path("data/raw").mkdir()
    Path("data/raw/old.csv").write_text("text,label\n")
    set_sources(checkout, sample=SAMPLE)
    ingest("full", load_sources())
    assert raw_files("old") is None


def test_without_data_and_hub_the_sample_is_used(
    checkout: Path, no_hub: None, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest("full", load_sources())
    assert (load_profile().profile, load_profile().data) == ("sample", "sample")
    bundled = {n for n, s in load_sources().items() if (s.path or "").startswith("data/sample/")}
    assert load_profile().missing == [name for name in load_sources() if name not in bundled]
    assert "Only the bundled sample was found" in capsys.readouterr().err
    assert {path.stem for path in Path("data/raw").iterdir()} == bundled


def test_a_folder_without_the_reference_is_an_error(
    checkout: Path, tmp_path: Path, no_hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"davidson: davidson/labeled_data\.csv not found"):
        ingest("full", load_sources())
    assert not Path("data/profile.yaml").exists()


def test_a_missing_source_is_named_and_the_rest_goes_on(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_csv(tmp_path / "own.csv", ROWS)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    set_sources(checkout, own=entry(path="own.csv"), other=entry(path="other.csv"))
    ingest("full", load_sources())
    assert load_profile().missing == ["other"]
    assert "not used: other: other.csv not found" in capsys.readouterr().err


def test_the_reference_must_be_there(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(tmp_path / "own.csv", ROWS)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    set_sources(checkout, first=entry(path="first.csv"), own=entry(path="own.csv"))
    with pytest.raises(DataError, match=r"first: first\.csv not found \(looked in "):
        ingest("full", load_sources())
    assert not Path("data/profile.yaml").exists()


def test_data_dir_must_be_a_folder(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", "/nowhere")
    with pytest.raises(DataError, match="DATA_DIR: got '/nowhere'"):
        ingest("full", load_sources())


def test_a_text_file_needs_its_label_file(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.txt").write_text("a\n")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    set_sources(checkout, lines=entry(path="t.txt", label_path="y.txt"))
    with pytest.raises(DataError, match=r"y\.txt: missing"):
        ingest("full", load_sources())


def ingest_apart(cache: Path) -> subprocess.CompletedProcess[str]:
    """Run `ingest` in a process of its own: `datasets` reads its cache's place when imported."""
    code = "from training.data import ingest; ingest.ingest('full', ingest.load_sources())"
    environment = os.environ | {"HF_HOME": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True
    )


def test_a_local_folder_with_a_hub_layout_is_read(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    pd.DataFrame(ROWS, columns=["text", "gold"]).to_parquet(folder / "train-00000-of-00001.parquet")
    hub = {"name": str(folder), "split": "train", "columns": {"gold": "label"}}
    set_sources(checkout, hubbed=entry(hub=hub))
    assert ingest_apart(tmp_path / "cache").returncode == 0
    frame = pd.read_parquet("data/raw/hubbed.parquet")
    assert frame["label"].tolist() == [label for _, label in ROWS]

    set_sources(checkout, hubbed=entry(hub=hub | {"columns": {"nosuch": "label"}}))
    assert "got columns text, gold; wanted 'nosuch'" in ingest_apart(tmp_path / "cache").stderr


def test_a_missing_hub_split_is_reported(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pd.DataFrame(ROWS, columns=["text", "label"]).to_parquet(tmp_path / "train.parquet")
    set_sources(checkout, hubbed=entry(hub={"name": str(tmp_path), "split": "nosuch"}))
    with pytest.raises(DataError, match=r"hubbed: hub: .*nosuch"):
        ingest("full", load_sources())
