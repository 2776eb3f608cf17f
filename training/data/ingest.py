"""Before the pipeline: copy each source's file to data/raw/ and choose the profile.

    $DATA_DIR, else ../shared/data; this checkout; a public file; the Hub; a prediction log
        -> data/raw/, data/profile.yaml

`make train` runs it first, so that the first stage depends on files that exist. A source is looked
for in that order. One that is not there, or whose host does not answer, is named, and the others
are used; only the reference, the first source with `use: split`, must be there. A host that answers
with an error (not allowed, too many requests, broken) is no such case: the run stops. If nothing
but the bundled sample (data/sample/) is there, the profile becomes `sample`. A prediction log
(`kind: log`) is used in every profile, and one that cannot be read stops the run.

A public file is checked against its SHA-256 and kept in the user's cache folder.
"""

import argparse
import filecmp
import os
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pandas as pd
import yaml

from training.config import PROFILE, Hub, Public, Source, load_sources
from training.data.log_source import log_files, write_log
from training.errors import DataError, run_stage
from training.files import atomic_write
from training.frames import SUFFIXES, file_suffix, read_frame, read_text_lines
from training.paths import MODELS, RAW, REFERENCE

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

SAMPLE = "sample"
BUNDLED = "data/sample/"
HUB = "huggingface.co"
# The host knows that there is no such file; every other error may be another one tomorrow.
NOT_THERE = {404, 410}
BAD_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"
CERTIFICATE_ADVICE = (
    "its certificate is not trusted; behind a proxy that ends TLS set SSL_CERT_FILE and "
    "REQUESTS_CA_BUNDLE to the proxy's certificate"
)
TIMEOUT_S = 10  # without an answer
# For each of a host's addresses, of which GitHub has four.
CONNECT_TIMEOUT_S = 2.5
# `promote` stores there the training data of the model in production, for `validate` to compare.
PRODUCTION_REFERENCE = MODELS / "production" / "reference.parquet"
BANNER = """\
================================================================================
 Only the bundled sample was found: texts written for this project.
 The model will work, but it is a demonstration: it cannot be promoted.
 For real data set DATA_DIR, or give this machine access to the Hugging Face Hub.
================================================================================"""


class _FailedError(Exception):
    """A source's host answers, but not with the source; the text says what it answers."""


class RawFiles(NamedTuple):
    """A source's files in data/raw/."""

    text: Path
    labels: Path | None


def raw_files(name: str) -> RawFiles | None:
    """Return a source's files in data/raw/, or None if there are none."""
    labels = RAW / f"{name}.labels"
    for suffix in SUFFIXES.values():
        if (RAW / f"{name}{suffix}").is_file():
            return RawFiles(RAW / f"{name}{suffix}", labels if labels.is_file() else None)
    return None


def ingest(profile: str, sources: dict[str, Source]) -> None:
    """Fill data/raw/ and write data/profile.yaml.

    Raises:
        DataError: the reference source cannot be had, a source's host answers with an error, a log
            cannot be read, or a source's file is not what sources.yaml says.
    """
    folder = _data_folder()
    bundled = {
        name: source for name, source in sources.items() if (source.path or "").startswith(BUNDLED)
    }
    logs = {name: source for name, source in sources.items() if source.kind == "log"}
    wanted = bundled | logs if profile == SAMPLE and bundled else sources
    files, missing = _locate(wanted, folder)
    used = [name for name in wanted if name not in missing]
    # What people say of some texts of the traffic makes no corpus of the sample.
    has_own_data = bool(set(used) - set(bundled) - set(logs))
    if has_own_data:
        reference = next(name for name, source in sources.items() if source.use == "split")
        needed = [name for name in missing if name == reference]
    else:
        # Only a machine without any data folder falls back on the sample.
        needed = list(missing) if folder or not set(used) - set(logs) else []
    if needed:
        place, reason = folder or "this checkout", missing[needed[0]]
        raise DataError(f"configs/sources.yaml: {needed[0]}: {reason} (looked in {place})")
    if PRODUCTION_REFERENCE.is_file():
        files[REFERENCE] = PRODUCTION_REFERENCE
    _fill_raw(files)
    data = "sources" if has_own_data else SAMPLE
    if data == SAMPLE:
        profile = SAMPLE
        print(BANNER, file=sys.stderr)
    for name, reason in missing.items():
        print(f"not used: {name}: {reason}", file=sys.stderr)
    left_out = [name for name in sources if name not in used]
    content = {"profile": profile, "data": data, "missing": left_out}
    with atomic_write(PROFILE) as scratch:
        scratch.write_text(yaml.safe_dump(content), encoding="utf-8")
    print(f"profile {profile}; data/raw has {', '.join(sorted(used))}")


