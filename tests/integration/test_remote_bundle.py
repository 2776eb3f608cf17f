"""A service whose bundle comes from a real MLflow server, which goes away and comes back."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.bundle import SEALED
from tests.conftest import make_checkout
from tests.support.bundles import variant, version
from tests.support.mlflow import MODEL, MlflowServer, Releases
from tests.support.service import ROOT, Served
from training.files import write_json

Serve = Callable[..., Served]
PRODUCTION = f"models:/{MODEL}@production"
SECONDS = 60.0


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout as `make train` leaves it, whose candidate is the shipped model."""
    from training.data import ingest
    from training.release import register

    here, patch = Path.cwd(), pytest.MonkeyPatch()
    folder = make_checkout(tmp_path_factory.mktemp("trained"), patch.chdir, patch.delenv)
    shutil.copytree(ROOT / "models" / "release", folder / "models" / "candidate")
    write_json(folder / "models" / "finetuned" / "run.json", {"run_id": "of another store"})
    for name in ("plots", "drift"):
        write_json(folder / "reports" / name / "empty.json", {})
    write_json(folder / "reports" / "rules.json", {})
    ingest.ingest("sample", ingest.load_sources())
    register.main()
    os.chdir(here)
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def bundles(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    origin = trained / "models" / "candidate"
    return [variant(origin, folder / f"{t}", t) for t in (0.5, 2.0, 3.0)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(scope="module")
def releases(
    trained: Path,
    bundles: list[Path],
    server: MlflowServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Releases:
    releases = Releases(trained, tmp_path_factory.mktemp("releases") / "alone", server)
    for bundle in bundles:
        releases.register(bundle)
    return releases


@pytest.fixture
def start(serve: Serve, server: MlflowServer, tmp_path: Path) -> Callable[[], Served]:
    """Start a service with the cache of this test."""

    def start(**environment: str) -> Served:
        settings = {
            "BUNDLE": PRODUCTION,
            "BUNDLE_CACHE": str(tmp_path / "cache"),
            "MLFLOW_TRACKING_URI": server.url,
            "WATCH_SECONDS": "0.2",
        }
        return serve(**settings | environment)

    return start


def serving_version(service: Served) -> str:
    return str(service.predict("ok").json()["model"]["version"])


def wait_for_version(service: Served, expected: str) -> None:
    deadline = time.monotonic() + SECONDS
    while (current := serving_version(service)) != expected:
        assert time.monotonic() < deadline, f"{current} is served, not {expected}"
        time.sleep(0.05)


def messages(service: Served, logger: str = "serving.model") -> list[str]:
    lines = map(json.loads, service.log.read_text().splitlines())
    return [line["message"] for line in lines if line["logger"] == logger]


def test_a_moved_alias_reaches_the_service_and_a_lost_server_does_not_stop_it(
    start: Callable[..., Served],
    server: MlflowServer,
    releases: Releases,
    bundles: list[Path],
    tmp_path: Path,
) -> None:
    first, second, _ = map(version, bundles)
    releases.promote(bundles[0])
    service = start()
    assert serving_version(service) == first
    (folder,) = (tmp_path / "cache").glob("*/current")
    assert {path.name for path in folder.iterdir()} == {path.name for path in bundles[0].iterdir()}
    releases.promote(bundles[1])
    wait_for_version(service, second)
    releases.roll_back()
    wait_for_version(service, first)

    server.stop()
    service.wait_for("tagger_bundle_source_reachable", 0)
    time.sleep(1)  # five more looks
    assert serving_version(service) == first
    assert sum("stays active" in line for line in messages(service)) == 1
    restarted = start()
    assert serving_version(restarted) == first
    assert any(f"model {first} is served from the cache" in line for line in messages(restarted))
    server.start()
    for each in (service, restarted):
        each.wait_for("tagger_bundle_source_reachable", 1)
        assert f"{PRODUCTION} is reachable again" in messages(each)
    releases.promote(bundles[1])
    for each in (service, restarted):
        wait_for_version(each, second)


def test_a_damaged_artifact_is_refused_and_the_old_model_stays_also_after_a_restart(
    start: Callable[..., Served], server: MlflowServer, releases: Releases, bundles: list[Path]
) -> None:
    releases.promote(bundles[0])
    service = start()
    damaged = [
        path
        for path in (server.folder / "artifacts").rglob("bundle.json")
        if version(path.parent) == version(bundles[2])
    ]
    assert damaged
    for path in damaged:
        model = path.with_name(SEALED[0])
        model.write_bytes(model.read_bytes()[:-1])
    releases.promote(bundles[2])
    service.wait_for("tagger_model_reloads_total", 1)
    refused = f"{PRODUCTION}: {SEALED[0]} does not match its SHA-256 in bundle.json: altered"
    assert any(refused in line for line in messages(service))
    assert serving_version(service) == version(bundles[0])
    assert serving_version(start()) == version(bundles[0])
    releases.promote(bundles[1])
    wait_for_version(service, version(bundles[1]))


def test_workers_share_a_cache(
    start: Callable[..., Served], releases: Releases, bundles: list[Path], tmp_path: Path
) -> None:
    releases.promote(bundles[0])
    service = start(WORKERS="2")
    releases.promote(bundles[1])
    wait_for_version(service, version(bundles[1]))
    fetched = [path for path in (tmp_path / "cache").glob("*/*") if not path.is_symlink()]
    assert sorted(map(version, fetched)) == sorted(map(version, bundles[:2]))


def test_a_version_that_was_registered_without_a_server_is_served_by_one(
    trained: Path, start: Callable[..., Served], tmp_path: Path
) -> None:
    with MlflowServer(tmp_path / "local", trained / "mlflow.db") as local:
        service = start(BUNDLE=f"models:/{MODEL}@candidate", MLFLOW_TRACKING_URI=local.url)
        assert serving_version(service) == version(trained / "models" / "candidate")
