"""The cache: every bundle that was fetched, and which one to serve when its source is gone.

    cache/<address>/<revision>/   a bundle; it appears in one rename, once it is verified
    cache/<address>/current       link to the one that was loaded last

Several workers may share a cache.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from serving.bundle import BundleError, read_manifest, read_sealed
from serving.remote_bundle.files import FetchError, Files, HttpFiles, ObjectStore, shown
from serving.remote_bundle.sources import Archive, MlflowModel, Source
from serving.settings import Settings, SettingsError, variable

CURRENT, SCRATCH = "current", ".scratch-"
KEPT = 3  # bundles of an address: a rollback need not fetch again
FIRST_RETRY_S, LAST_RETRY_S = 2.0, 60.0  # after a bundle that could not be fetched
ABANDONED_S = 3600.0  # age of a scratch folder whose process was killed

log = logging.getLogger("serving.model")


class RemoteBundle:
    """Fetches the bundles of an address into the cache."""

    def __init__(self, address: str, source: Source, files: Files, cache: Path) -> None:
        """Take what the address names, and the folder for its bundles."""
        self._shown, self._source, self._files = shown(address), source, files
        self._cache = cache
        self._seen: str | None = None  # the revision that was fetched, or refused, last
        self._failures, self._next_try = 0, 0.0
        self.is_reachable = True  # the source, when it was asked last

    def newest(self) -> Path:
        """Return the folder of the bundle that the source has now.

        Raises:
            FetchError: it cannot be fetched now.
            BundleError: it is altered or incomplete.
        """
        revision = self._source.revision()
        folder = self._cache / _key(revision)
        try:
            if not _is_intact(folder):
                self._fetch(revision, folder)
        except FetchError:
            wait = min(LAST_RETRY_S, FIRST_RETRY_S * 2**self._failures)
            self._failures, self._next_try = self._failures + 1, time.monotonic() + wait
            raise
        except BundleError:
            self._seen = revision  # another try would find the same
            raise
        self._seen, self._failures = revision, 0
        return folder

    def newest_or_cached(self) -> Path:
        """Return the same, or if it cannot be had the bundle that was loaded last.

        Raises:
            BundleError: there is neither.
        """
        try:
            return self.newest()
        except BundleError as error:
            folder = (self._cache / CURRENT).resolve()
            if not _is_intact(folder):
                raise
            self.is_reachable = not isinstance(error, FetchError)
            version = read_manifest(folder).version
            log.warning("%s; model %s is served from the cache", error, version)
            return folder

    def has_changed(self) -> bool:
        """Return whether the source has another bundle; log when it goes and comes back."""
        if time.monotonic() < self._next_try:
            return False
        try:
            revision = self._source.revision()
        except BundleError as error:
            if self.is_reachable:
                log.warning("%s; the model that is loaded stays active", error)
            self.is_reachable = False
            return False
        if not self.is_reachable:
            log.info("%s is reachable again", self._shown)
        self.is_reachable = True
        return revision != self._seen

    def keep(self, folder: Path) -> None:
        """Make a bundle that has been loaded the one to serve when the source is gone."""
        scratch = self._cache / f"{SCRATCH}{os.getpid()}"
        try:
            os.utime(folder)
            scratch.unlink(missing_ok=True)
            scratch.symlink_to(folder.name)
            scratch.replace(self._cache / CURRENT)
            self._prune(folder)
        except OSError as error:
            log.warning("%s: %s; after a restart an older model may be served", self._cache, error)

    def close(self) -> None:
        """End a download that another thread waits for."""
        self._files.close()

    def _fetch(self, revision: str, folder: Path) -> None:
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=self._cache))
        except OSError as error:
            raise FetchError(f"{self._cache}: {error.strerror}") from None
        try:
            self._source.download(revision, scratch)
            verify(scratch, self._shown)
            if not _is_intact(folder):  # another worker may have been faster, and loads it now
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):
                    scratch.rename(folder)
            if not _is_intact(folder):
                raise FetchError(f"{folder}: it changed while it was fetched")
            log.info("fetched model %s from %s", read_manifest(folder).version, self._shown)
        except OSError as error:
            raise FetchError(f"{self._cache}: {error.strerror}") from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _prune(self, current: Path) -> None:
        """Remove the bundles before the last ones, and what killed processes left."""
        ages = {path: path.lstat().st_mtime for path in self._cache.iterdir()}
        scratch = {path for path in ages if path.name.startswith(SCRATCH)}
        bundles = ages.keys() - scratch - {self._cache / CURRENT, current}
        newest_first = sorted(bundles, key=lambda path: -ages[path])
        abandoned = (path for path in scratch if time.time() - ages[path] > ABANDONED_S)
        for path in (*newest_first[KEPT - 1 :], *abandoned):
            shutil.rmtree(path, ignore_errors=True)


def remote_bundle(settings: Settings) -> RemoteBundle | None:
    """Return the bundle that is elsewhere; None if the settings name a folder or nothing.

    Raises:
        SettingsError: a package or MLflow's address is missing.
    """
    address = settings.bundle
    if not isinstance(address, str):
        return None
    source: Source
    key = shown(address)  # a signature in it may change
    if address.startswith("models:"):
        files: Files = _mlflow_files(settings)
        server = _mlflow_server(settings)
        source, key = MlflowModel(address, server, files), f"{shown(server)} {key}"
    else:
        files = HttpFiles() if address.startswith("http") else ObjectStore()
        source = Archive(address, files)
    cache = settings.bundle_cache or settings.outbox.parent / "bundles"
    return RemoteBundle(address, source, files, cache.absolute() / _key(key))


def verify(folder: Path, name: str) -> None:
    """Raise BundleError, which has `name`, unless files have the digests of their manifest."""
    try:
        read_sealed(folder, read_manifest(folder))
    except BundleError as error:
        raise BundleError(str(error).replace(str(folder), name, 1)) from None


def _is_intact(folder: Path) -> bool:
    try:
        verify(folder, str(folder))
    except (BundleError, OSError):
        return False
    return True


def _mlflow_files(settings: Settings) -> HttpFiles:
    """Return a client with the credentials that MLflow's own client would take."""
    password, token = settings.mlflow_tracking_password, settings.mlflow_tracking_token
    if settings.mlflow_tracking_username and password:
        return HttpFiles((settings.mlflow_tracking_username, password.get_secret_value()))
    return HttpFiles(token=token.get_secret_value() if token else None)


def _mlflow_server(settings: Settings) -> str:
    uri = settings.mlflow_tracking_uri
    if uri is not None and uri.get_secret_value().startswith(("https://", "http://")):
        return uri.get_secret_value()
    got = f"{shown(uri.get_secret_value()).partition(':')[0]}:…" if uri else "nothing"
    raise SettingsError(
        f"{variable('mlflow_tracking_uri')}: got {got}, wanted https://… or http://…: "
        f"{variable('bundle')} names a model of an MLflow server"
    )


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