def _locate(
    sources: dict[str, Source], folder: Path | None
) -> tuple[dict[Path, Path], dict[str, str]]:
    """Return where each file of data/raw/ is now, and why which source is missing."""
    files: dict[Path, Path] = {}
    missing: dict[str, str] = {}
    # A host is asked once: a machine without internet waits ten seconds, not ten for each source.
    silent: dict[str, str] = {}
    for name, source in sources.items():
        if source.kind == "log":
            write_log(name, source)
            files |= {path: path for path in log_files(name)}
            continue
        located = _local(name, source, folder)
        reasons = [f"{source.path} not found"] if source.path else []
        failures = []
        for host, download in [] if located else _downloads(name, source):
            try:
                if host not in silent:
                    located = download()
                    break
            except FileNotFoundError as error:
                reasons.append(str(error))
            except _FailedError as error:
                failures.append(str(error))
            except ConnectionError as error:
                silent[host] = f"{host} does not answer ({error})"
            if host in silent:
                reasons.append(silent[host])
        files |= located
        if failures and not located:
            raise DataError(
                f"configs/sources.yaml: {name}: {'; '.join(failures)}; remove the source if it "
                f"shall not be used (PROFILE={SAMPLE} uses the bundled sample)"
            )
        if not located:
            missing[name] = ", ".join(reasons)
    return files, missing


def _downloads(name: str, source: Source) -> list[tuple[str, Callable[[], dict[Path, Path]]]]:
    """Return the hosts that have a source, and how to get it from each."""
    downloads: list[tuple[str, Callable[[], dict[Path, Path]]]] = []
    if source.public:
        host = urlsplit(source.public.url).netloc
        downloads.append((host, partial(_from_public, name, source.public, source.label)))
    if source.hub:
        host = source.hub.name if Path(source.hub.name).is_dir() else HUB
        downloads.append((host, partial(_from_hub, name, source.hub)))
    return downloads


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
    suffix = file_suffix(source.path)
    if suffix is None:
        wanted = ", ".join(SUFFIXES)
        raise DataError(
            f"configs/sources.yaml: {name}: path: got {source.path!r}, wanted {wanted}; in Excel "
            "save a spreadsheet as CSV UTF-8, and unpack a compressed file"
        )
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


def _from_public(name: str, public: Public, label: str) -> dict[Path, Path]:
    """Return where the files for data/raw/ are; `_fetch` has the errors."""
    where = f"configs/sources.yaml: {name}: public: "
    text = _fetch(public.url, public.sha256, where)
    labels = None
    if public.label_url and public.label_sha256:
        labels = _fetch(public.label_url, public.label_sha256, where)
    if public.suffix == ".txt" and labels:
        return {RAW / f"{name}.txt": text, RAW / f"{name}.labels": labels}
    if not (labels or public.header or public.columns or public.separator):
        return {RAW / f"{name}{public.suffix}": text}
    frame = _with_our_columns(text, labels, public, label)
    with atomic_write(RAW / f"{name}.parquet") as scratch:
        frame.to_parquet(scratch, index=False)
    return {RAW / f"{name}.parquet": RAW / f"{name}.parquet"}


