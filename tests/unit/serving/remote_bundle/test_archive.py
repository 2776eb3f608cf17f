"""Archives of bundles at a real HTTP server, which also plays an object store."""

import gzip
import hashlib
import io
import json
import logging
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from serving.bundle import BundleError
from serving.remote_bundle import FetchError, RemoteBundle, remote_bundle, sources
from serving.settings import Settings, SettingsError, load_settings
from tests.support.bundles import seal, version
from tests.support.service import ROOT

Files = dict[str, bytes]


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer; a range, which clients of object stores ask for, with that part."""
        if "Range" not in self.headers:
            super().do_GET()
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which its files are served."""
    folder = tmp_path / "site"
    (folder / "bucket").mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[[str], RemoteBundle]:
    def fetch(address: str) -> RemoteBundle:
        remote = remote_bundle(Settings(bundle=address, bundle_cache=tmp_path / "cache"))
        assert remote
        return remote

    return fetch


def bundle(folder: Path, text: str = "one") -> Files:
    """A bundle's files: their digests are right, and nothing in them is a model."""
    files = {"model.onnx": f"model {text}".encode(), "tokenizer.json": b"{}"}
    manifest = json.loads((ROOT / "models" / "release" / "bundle.json").read_text())
    manifest["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    folder.mkdir(exist_ok=True)
    seal(folder, manifest)
    files |= {"MODEL_CARD.md": b"# A", "drift_reference.json": b"{}"}
    return files | {"bundle.json": (folder / "bundle.json").read_bytes()}


def tar(files: Files, *links: tuple[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def zipped(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def put(path: Path, archive: bytes) -> str:
    """Write an archive and the file with its digest, which is returned."""
    path.write_bytes(archive)
    digest = hashlib.sha256(archive).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    return digest


@pytest.mark.parametrize("pack", [tar, zipped])
@pytest.mark.parametrize("inside", ["", "release/", "./a/b/"])
def test_a_bundle_is_unpacked_from_whichever_folder_of_its_archive(
    site: tuple[Path, str],
    fetch: Callable[[str], RemoteBundle],
    tmp_path: Path,
    pack: Callable[[Files], bytes],
    inside: str,
) -> None:
    files = bundle(tmp_path / "made")
    put(site[0] / "a", pack({inside + name: data for name, data in files.items()}))
    folder = fetch(f"{site[1]}/a").newest()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_new_digest_is_a_new_bundle_and_the_last_one_serves_without_the_server(
    site: tuple[Path, str],
    fetch: Callable[[str], RemoteBundle],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = f"{site[1]}/a.tar.gz"
    put(site[0] / "a.tar.gz", tar(bundle(tmp_path / "made")))
    remote = fetch(address)
    first = remote.newest()
    remote.keep(first)
    assert not remote.has_changed()
    put(site[0] / "a.tar.gz", tar(bundle(tmp_path / "made", "two")))
    assert remote.has_changed()
    second = remote.newest()
    assert version(first) != version(second)
    remote.keep(second)
    for name in ("a.tar.gz", "a.tar.gz.sha256"):
        (site[0] / name).unlink()
    with caplog.at_level(logging.INFO, "serving.model"):
        assert not remote.has_changed()
        assert not remote.has_changed()
        assert not remote.is_reachable
        assert fetch(address).newest_or_cached() == second
    stays, cached = (record.message for record in caplog.records)
    assert "the model that is loaded stays active" in stays
    assert f"model {version(second)} is served from the cache" in cached


def test_an_address_with_a_digest_asks_for_nothing_else(
    site: tuple[Path, str], fetch: Callable[[str], RemoteBundle], tmp_path: Path
) -> None:
    digest = put(site[0] / "a.zip", zipped(bundle(tmp_path / "made")))
    (site[0] / "a.zip.sha256").unlink()
    remote = fetch(f"{site[1]}/a.zip#sha256={digest.upper()}")
    folder = remote.newest()
    (site[0] / "a.zip").unlink()
    assert not remote.has_changed()
    assert fetch(f"{site[1]}/a.zip#sha256={digest}").newest_or_cached().name == folder.name


def test_a_damaged_copy_in_the_cache_is_fetched_again(
    site: tuple[Path, str], fetch: Callable[[str], RemoteBundle], tmp_path: Path
) -> None:
    files = bundle(tmp_path / "made")
    put(site[0] / "a", tar(files))
    folder = fetch(f"{site[1]}/a").newest()
    (folder / "model.onnx").write_bytes(b"half")
    assert fetch(f"{site[1]}/a").newest() == folder
    assert (folder / "model.onnx").read_bytes() == files["model.onnx"]


def test_the_last_three_bundles_are_kept(
    site: tuple[Path, str], fetch: Callable[[str], RemoteBundle], tmp_path: Path
) -> None:
    remote = fetch(f"{site[1]}/a")
    folders = []
    for text in ("one", "two", "three", "four", "five"):
        put(site[0] / "a", tar(bundle(tmp_path / "made", text)))
        folders.append(remote.newest())
        remote.keep(folders[-1])
    left = {path.name for path in folders[0].parent.iterdir()}
    assert left == {"current", *(folder.name for folder in folders[-3:])}


def test_without_a_server_and_a_cache_there_is_nothing_to_serve(
    fetch: Callable[[str], RemoteBundle],
) -> None:
    with pytest.raises(FetchError):
        fetch("http://127.0.0.1:9/a").newest_or_cached()


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"username": "me", "password": "secret", "token": "t"}, "Basic bWU6c2VjcmV0"),
        ({"token": "t"}, "Bearer t"),
        ({}, None),
    ],
)
def test_mlflows_server_gets_the_credentials_of_its_own_client(
    tmp_path: Path, given: dict[str, str], sent: str | None
) -> None:
    received: list[str | None] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append(self.headers["Authorization"])
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = Settings(
            bundle="models:/tagger/1",
            bundle_cache=tmp_path,
            mlflow_tracking_uri=f"http://127.0.0.1:{server.server_port}",
            **{f"mlflow_tracking_{name}": value for name, value in given.items()},
        )
        remote = remote_bundle(settings)
        assert remote
        with pytest.raises(FetchError):
            remote.newest()
        server.shutdown()
    assert set(received) == {sent}


def test_another_digest_than_announced_is_refused(
    site: tuple[Path, str], fetch: Callable[[str], RemoteBundle], tmp_path: Path
) -> None:
    put(site[0] / "a", tar(bundle(tmp_path / "made")))
    with pytest.raises(FetchError, match=f"its SHA-256 is [0-9a-f]+, wanted {'0' * 64}"):
        fetch(f"{site[1]}/a#sha256={'0' * 64}").newest()
    assert list((tmp_path / "cache").glob("*/*")) == []


def test_no_name_in_an_archive_leads_out_of_the_cache(
    site: tuple[Path, str], fetch: Callable[[str], RemoteBundle], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    files = bundle(tmp_path / "made")
    strange = {
        f"{outside}/model.onnx": files["model.onnx"],
        "../../outside/tokenizer.json": files["tokenizer.json"],
        "link/bundle.json": files["bundle.json"],
        "../../../outside/other": b"",
    }
    put(site[0] / "a", tar(strange, ("link", str(outside)), ("metrics.json", "/etc/hostname")))
    folder = fetch(f"{site[1]}/a").newest()
    assert {path.name for path in folder.iterdir()} == {
        "model.onnx", "tokenizer.json", "bundle.json",
    }  # fmt: skip
    assert list(outside.iterdir()) == []


def test_what_is_no_bundle_is_refused_with_its_reason(
    site: tuple[Path, str],
    fetch: Callable[[str], RemoteBundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = bundle(tmp_path / "made")
    monkeypatch.setattr(sources, "MAX_BYTES", 100_000)
    huge = {"zeros": bytes(200_000)}
    for archive, reason in (
        (b"no archive", "cannot be unpacked"),
        (tar(files)[:-200], "cannot be unpacked"),
        (gzip.compress(b"no tar"), "cannot be unpacked"),
        (tar({"a/": b""}), "bundle.json is missing"),
        (tar(files | {"model.onnx": b"other"}), "model.onnx does not match its SHA-256"),
        (tar(files | {"other/model.onnx": b"other"}), "model.onnx is in it twice"),
        (tar(huge | files), "unpacks to more than 100,000 bytes"),
        (zipped(huge | files), "unpacks to more than 100,000 bytes"),
        (bytes(200_000), "got more than 100,000 bytes"),
    ):
        put(site[0] / "a", archive)
        remote = fetch(f"{site[1]}/a")
        with pytest.raises(BundleError, match=reason) as error:
            remote.newest()
        assert f"{site[1]}/a" in str(error.value)
        assert list((tmp_path / "cache").glob("*/*")) == []


def test_no_message_shows_a_password_or_a_signature(
    site: tuple[Path, str], fetch: Callable[[str], RemoteBundle]
) -> None:
    address = site[1].replace("//", "//user:secret-1@") + "/a?signature=secret-2"
    with pytest.raises(FetchError, match=f"{site[1]}/a.sha256: HTTP 404") as error:
        fetch(address).newest()
    assert "secret" not in str(error.value)


def test_an_object_store_is_read_with_its_own_client(
    site: tuple[Path, str],
    fetch: Callable[[str], RemoteBundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    files = bundle(tmp_path / "made")
    put(site[0] / "bucket" / "a.tar.gz", tar(files))
    query = f"endpoint_override={site[1].removeprefix('http://')}&scheme=http&region=here"
    folder = fetch(f"s3://bucket/a.tar.gz?{query}").newest()
    assert (folder / "model.onnx").read_bytes() == files["model.onnx"]
    with pytest.raises(FetchError, match=r"s3://bucket/b.tar.gz.sha256: "):
        fetch(f"s3://bucket/b.tar.gz?{query}").newest()


@pytest.mark.parametrize(
    "address",
    [
        "models:/tweet-tagger", "models:/tweet-tagger@", "models:/tweet-tagger/Production",
        "models:tweet-tagger@production", "https://", "https://example.org",
        "https://example.org/a.zip#sha256=12", "https://example.org/a.zip#md5=12",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_a_bundle_stops_the_start(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGGER_BUNDLE", address)
    with pytest.raises(SettingsError, match=r"^TAGGER_BUNDLE: got .+, wanted folder, models:/"):
        load_settings()


@pytest.mark.parametrize(("uri", "got"), [(None, "nothing"), ("sqlite:///mlflow.db", "sqlite:…")])
def test_a_registered_model_needs_the_address_of_a_server(uri: str | None, got: str) -> None:
    settings = Settings(
        bundle="models:/tweet-tagger@production",
        mlflow_tracking_uri=SecretStr(uri) if uri else None,
    )
    with pytest.raises(SettingsError, match=f"MLFLOW_TRACKING_URI: got {got}, wanted https://"):
        remote_bundle(settings)


@pytest.mark.parametrize(
    ("address", "module", "extra"),
    [
        ("https://example.org/a.zip", "httpx", "registry"),
        ("s3://bucket/a.zip", "pyarrow.fs", "bulk"),
    ],
)
def test_without_a_package_the_message_names_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, address: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingsError, match=rf"pip install 'toxic-tweet-tagger\[{extra}\]'"):
        remote_bundle(Settings(bundle=address))
