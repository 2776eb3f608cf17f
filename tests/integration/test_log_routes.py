"""The log over HTTP, at the start of the service, and in the metrics."""

import hashlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import MongoClient

from serving.settings import PREFIX
from tests.support.mongodb import MongoServer, free_port
from tests.support.service import ROOT, Served, without_settings

Serve = Callable[..., Served]
SECRET = "a-long-and-random-key"
KEYS = f"ops:{hashlib.sha256(SECRET.encode()).hexdigest()}:predict+feedback+admin"
PASSWORD = "correct-horse"
UNKNOWN = "0" * 32


def give_feedback(service: Served, prediction_id: str, label: str, **more: str) -> httpx.Response:
    body = {"prediction_id": prediction_id, "label": label, **more}
    return service.http.post("/v1/feedback", json=body)


def folder(service: Served) -> Path:
    return service.log.parent


def in_files(service: Served, text: str) -> bool:
    return any(text.encode() in file.read_bytes() for file in folder(service).glob("outbox.db*"))


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_prediction_is_read_corrected_and_erased_without_mongodb(serve: Serve) -> None:
    service = serve(API_KEYS=KEYS)
    service.http.headers["x-api-key"] = SECRET
    reply = service.predict("you absolute clown", "have a lovely day").json()
    first, second = reply["predictions"]
    stored = service.http.get(f"/v1/predictions/{first['id']}").json()
    assert stored["text"] == "you absolute clown"
    assert stored["request_id"] == reply["id"]
    assert stored["model_version"] == reply["model"]["version"]
    assert stored["policy_version"] == reply["policy"]
    assert (stored["client"], stored["api"]) == ("ops", "native")
    for name in ("id", "label", "scores", "attributes", "toxicity", "action"):
        assert stored[name] == first[name]

    once, twice = (
        give_feedback(service, first["id"], "offensive", comment="an insult") for _ in range(2)
    )
    assert once.status_code == twice.status_code == 200
    assert once.json() == twice.json()
    assert give_feedback(service, UNKNOWN, "hate").status_code == 404
    assert give_feedback(service, first["id"], "rude").status_code == 422

    path = f"/v1/predictions/{first['id']}"
    assert service.http.delete(path).status_code == 204
    assert service.http.delete(path).status_code == 404
    assert service.http.get(path).status_code == 404
    assert give_feedback(service, first["id"], "offensive").status_code == 404
    assert service.http.get(f"/v1/predictions/{second['id']}").status_code == 200


def test_a_prediction_of_version_0_1_is_returned_with_the_field_api(serve: Serve) -> None:
    service = serve(API_KEYS=KEYS)
    service.http.headers["x-api-key"] = SECRET
    prediction_id = service.predict("you absolute clown").json()["predictions"][0]["id"]
    path = f"/v1/predictions/{prediction_id}"
    stored = service.http.get(path).json()
    with sqlite3.connect(folder(service) / "outbox.db") as db:
        db.execute("""UPDATE log SET body = json_remove(
            json_insert(body, '$.door', json_extract(body, '$.api')), '$.api', '$.attributes')""")
        (body,) = db.execute("SELECT body FROM log").fetchone()
    db.close()
    assert {"door", "api", "attributes"} & json.loads(body).keys() == {"door"}
    del stored["attributes"]
    assert service.http.get(path).json() == stored


def test_reading_and_erasing_need_the_scope_admin(serve: Serve) -> None:
    service = serve()
    prediction_id = service.predict("you absolute clown").json()["predictions"][0]["id"]
    assert give_feedback(service, prediction_id, "hate").status_code == 200
    assert service.http.get(f"/v1/predictions/{prediction_id}").status_code == 403
    assert service.http.delete(f"/v1/predictions/{prediction_id}").status_code == 403
    # A metric has no label for each refused path: there are too many.
    assert prediction_id not in service.http.get("/metrics").text


def test_with_do_not_store_nothing_is_stored(serve: Serve) -> None:
    service = serve()
    reply = service.predict("walrus number one", do_not_store=True).json()
    service.predict("walrus number two")
    assert in_files(service, "walrus number two")
    assert not in_files(service, "walrus number one")
    assert give_feedback(service, reply["predictions"][0]["id"], "hate").status_code == 404


