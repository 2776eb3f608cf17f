"""A new model takes over while the service answers: no request is lost, no answer is mixed."""

import asyncio
import gc
import hashlib
import json
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import AsyncMock

import httpx
import numpy as np
import pytest

from serving import model_manager
from serving.bundle import Bundle
from serving.inference.batcher import Batcher
from serving.model_manager import ModelManager, bundle_folder
from serving.observability.metrics import Metrics
from serving.settings import Settings
from tests.support.bundles import seal, variant, version
from tests.support.service import ROOT, Served

KEY = "a-key-of-the-operator"
KEYS = {
    "API_KEYS": f"ops:{hashlib.sha256(KEY.encode()).hexdigest()}:admin+predict",
    "CACHE_SIZE": "0",
    "MAX_QUEUE_SECONDS": "60",
}
ADMIN = {"authorization": f"Bearer {KEY}"}
TEXTS = ["have a lovely day", "you absolute clown", "go back to where you came from", "hm"]
Serve = Callable[..., Served]


def point_link(link: Path, target: Path) -> None:
    scratch = link.with_name("scratch")
    scratch.symlink_to(target)
    scratch.replace(link)


@pytest.fixture(scope="module")
def bundles(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    origin = trained / "models" / "candidate"
    return [variant(origin, folder / name, t) for name, t in (("cold", 0.5), ("warm", 2.0))]


@pytest.fixture
def link(bundles: list[Path], tmp_path: Path) -> Path:
    link = tmp_path / "production"
    point_link(link, bundles[0])
    return link


def serving_version(service: Served) -> str:
    return str(service.predict("ok").json()["model"]["version"])


def wait_until_serving(service: Served, expected: str) -> None:
    deadline, current = time.monotonic() + 60, None
    while current != expected:
        assert time.monotonic() < deadline
        # A worker that is replaced closes its idle connections; a client that sends a request on
        # one of them at that moment must retry.
        with suppress(httpx.ReadError, httpx.RemoteProtocolError):
            current = serving_version(service)
        time.sleep(0.05)


async def until_serving(models: ModelManager, expected: str) -> None:
    while models.engine.bundle.manifest.version != expected:
        await asyncio.sleep(0.02)


def test_under_load_no_request_fails_and_each_reply_names_its_model(
    serve: Serve, bundles: list[Path], link: Path
) -> None:
    service = serve(link, **KEYS, WATCH_SECONDS="0")
    expected = {version(one): Bundle.load(one).score(TEXTS).labels for one in bundles}
    seen: dict[str, int] = dict.fromkeys(expected, 0)
    explained: set[str] = set()
    done = False

    def check(model: str, scores: list[dict[str, float]], texts: list[str]) -> None:
        actual = np.array([[row[k] for k in ("hate", "offensive", "neither")] for row in scores])
        rows = [TEXTS.index(text) for text in texts]
        assert np.abs(actual - expected[model][rows]).max() < 1e-3
        seen[model] += 1

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        while not done:
            texts = [TEXTS[number % 4], TEXTS[(number // 4) % 4]]
            reply = await client.post("/v1/predict", json={"texts": texts})
            assert reply.status_code == 200, reply.text
            rows = reply.json()["predictions"]
            check(reply.json()["model"]["version"], [row["scores"] for row in rows], texts)

    async def explain(client: httpx.AsyncClient) -> None:
        seed = 0
        while not done:
            seed += 1
            body = {"text": " ".join(TEXTS) + f" {seed}", "seed": seed, "num_samples": 300}
            reply = await client.post("/v1/explain", json=body)
            assert reply.status_code == 200, reply.text
            explained.add(reply.json()["model"]["version"])

    async def replace_model(client: httpx.AsyncClient) -> None:
        nonlocal done
        for number in range(1, 7):
            await asyncio.sleep(0.7)
            point_link(link, bundles[number % 2])
            reply = await client.post("/v1/model/reload")
            assert reply.status_code == 200, reply.text
            assert reply.json()["model"]["version"] == version(bundles[number % 2])
        done = True

    async def scenario() -> None:
        limits = httpx.Limits(max_connections=80)
        async with (
            httpx.AsyncClient(
                base_url=service.url, headers=ADMIN, timeout=60, limits=limits
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            for number in range(64):
                group.create_task(ask(client, number))
            group.create_task(explain(client))
            group.create_task(replace_model(client))

    asyncio.run(scenario())
    print(f"answers by version: {seen}")
    assert min(seen.values()) >= 50
    assert explained
    service.http.headers.update(ADMIN)
    assert service.http.get("/v1/model").json()["manifest"]["version"] == version(bundles[0])
    assert service.metric("tagger_model_reloads_total") == 6


def test_a_model_card_written_after_its_bundle_is_shown(
    serve: Serve, bundles: list[Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(bundles[0], tmp_path / "candidate")
    card = folder / "MODEL_CARD.md"
    card.unlink()
    service = serve(folder)
    assert service.http.get("/v1/model").json()["card"] is None
    card.write_text(f"of {version(bundles[1])}")  # a card of another version
    assert service.http.get("/v1/model").json()["card"] is None
    card.write_text(f"of {version(bundles[0])}")
    info = service.http.get("/v1/model").json()
    assert info["card"] == f"of {info['manifest']['version']}"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_new_bundle_is_loaded_when_seen_or_on_sighup(
    serve: Serve, bundles: list[Path], link: Path, workers: str
) -> None:
    watching = serve(link, WATCH_SECONDS="0.1", CACHE_SIZE="0", WORKERS=workers)
    signalled = serve(link, WATCH_SECONDS="0", CACHE_SIZE="0", WORKERS=workers)
    for service in (watching, signalled):
        while service.log.read_text().count("Application startup complete") < int(workers):
            time.sleep(0.05)
    point_link(link, bundles[1])
    wait_until_serving(watching, version(bundles[1]))
    assert serving_version(signalled) == version(bundles[0])
    signalled.process.send_signal(signal.SIGHUP)
    wait_until_serving(signalled, version(bundles[1]))
    assert signalled.process.poll() is None


def test_a_changed_policy_is_read_on_a_reload_and_a_bad_one_is_refused(
    serve: Serve, link: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    first = (ROOT / "configs" / "policy.yaml").read_text()
    policy.write_text(first)
    service = serve(link, **KEYS, WATCH_SECONDS="0", POLICY=str(policy))
    service.http.headers.update(ADMIN)
    for content, status, expected in (
        (first.replace('version: "1"', 'version: "2"'), 200, "2"),
        ("version: 3", 409, "2"),
        (first, 200, "1"),
    ):
        policy.write_text(content)
        assert service.http.post("/v1/model/reload").status_code == status
        assert service.predict("ok").json()["policy"] == expected


def test_a_bad_bundle_is_refused_and_the_old_one_stays_active(
    serve: Serve, bundles: list[Path], link: Path, tmp_path: Path
) -> None:
    service = serve(link, **KEYS, WATCH_SECONDS="0")
    service.http.headers.update(ADMIN)
    altered = shutil.copytree(bundles[1], tmp_path / "altered")
    (altered / "model.onnx").write_bytes(b"nonsense")
    strange = shutil.copytree(bundles[1], tmp_path / "strange")
    manifest = json.loads((strange / "bundle.json").read_text())
    manifest["golden"][0]["scores"] = {"hate": 0.9, "offensive": 0.05, "neither": 0.05}
    seal(strange, manifest)
    for bad, reason in ((altered, "altered"), (strange, "golden"), (tmp_path, "missing")):
        point_link(link, bad)
        reply = service.http.post("/v1/model/reload")
        assert reply.status_code == 409
        assert reply.json()["error"]["type"] == "conflict"
        assert reason in reply.json()["error"]["message"]
        assert serving_version(service) == version(bundles[0])
        assert service.http.get("/readyz").json()["status"] == "ok"
    assert service.metric("tagger_model_reloads_total") == 3
    point_link(link, bundles[0])
    assert (
        service.http.post("/v1/model/reload").status_code == 200
    )  # the active bundle: nothing to do


def test_a_replaced_model_is_freed(bundles: list[Path], link: Path, tmp_path: Path) -> None:
    settings = Settings(bundle=link, outbox=tmp_path / "outbox.db")

    async def scenario() -> None:
        models = ModelManager(settings, Metrics(), threads=1)
        await models.start()
        for number in (1, 0):
            old = weakref.ref(models.engine)
            assert gc.get_freeze_count() > 0  # the collector would never find a cycle
            point_link(link, bundles[number])
            assert (await models.reload()).version == version(bundles[number])
            await asyncio.gather(*models._retiring)
            assert old() is None
        await models.close()

    try:
        asyncio.run(scenario())
    finally:
        gc.unfreeze()


def test_a_reload_goes_on_without_its_caller_and_the_watch_after_an_error(
    bundles: list[Path], link: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(bundle=link, outbox=tmp_path / "outbox.db", watch_seconds=0.02)

    async def scenario() -> None:
        models = ModelManager(settings, Metrics(), threads=1)
        await models.start()
        point_link(link, bundles[1])
        with pytest.raises(TimeoutError):  # as at the deadline of POST /v1/model/reload
            await asyncio.wait_for(models.reload(), 0.001)
        await asyncio.wait_for(until_serving(models, version(bundles[1])), 60)

        watch = asyncio.create_task(models.watch())
        threads = threading.active_count()
        with monkeypatch.context() as patch:
            failed = AsyncMock(side_effect=RuntimeError("no scores"))
            patch.setattr(Batcher, "submit", failed)
            point_link(link, bundles[0])
            while not failed.await_count:
                await asyncio.sleep(0.02)
        while threading.active_count() > threads:  # those of the engine that did not start
            await asyncio.sleep(0.02)
        point_link(link, bundles[1])
        while models._seen != model_manager._identity(bundles[1]):
            await asyncio.sleep(0.02)
        point_link(link, bundles[0])
        await asyncio.wait_for(until_serving(models, version(bundles[0])), 60)
        watch.cancel()
        await models.close()

    try:
        asyncio.run(asyncio.wait_for(scenario(), 120))
    finally:
        gc.unfreeze()


def test_without_a_setting_production_is_served_then_the_candidate_then_the_shipped(
    bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = bundles[1]
    monkeypatch.setattr(model_manager, "shipped", lambda _: shipped)
    monkeypatch.chdir(tmp_path)
    assert bundle_folder(Settings()) == shipped
    for stage in ("candidate", "production"):
        shutil.copytree(bundles[0], tmp_path / "models" / stage)
        assert bundle_folder(Settings()) == Path("models", stage)
    assert bundle_folder(Settings(bundle=Path("mine"))) == Path("mine")


def test_the_shipped_model_does_not_answer_while_the_candidate_is_replaced(
    bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = shutil.copytree(bundles[0], tmp_path / "models" / "candidate")
    monkeypatch.setattr(model_manager, "shipped", lambda _: bundles[1])
    monkeypatch.chdir(tmp_path)
    policy = ROOT / "configs" / "policy.yaml"
    settings = Settings(outbox=tmp_path / "outbox.db", policy=policy, watch_seconds=0.02)

    async def scenario() -> None:
        models = ModelManager(settings, Metrics(), threads=1)
        await models.start()
        watch = asyncio.create_task(models.watch())
        candidate.rename(tmp_path / "away")
        with monkeypatch.context() as patch:
            patch.setattr(models, "reload", reload := AsyncMock())
            await asyncio.sleep(0.5)  # about twenty looks at the folder
        reload.assert_not_awaited()
        shutil.copytree(bundles[1], candidate)
        await asyncio.wait_for(until_serving(models, version(bundles[1])), 60)
        watch.cancel()
        await models.close()

    try:
        asyncio.run(scenario())
    finally:
        gc.unfreeze()


def test_a_reload_needs_the_scope_admin(served: Served, serve: Serve) -> None:
    assert (
        served.http.post("/v1/model/reload").status_code == 403
    )  # without keys nobody has that scope
    assert serve(**KEYS).http.post("/v1/model/reload").status_code == 401
