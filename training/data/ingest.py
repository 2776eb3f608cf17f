"""Before the pipeline: copy each source's file to data/raw/ and choose the profile.

    $DATA_DIR, else ../shared/data; this checkout; the Hub -> data/raw/, data/profile.yaml

`make train` runs it first, so that the first stage depends on files that exist. A source is looked
for in that order. If nothing but the bundled sample (data/sample/) is there, the profile becomes
`sample`.
"""

import argparse
import filecmp
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

from training.config import PROFILE, Hub, Source, load_sources
from training.errors import DataError, run_stage
from training.files import atomic_write
from training.paths import MODELS, RAW, REFERENCE

SAMPLE = "sample"
BUNDLED = "data/sample/"
HUB_TIMEOUT_S = 10
SUFFIXES = (".csv", ".parquet", ".jsonl", ".txt")
# `promote` stores there the training data of the model in production, for `validate` to compare.
PRODUCTION_REFERENCE = MODELS / "production" / "reference.parquet"
BANNER = """\
================================================================================
 Only the bundled sample was found: texts written for this project.
 The model will work, but it is a demonstration: it cannot be promoted.
 For real data set DATA_DIR, or give this machine access to the Hugging Face Hub.
================================================================================"""


class RawFiles(NamedTuple):
    """A source's files in data/raw/."""

    text: Path
    labels: Path | None


def raw_files(name: str) -> RawFiles | None:
    """Return a source's files in data/raw/, or None if there are none."""
    labels = RAW / f"{name}.labels"
    for suffix in SUFFIXES:
        if (RAW / f"{name}{suffix}").is_file():
            return RawFiles(RAW / f"{name}{suffix}", labels if labels.is_file() else None)
    return None


def ingest(profile: str, sources: dict[str, Source]) -> None:
    """Fill data/raw/ and write data/profile.yaml.

    Raises:
        DataError: a source cannot be found; the text names the first one.
    """
    folder = _data_folder()
    bundled = {
        name: source for name, source in sources.items() if (source.path or "").startswith(BUNDLED)
    }
    wanted = bundled if profile == SAMPLE and bundled else sources
    files, missing = _locate(wanted, folder)
    has_own_data = bool(set(wanted) - set(missing) - set(bundled))
    if missing and (folder or has_own_data or not bundled):
        name, reason = next(iter(missing.items()))
        place = folder or "this checkout"
        raise DataError(f"configs/sources.yaml: {name}: {reason} (looked in {place})")
    if PRODUCTION_REFERENCE.is_file():
        files[REFERENCE] = PRODUCTION_REFERENCE
    _fill_raw(files)
    data = "sources" if has_own_data else SAMPLE
    if data == SAMPLE:
        profile = SAMPLE
        print(BANNER, file=sys.stderr)
    with atomic_write(PROFILE) as scratch:
        scratch.write_text(yaml.safe_dump({"profile": profile, "data": data}), encoding="utf-8")
    print(f"profile {profile}; data/raw has {', '.join(sorted(set(wanted) - set(missing)))}")


def _locate(
    sources: dict[str, Source], folder: Path | None
) -> tuple[dict[Path, Path], dict[str, str]]:
    """Return where each file of data/raw/ is now, and why which source is missing."""
    files: dict[Path, Path] = {}
    missing: dict[str, str] = {}
    hub_error = ""
    for name, source in sources.items():
        located = _local(name, source, folder)
        # Asked once: a machine that cannot reach the Hub waits ten seconds, not fifty.
        if not located and source.hub and not hub_error:
            try:
                from_hub = _download(name, source.hub)
                located = {from_hub: from_hub}
            except ConnectionError as error:
                hub_error = f", and the Hub does not answer ({error})"
        files |= located
        if not located:
            missing[name] = f"{source.path or source.hub} not found{hub_error}"
    return files, missing


def _data_folder() -> Path | None:
    if named := os.environ.get("DATA_DIR"):
        if not Path(named).is_dir():
            raise DataError(f"DATA_DIR: got {named!r}, wanted a folder")
        return Path(named)
    shared = Path("../shared/data")
    return shared if shared.is_dir() else None


def _local(name: str, source: Source, folder: Path | None) -> dict[Path, Path]:
    if source.path is None:
        return {}
    suffix = Path(source.path).suffix
    if suffix not in SUFFIXES:
        wanted = ", ".join(SUFFIXES)
        raise DataError(f"configs/sources.yaml: {name}: path: got {source.path!r}, wanted {wanted}")
    if (suffix == ".txt") != (source.label_path is not None):
        raise DataError(
            f"configs/sources.yaml: {name}: label_path: a .txt source needs it, others must not "
            "have it"
        )
    for root in filter(None, (folder, Path())):
        if (root / source.path).is_file():
            files = {RAW / f"{name}{suffix}": root / source.path}
            if source.label_path:
                if not (root / source.label_path).is_file():
                    raise DataError(f"{root / source.label_path}: missing; {name} needs its labels")
                files[RAW / f"{name}.labels"] = root / source.label_path
            return files
    return {}


def _download(name: str, hub: Hub) -> Path:
    """Write a Hub split to data/raw/ as Parquet; ConnectionError if the Hub does not answer."""
    from datasets import disable_progress_bars, load_dataset
    from huggingface_hub import HfApi

    if not Path(hub.name).is_dir():
        try:
            HfApi().dataset_info(hub.name, timeout=HUB_TIMEOUT_S)
        except Exception as error:
            # Whatever the transport raised: the dataset is not available here.
            raise ConnectionError(type(error).__name__) from None
    disable_progress_bars()
    with atomic_write(RAW / f"{name}.parquet") as scratch:
        try:
            load_dataset(hub.name, hub.config, split=hub.split).to_parquet(scratch)
        except (OSError, ValueError) as error:
            problem = " ".join(str(error).split())
            raise DataError(f"configs/sources.yaml: {name}: hub: {problem}") from None
    return RAW / f"{name}.parquet"


def _fill_raw(files: dict[Path, Path]) -> None:
    """Copy files, by their place in data/raw/, and remove all others there."""
    for target, origin in files.items():
        # An equal file is left alone: DVC then need not hash it again.
        if origin == target or (target.is_file() and filecmp.cmp(origin, target, shallow=False)):
            continue
        with atomic_write(target) as scratch:
            shutil.copyfile(origin, scratch)
    for path in RAW.glob("*"):
        if path not in files:
            path.unlink()


def main() -> None:
    """Read the profile from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=["full", "quick", "sample"], default="full")
    ingest(parser.parse_args().profile, load_sources())


if __name__ == "__main__":
    run_stage(main)