@pytest.mark.parametrize("mode", ["hash", "none"])
def test_store_text_decides_what_is_on_the_disk(serve: Serve, mode: str) -> None:
    service = serve(STORE_TEXT=mode)
    assert service.predict("walrus number three").status_code == 200
    digest = hashlib.sha256(b"walrus number three").hexdigest()
    assert not in_files(service, "walrus")
    assert in_files(service, digest) == (mode == "hash")


def test_without_mongodb_the_service_is_degraded_and_catches_up(
    serve: Serve, tmp_path: Path
) -> None:
    with MongoServer(tmp_path) as server:
        server.stop()
        service = serve(MONGODB_URI=f"{server.uri}late")
        key = service.predict("you absolute clown").json()["predictions"][0]["id"]
        eventually(lambda: service.http.get("/readyz").json()["status"] == "degraded")
        assert service.http.get("/readyz").status_code == 200
        assert give_feedback(service, key, "neither").status_code == 200
        assert give_feedback(service, UNKNOWN, "neither").status_code == 503  # it may be in MongoDB
        eventually(lambda: service.metric("tagger_outbox_rows") == 2)
        eventually(lambda: service.metric("tagger_archive_failures_total") > 0)
        assert service.metric("tagger_archive_reachable") == 0
        server.start()
        eventually(lambda: service.http.get("/readyz").json()["status"] == "ok", 60)
        eventually(lambda: service.metric("tagger_outbox_rows") == 0)
        assert service.metric("tagger_archive_sent_total") == 2
        assert service.metric("tagger_archive_lag_seconds") > 0
        assert give_feedback(service, UNKNOWN, "neither").status_code == 404
        with MongoClient[dict[str, Any]](server.uri) as client:
            assert [each["_id"] for each in client["late"]["predictions"].find()] == [key]
            assert client["late"]["feedback"].count_documents({"prediction_id": key}) == 1
        service.stop()


def refusal(bundle: Path, **environment: str) -> str:
    """The message of a service that does not start."""
    settings = {"BUNDLE": str(bundle), "PORT": "0"} | environment
    done = subprocess.run(
        [sys.executable, "-m", "serving", "serve"],
        cwd=ROOT,
        env=without_settings() | {PREFIX + name: value for name, value in settings.items()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "horse" not in done.stdout + done.stderr
    return done.stderr


def test_a_bad_log_setting_stops_the_start_with_one_sentence(trained: Path, tmp_path: Path) -> None:
    bundle, outbox = trained / "models" / "candidate", tmp_path / "outbox.db"
    uri = f"mongodb://bob:{PASSWORD}@battery@localhost/"
    assert "MONGODB_URI is malformed" in refusal(bundle, OUTBOX=str(outbox), MONGODB_URI=uri)
    (tmp_path / "file").touch()
    wrong = str(tmp_path / "file" / "outbox.db")
    assert "cannot be used as the outbox" in refusal(bundle, OUTBOX=wrong)
    with sqlite3.connect(outbox) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert "written by a newer version" in refusal(bundle, OUTBOX=str(outbox))


def test_wrong_credentials_stop_the_start(trained: Path, tmp_path: Path) -> None:
    bundle = trained / "models" / "candidate"
    with MongoServer(tmp_path / "mongo") as server:
        with MongoClient(server.uri) as client:
            client["admin"].command("createUser", "bob", pwd="right", roles=["root"])
        server.stop()
        server.start("--auth")
        uri = f"mongodb://bob:{PASSWORD}@127.0.0.1:{server.port}/"
        message = refusal(bundle, OUTBOX=str(tmp_path / "o.db"), MONGODB_URI=uri, LOG_LEVEL="debug")
        assert "does not accept the user 'bob'" in message


def test_an_unreachable_mongodb_does_not_stop_the_start(serve: Serve) -> None:
    service = serve(MONGODB_URI=f"mongodb://bob:{PASSWORD}@127.0.0.1:{free_port()}/")
    assert service.predict("have a lovely day").status_code == 200
    assert "starting without the archive" in service.log.read_text()
    assert PASSWORD not in service.log.read_text()
