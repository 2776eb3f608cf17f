"""What a bundle is fetched from: a registered model of MLflow, or an archive."""

import hashlib
import json
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from typing import IO, Protocol
from urllib.parse import urlsplit, urlunsplit

import yaml

from serving.bundle import MANIFEST, SEALED, BundleError
from serving.remote_bundle.files import FetchError, Files, MissingFileError, bounded, shown

# A bundle may lack them.
DOCUMENTS = ("MODEL_CARD.md", "metrics.json", "drift_reference.json")
WANTED = (*SEALED, *DOCUMENTS, MANIFEST)
MAX_BYTES = 10**9  # of a file, and of what an archive unpacks to
MAX_REPLY_BYTES = 10**6  # of a file that only describes another
SHA256_LINE = re.compile(r"([0-9a-fA-F]{64})(\s|$)")


class Source(Protocol):
    """What bundles are fetched from."""

    def revision(self) -> str:
        """Return what tells the bundle that is there now from others; FetchError."""
        ...

    def download(self, revision: str, folder: Path) -> None:
        """Write the files of a bundle to a folder.

        Raises:
            FetchError: they cannot be had now.
            BundleError: they never will be.
        """
        ...


class MlflowModel:
    """A version of a registered model, as `training.release.register` writes it.

    MLflow's server reads its artifact store itself (`model-versions/get-artifact`), so that the
    service needs neither credentials nor a client for that store.
    """

    def __init__(self, address: str, server: str, files: Files) -> None:
        """Take an address that the settings have checked, and the URL of the server."""
        name, alias, version = address.removeprefix("models:/"), "", ""
        if "@" in name:
            name, alias = name.split("@")
        else:
            name, version = name.split("/")
        self._name, self._alias, self._version = name, alias, version
        self._server, self._files = server.rstrip("/"), files

    def revision(self) -> str:
        if self._alias:
            route, chosen = "registered-models/alias", {"alias": self._alias}
        else:
            route, chosen = "model-versions/get", {"version": self._version}
        url = f"{self._server}/api/2.0/mlflow/{route}"
        reply = self._read(url, {"name": self._name} | chosen)
        try:
            version = json.loads(reply)["model_version"]
            # Version 1 of a store that was made again has another source.
            return f"{int(version['version'])} {version['source']}"
        except (ValueError, TypeError, KeyError):
            raise FetchError(f"{shown(url)}: got a reply that is not MLflow's") from None

    def download(self, revision: str, folder: Path) -> None:
        version = {"name": self._name, "version": revision.split(maxsplit=1)[0]}
        url = f"{self._server}/model-versions/get-artifact"
        inside = self._bundle_path(url, version)
        for name in (*SEALED, MANIFEST):
            self._save(url, version | {"path": f"{inside}/{name}"}, folder / name)
        for name in DOCUMENTS:
            with suppress(MissingFileError):
                self._save(url, version | {"path": f"{inside}/{name}"}, folder / name)

    def _bundle_path(self, url: str, version: Mapping[str, str]) -> str:
        model = self._read(url, {**version, "path": "MLmodel"})
        try:
            artifacts = yaml.safe_load(model)["flavors"]["python_function"]["artifacts"]
            return str(artifacts["bundle"]["path"])
        except (yaml.YAMLError, TypeError, KeyError):
            raise BundleError(
                f"{self._name} version {version['version']}: its MLmodel names no bundle; "
                "wanted a version that `make train` registered"
            ) from None

    def _read(self, url: str, params: Mapping[str, str]) -> bytes:
        with self._files.open(url, params) as parts:
            return b"".join(bounded(parts, MAX_REPLY_BYTES, url))

    def _save(self, url: str, params: Mapping[str, str], path: Path) -> None:
        with self._files.open(url, params) as parts, path.open("wb") as file:
            file.writelines(bounded(parts, MAX_BYTES, url))


class Archive:
    """A .tar.gz or .zip with a bundle's files.

    Its digest comes from the address (`#sha256=…`), or from the file `ARCHIVE.sha256` beside it, in
    the format of sha256sum; a change of that file is a new bundle.
    """

    def __init__(self, address: str, files: Files) -> None:
        """Take an address that the settings have checked."""
        parts = urlsplit(address)
        self._url = urlunsplit(parts._replace(fragment=""))
        self._digest_url = urlunsplit(parts._replace(path=f"{parts.path}.sha256", fragment=""))
        self._digest = parts.fragment.removeprefix("sha256=").lower()
        self._files = files

    def revision(self) -> str:
        if self._digest:
            return self._digest
        with self._files.open(self._digest_url) as parts:
            text = b"".join(bounded(parts, MAX_REPLY_BYTES, self._digest_url))
        if match := SHA256_LINE.match(text.decode("utf-8", "replace")):
            return match[1].lower()
        raise FetchError(f"{shown(self._digest_url)}: wanted a SHA-256, as sha256sum prints it")

    def download(self, revision: str, folder: Path) -> None:
        path, digest = folder / "archive", hashlib.sha256()
        with self._files.open(self._url) as parts, path.open("wb") as file:
            for part in bounded(parts, MAX_BYTES, self._url):
                digest.update(part)
                file.write(part)
        if digest.hexdigest() != revision:
            # So it is too between the uploads of an archive and of its digest.
            raise FetchError(
                f"{shown(self._url)}: its SHA-256 is {digest.hexdigest()}, wanted {revision}"
            )
        unpack(path, folder, shown(self._url))
        path.unlink()


Read = Callable[[], IO[bytes] | None]


def unpack(path: Path, folder: Path, name: str) -> None:
    """Write a bundle's files in an archive, from whichever folder in it, to a folder.

    The names in an archive are only compared: no path is made of them. Links are left out. `name`
    is the archive's for errors.

    Raises:
        BundleError: it is no archive, it is too large, or it has a file twice.
    """
    try:
        for member, read in _wanted(path, name):
            with (folder / member).open("wb") as target:
                if source := read():
                    copyfileobj(source, target)
    except (BundleError, OSError):
        raise
    except Exception as error:  # of tarfile, zipfile and four ways of compression
        raise BundleError(f"{name}: it cannot be unpacked: {error}") from None


def _wanted(path: Path, name: str) -> Iterator[tuple[str, Read]]:
    size, found = 0, set[str]()
    for member, bytes_, read in _members(path):
        size += bytes_
        if size > MAX_BYTES:  # before it is unpacked, which skipping it would do too
            raise BundleError(f"{name}: it unpacks to more than {MAX_BYTES:,} bytes")
        if member in found:
            raise BundleError(f"{name}: {member} is in it twice; wanted one bundle")
        if read and member in WANTED:
            found.add(member)
            yield member, read


def _members(path: Path) -> Iterator[tuple[str, int, Read | None]]:
    """Yield name without folder, size in bytes, and how to read it; None if it is no plain file."""
    read: Read | None
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                is_file = not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)
                read = partial(archive.open, info) if is_file else None
                yield PurePosixPath(info.filename).name, info.file_size, read
    else:
        with tarfile.open(path) as tar:
            for entry in tar:
                read = partial(tar.extractfile, entry) if entry.isreg() else None
                yield PurePosixPath(entry.name).name, entry.size, read
