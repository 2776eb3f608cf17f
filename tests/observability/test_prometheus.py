"""Every panel shows data, and a MongoDB that is gone raises the alarms of the outbox only.

`python -m serving` under load, a MongoDB-wire server, and Debian's Prometheus with the committed
configuration, rules and dashboards. Prometheus asks every second, and waits, windows and ages in
the rules are a tenth of those in the files (`tests.support.prometheus.faster`).
"""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.auth import new_key
from serving.bundle import read_manifest
from serving.observability.drift import (
    ColumnDrift,
    DriftReport,
    Estimate,
    Estimates,
    LabelEstimates,
)
from tests.support.mongodb import MongoServer
from tests.support.prometheus import PrometheusServer
from tests.support.service import ROOT, Served

BUNDLE = ROOT / "models" / "release"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
VARIABLES = {"$job": "tweet-tagger", "$instance": ".+", "$__rate_interval": "15s"}
OUTBOX_ALARMS = {"TaggerArchiveUnreachable", "TaggerOutboxOld"}
WAIT_S, RAISE_S, PAUSE_S = 60.0, 120.0, 0.05
MAX_ROUNDS = 4000  # of the load
TEXTS = ["you are all welcome here", "what an idiot", "I will find you and break your legs"]


@dataclass
class World:
    service: Served
    mongo: MongoServer
    prometheus: PrometheusServer
    keys: dict[str, str]


def report() -> DriftReport:
    """What `tweet-tagger drift` writes for the shipped model."""
    figure = Estimate(value=0.8, low=0.7, high=0.9)
    row = LabelEstimates(precision=figure, recall=figure, prevalence=figure)
    labels = dict.fromkeys(("hate", "offensive", "neither"), row)
    column = ColumnDrift(name="label", method="x", distance=0.01, threshold=0.1, drifted=False)
    return DriftReport(
        checked=time.time(),
        days=7,
        model_version=read_manifest(BUNDLE).version,
        reference="models/release/drift_reference.json",
        reference_rows=2000,
        rows=500,
        found=500,
        others=0,
        drift=False,
        share=0.0,
        columns=[column],
        left_out=[],
        estimates=Estimates(reviews=40, unsure=1, skipped=1, ties=0, labels=labels),
    )


def load(world: World, stop: threading.Event) -> None:
    """Requests of every API, some of them wrong, about ten a second, until `stop`."""
    headers = {"authorization": f"Bearer {world.keys['client']}"}
    with httpx.Client(base_url=world.service.url, headers=headers, timeout=30) as http:
        for i in range(MAX_ROUNDS):
            if stop.wait(PAUSE_S):
                return
            text = f"{TEXTS[i % 3]}, {i // 3}"
            assert http.post("/v1/predict", json={"texts": [text, TEXTS[0]]}).status_code == 200
            if i % 4 == 0:
                http.post("/v1/moderations", json={"input": text})
                http.post("/predict", json={"inputs": text})
                http.post("/v1/predict", json={"texts": []})
                http.get("/nowhere")


def review(world: World, count: int = 8) -> None:
    """Two reviewers label what the queue gives them; the second one gets the same items."""
    for name in ("anna", "ben"):
        headers = {"authorization": f"Bearer {world.keys[name]}"}
        given = world.service.http.get(
            "/v1/review", params={"limit": count}, headers=headers
        ).json()["items"]
        assert given
        for i, item in enumerate(given):
            reply = world.service.http.post(
                f"/v1/review/{item['prediction_id']}",
                json={"label": "neither" if i % 2 else "hate"},
                headers=headers,
            )
            assert reply.status_code == 200, reply.text


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return held


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    assert shutil.which("prometheus"), "install Debian's package prometheus"
    folder: Path = tmp_path_factory.mktemp("observability")
    (folder / "drift.json").write_text(report().model_dump_json())
    made = {
        "client": new_key("client", ("predict",)),
        "anna": new_key("anna", ("review",)),
        "ben": new_key("ben", ("review",)),
    }
    with MongoServer(folder / "mongo") as mongo:
        service = Served(
            BUNDLE,
            folder,
            MONGODB_URI=mongo.uri,
            API_KEYS=",".join(entry for _, entry in made.values()),
            DRIFT_REPORT=str(folder / "drift.json"),
            REVIEW_RANDOM_SHARE="0.5",
            REVIEW_SECOND_SHARE="1",
        )
        with PrometheusServer(folder / "prometheus", service.port) as prometheus:
            keys = {name: secret for name, (secret, _) in made.items()}
            world = World(service, mongo, prometheus, keys)
            stop = threading.Event()
            clients = threading.Thread(target=load, args=(world, stop))
            clients.start()
            try:
                yield world
            finally:
                stop.set()
                clients.join()
                service.stop()


def queries() -> dict[str, str]:
    """Every query of every panel, by dashboard, panel and letter, without variables."""
    found = {}
    for path in DASHBOARDS:
        panels: list[dict[str, Any]] = json.loads(path.read_text())["panels"]
        for panel in panels:
            for target in panel.get("targets", []):
                query = target["expr"]
                for name, value in VARIABLES.items():
                    query = query.replace(name, value)
                assert "$" not in query, query
                found[f"{path.stem}: {panel['title']}: {target['refId']}"] = query
    return found


def test_every_panels_query_returns_data(world: World) -> None:
    assert len(queries()) > 60
    assert wait_until(lambda: world.service.metric("tagger_archive_sent_total") > 60, WAIT_S)
    review(world)
    empty = list(queries())
    ask = world.prometheus.query

    def all_have_data() -> bool:
        empty[:] = [place for place, query in queries().items() if not ask(query)]
        return not empty

    assert wait_until(all_have_data, WAIT_S), empty


def test_a_stopped_mongodb_raises_the_alarms_of_the_outbox_and_nothing_else(world: World) -> None:
    alerts = world.prometheus.alerts
    assert alerts("firing", "pending") == set()
    world.mongo.stop()
    wait_until(lambda: alerts("firing") >= OUTBOX_ALARMS, RAISE_S)
    assert alerts("firing", "pending") == OUTBOX_ALARMS
    world.mongo.start()
    wait_until(lambda: not alerts("firing", "pending"), WAIT_S)
    assert alerts("firing", "pending") == set()


def test_each_of_several_workers_shows_what_the_one_that_relays_has_done(tmp_path: Path) -> None:
    with MongoServer(tmp_path / "mongo") as mongo:
        service = Served(BUNDLE, tmp_path, MONGODB_URI=mongo.uri, WORKERS="2")
        try:
            assert service.predict("hello", "world").status_code == 200
            clients = [httpx.Client(base_url=service.url) for _ in range(12)]  # some for each

            def shown() -> set[str]:
                lines = [c.get("/metrics").text.splitlines() for c in clients]
                name = "tagger_archive_sent_total "
                return {row for each in lines for row in each if row.startswith(name)}

            assert wait_until(lambda: shown() == {"tagger_archive_sent_total 2.0"}, WAIT_S), shown()
            for client in clients:
                client.close()
        finally:
            service.stop()