def _fetch(url: str, sha256: str, where: str) -> Path:
    """Return a file from the user's cache, downloaded if it is not there.

    Nothing reaches the cache that was cut off or has another SHA-256.

    Raises:
        ConnectionError: the host does not answer.
        FileNotFoundError: the host does not have the file.
        _FailedError: the host answers with another error, or sent only a part of the file.
        DataError: the file has another SHA-256.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(timeout=(CONNECT_TIMEOUT_S, TIMEOUT_S))
    cache = pooch.os_cache("tweet-tagger")
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", path=cache, downloader=downloader))
    except requests.HTTPError as error:
        status = error.response.status_code
        kind = FileNotFoundError if status in NOT_THERE else _FailedError
        raise kind(f"{url}: HTTP {status}") from None
    except requests.exceptions.ChunkedEncodingError:
        raise _FailedError(f"{url}: cut off while it was downloaded") from None
    except requests.RequestException as error:
        if BAD_CERTIFICATE in str(error):
            raise _FailedError(f"{url}: {CERTIFICATE_ADVICE}") from None
        raise ConnectionError(type(error).__name__) from None
    except ValueError as error:
        # pooch's text ends with both digests.
        got = re.findall(r"[0-9a-f]{64}", str(error))[-1]
        raise DataError(f"{where}{url}: got SHA-256 {got}, wanted {sha256}") from None


def _with_our_columns(
    path: Path, label_path: Path | None, public: Public, label: str
) -> pd.DataFrame:
    """Return a public file's rows, its labels beside them, with the columns renamed."""
    frame = read_frame(path, separator=public.separator, header=public.header)
    if label_path:
        labels = read_text_lines(label_path)
        if len(labels) != len(frame):
            raise DataError(
                f"{public.label_url}: got {len(labels)} labels, wanted {len(frame)}, one for each "
                f"row of {public.url}"
            )
        frame[label] = labels
    _check_columns(public.url, public.columns, frame.columns.tolist())
    return frame.rename(columns=public.columns)


def _check_columns(where: str, renamed: dict[str, str], columns: list[str]) -> None:
    for column in renamed:
        if column not in columns:
            raise DataError(f"{where}: got columns {', '.join(columns)}; wanted {column!r}")


def _from_hub(name: str, hub: Hub) -> dict[Path, Path]:
    """Write a Hub split to data/raw/ as Parquet.

    Raises:
        ConnectionError: the Hub does not answer.
        FileNotFoundError: the dataset is gone.
        _FailedError: the Hub answers with an error, as it does for a private or gated dataset,
            or the dataset cannot be loaded.
        DataError: the dataset has no such config, split or column.
    """
    from datasets import disable_progress_bars, load_dataset
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not Path(hub.name).is_dir():
        try:
            HfApi().dataset_info(hub.name, revision=hub.revision, timeout=TIMEOUT_S)
        except HfHubHTTPError as error:
            raise _hub_error(hub.name, error) from None
        except HFValidationError as error:
            raise DataError(f"configs/sources.yaml: {name}: hub: {error}") from None
        except Exception as error:
            if BAD_CERTIFICATE in str(error):
                raise _FailedError(f"{HUB}: {CERTIFICATE_ADVICE}") from None
            # Whatever the transport raised: the Hub is not available here.
            raise ConnectionError(type(error).__name__) from None
    disable_progress_bars()
    target = RAW / f"{name}.parquet"
    with atomic_write(target) as scratch:
        try:
            dataset = load_dataset(hub.name, hub.config, split=hub.split, revision=hub.revision)
        except (OSError, RuntimeError, ValueError) as error:
            problem = " ".join(str(error).split())
            if isinstance(cause := error.__cause__ or error, HfHubHTTPError):
                raise _hub_error(hub.name, cause) from None
            if isinstance(error, ConnectionError | TimeoutError):
                raise ConnectionError(type(error).__name__) from None
            if not isinstance(error, ValueError):
                raise _FailedError(f"{hub.name} on the Hub: {problem}") from None
            raise DataError(f"configs/sources.yaml: {name}: hub: {problem}") from None
        _check_columns(f"{hub.name} on the Hub", hub.columns, dataset.column_names)
        dataset.rename_columns(hub.columns).to_parquet(scratch)
    return {target: target}


def _hub_error(name: str, error: "HfHubHTTPError") -> Exception:
    """Return the error for an answer of the Hub: what is not there, or what an operator must do."""

    status = error.response.status_code
    message = f"{name} on the Hub: HTTP {status}"
    if status in {401, 403}:
        token = (
            "with the HF_TOKEN that is set" if os.environ.get("HF_TOKEN") else "no HF_TOKEN is set"
        )
        message += (
            f" ({token}): the dataset is private, gated or not there; set HF_TOKEN to a token that "
            f"may read it, and accept its terms on https://{HUB}/datasets/{name}"
        )
    return FileNotFoundError(message) if status in NOT_THERE else _FailedError(message)


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
