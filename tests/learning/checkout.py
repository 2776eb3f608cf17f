"""A copy of this checkout with a data set, sources and gates of its own, and commands in it.

Nothing of the user's `data/`, `models/` or `mlflow.db` is read or changed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from serving.settings import PREFIX
from tests.conftest import TINY_PARAMS, set_params, tiny_base
from tests.learning.texts import KNOWN_INSULTS, MORE_NOUNS, NEW, NOUNS, TRAFFIC, Writer
from tests.support.service import ROOT, without_settings

CODE = ("training", "serving", "requirements", "configs")
FILES = (".dvcignore", "dvc.yaml", "data/benchmarks.sha256", "data/sample/tweets.csv")
LABELS = {label: [label] for label in ("hate", "offensive", "neither")}
ATTRIBUTES = ("SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT")
OWN = {"labels": LABELS, "attributes": {name: name for name in ATTRIBUTES}}
# A team's own data, which the test writes: the project's sample and sentences of its own. Of the
# bundled sample alone a model can be served, but never promoted.
SOURCES = {
    "own": {"path": "own/comments.csv", **OWN},
    "pairs": {"path": "own/pairs.csv", "use": "train", "twins": True, "max_rows": 300, **OWN},
    "reviewed": {"kind": "log", "uri": "${MONGODB_URI}"},
}
PARAMS = TINY_PARAMS | {"prepare": {"val_fraction": 0.2, "test_fraction": 0.2}}
TRAIN = TINY_PARAMS["train"] | {"epochs": 6, "checkpoint_steps": 500}
CASES = 60  # of each capability
OWN_SENTENCES = {"offensive": 120, "neither": 250}  # of each set of frames
# Of the project's gates, those that hold for every model stay. Floors are for a model of one layer
# that learned from 1,000 rows; one of 120 test rows is 0.8 points.
GATES: dict[str, Any] = {
    "floors": {
        "sources.own.rows": 100,
        "sources.own.macro_f1": 0.5,
        "sources.own.classes.*.recall": 0.3,
        "behaviour.all": 0.6,
        "int8_against_fp32.macro_f1_difference": -0.1,
    },
    "ceilings": {
        "sources.own.ece": 0.3,
        "int8_against_fp32.label_change_share": 0.15,
        "batch_invariance.label_changes": 0,
        "batch_invariance.max_abs_difference": 0.001,
        "megabytes": 26,
    },
    "max_macro_f1_drop": 0.1,
    "max_roc_auc_drop": 0.1,
    "max_drop": {"behaviour.all": 0.1},
    "max_rise": {"sources.own.ece": 0.15},
    "max_ratio": {"milliseconds_a_text.int8.p95": 5.0, "megabytes": 1.25},
}
COMMAND_SECONDS = 900
SPLITS = ("train", "val", "test", "external")


class Checkout:
    """The copy. `settings` are those of the service, without prefix; commands get them too."""

    def __init__(self, folder: Path, settings: dict[str, str], writer: Writer) -> None:
        self.folder = folder / "checkout"
        self.production = self.folder / "models" / "production"
        self.drift_report = Path(settings["DRIFT_REPORT"])
        self._settings = settings
        _copy(self.folder)
        base = tiny_base(folder / "base")
        set_params(self.folder, PARAMS | {"train": TRAIN | {"base": str(base)}})
        _write_data(self.folder / "own", writer)
        _write_configs(self.folder / "configs", writer)

    def python(self, *arguments: str, mongodb: str = "") -> subprocess.CompletedProcess[str]:
        """Run a module in the copy; its output goes to a file and into the result."""
        settings = self._settings | {"BUNDLE": str(self.production)}
        environment = without_settings() | {PREFIX + name: v for name, v in settings.items()}
        for name in ("DATA_DIR", "MLFLOW_TRACKING_URI"):
            environment.pop(name, None)
        environment["MONGODB_URI"] = environment["TAGGER_MONGODB_URI"] = (
            mongodb or settings["MONGODB_URI"]
        )
        # `dvc` is a module of the environment that runs this test; its stages call `python`.
        environment["PATH"] = os.pathsep.join(
            [str(Path(sys.executable).parent), environment["PATH"]]
        )
        ended = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
        with (self.folder / "commands.log").open("a") as log:
            log.write(f"$ python -m {' '.join(arguments)}\n{ended.stdout}\n")
        return ended

    def must(self, *arguments: str, mongodb: str = "") -> str:
        """Run a module that must succeed; return its output."""
        ended = self.python(*arguments, mongodb=mongodb)
        assert ended.returncode == 0, f"{' '.join(arguments)}:\n{ended.stdout[-800:]}"
        return ended.stdout

    def prepared(self) -> dict[str, str]:
        """Return the digest of each split."""
        files = {split: self.folder / f"data/processed/{split}.parquet" for split in SPLITS}
        return {
            split: hashlib.sha256(path.read_bytes()).hexdigest() for split, path in files.items()
        }


def _copy(folder: Path) -> None:
    for name in CODE:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    config = (ROOT / ".dvc/config").read_text()
    (folder / ".dvc/config").write_text(config + "    no_scm = true\n")


def _write_data(folder: Path, writer: Writer) -> None:
    """Write the data set: the sample, and sentences like those of the traffic.

    The sentences have insults that are known, or ordinary nouns, in both sets of frames.
    """
    folder.mkdir()
    shutil.copy(ROOT / "data/sample/contrast.csv", folder / "pairs.csv")
    sample = pd.read_csv(ROOT / "data/sample/tweets.csv")
    nouns = {"offensive": KNOWN_INSULTS, "neither": NOUNS + MORE_NOUNS}
    written = [
        {"text": text, "label": label}
        for label, number in OWN_SENTENCES.items()
        for frames in (TRAFFIC, NEW)
        for text in writer.write(number, nouns[label], frames)
    ]
    pd.concat([sample, pd.DataFrame(written)]).to_csv(folder / "comments.csv", index=False)


def _write_configs(folder: Path, writer: Writer) -> None:
    """Write sources.yaml, gates.yaml and behaviour.yaml."""
    gates = yaml.safe_load((folder / "gates.yaml").read_text()) | GATES
    contents = {"sources": SOURCES, "gates": gates, "behaviour": _suite(writer)}
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def _suite(writer: Writer) -> dict[str, Any]:
    """Return a behavioural suite of what the data set teaches."""
    cases = {
        "known insults": (["hate", "offensive"], 0.5, writer.write(CASES, KNOWN_INSULTS, NEW)),
        "ordinary words": (["neither"], 0.7, writer.write(CASES, NOUNS, NEW)),
        "other words": (["neither"], 0.6, writer.write(CASES, MORE_NOUNS, NEW)),
    }
    capabilities: list[dict[str, Any]] = [
        {"name": name, "description": name, "expect": expect, "floor": floor, "cases": texts}
        for name, (expect, floor, texts) in cases.items()
    ]
    # The suite's figures of groups need a template; so few rows teach nothing about groups.
    praise = {"name": "praise", "description": "kind words", "expect": ["neither", "offensive"]}
    capabilities.append(praise | {"floor": 0.0, "templates": ["I met some {group} on the train"]})
    return {"groups": {"group": ["women", "Jews", "immigrants"]}, "capabilities": capabilities}
