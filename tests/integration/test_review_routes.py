"""The review queue over HTTP, and its commands for Label Studio."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.settings import PREFIX
from tests.support.mongodb import MongoServer
from tests.support.service import ROOT, Served, without_settings

Serve = Callable[..., Served]
SCOPES = {"ann": "review", "bob": "review", "ops": "predict+feedback+admin"}
KEYS = ",".join(
    f"{name}:{hashlib.sha256(name.encode()).hexdigest()}:{scopes}"
    for name, scopes in SCOPES.items()
)
OPTIONS = {"API_KEYS": KEYS, "REVIEW_RANDOM_SHARE": "0", "REVIEW_SECOND_SHARE": "0"}
UNKNOWN = "0" * 32
TEXTS = [f"walrus number {i}" for i in range(6)]


def call(service: Served, who: str, method: str, path: str = "", **more: Any) -> httpx.Response:
    headers = {"x-api-key": who}
    return service.http.request(method, f"/v1/review{path}", headers=headers, **more)


def queue(service: Served, who: str, limit: int = 1) -> dict[str, Any]:
    reply = call(service, who, "GET", f"?limit={limit}")
    assert reply.status_code == 200, reply.text
    assert reply.headers["cache-control"] == "no-store"
    return dict(reply.json())


def give(service: Served, who: str, id_: str, label: Any, **more: Any) -> httpx.Response:
    return call(service, who, "POST", f"/{id_}", json={"label": label, **more})


def error(reply: httpx.Response) -> tuple[int, str, str | None]:
    problem = reply.json()["error"]
    return reply.status_code, problem["type"], problem.get("field")


def contradicted(service: Served, *texts: str) -> list[str]:
    """Ids of predictions that must come first, whatever the small model thinks of their texts."""
    service.http.headers["x-api-key"] = "ops"
    found = []
    for row in service.predictions(*texts):
        label = "hate" if row["label"] != "hate" else "neither"
        body = {"prediction_id": row["id"], "label": label}
        assert service.http.post("/v1/feedback", json=body).status_code == 200
        found.append(row["id"])
    return found


def test_a_reviewer_gets_items_labels_them_and_takes_a_label_back(serve: Serve) -> None:
    service = serve(**OPTIONS)
    ids = contradicted(service, *TEXTS[:3])
    state = queue(service, "ann", 2)
    assert state["waiting"] == 1
    first, second = state["items"]
    assert {first["prediction_id"], second["prediction_id"]} < set(ids)
    stored = service.http.get(f"/v1/predictions/{first['prediction_id']}").json()
    for name in ("text", "label", "scores", "attributes", "toxicity", "action", "model_version"):
        assert first[name] == stored[name]
    assert first["reason"] == "feedback"
    assert first["lease_until"] > first["ts"]
    reply = give(service, "ann", first["prediction_id"], "hate", note="a reason")
    assert reply.status_code == 200
    again = give(service, "ann", first["prediction_id"], "neither")
    assert again.json() == reply.json()
    assert queue(service, "ann")["reviewed"] == 1
    assert call(service, "ann", "DELETE", f"/{first['prediction_id']}").status_code == 204
    assert error(call(service, "ann", "DELETE", f"/{first['prediction_id']}"))[0] == 404
    assert queue(service, "ann")["reviewed"] == 0
    metrics = service.http.get("/metrics").text
    assert 'tagger_reviews_total{label="hate",reason="feedback"} 1.0' in metrics
    assert "tagger_review_agreement_kappa NaN" in metrics
    assert "tagger_review_waiting 1.0" in metrics


def test_bad_input_is_refused_and_nothing_is_stored(serve: Serve) -> None:
    service = serve(**OPTIONS)
    one, erased, other = contradicted(service, *TEXTS[:3])
    assert len(queue(service, "ann", 2)["items"]) == 2
    (bobs,) = queue(service, "bob")["items"]
    assert service.http.delete(f"/v1/predictions/{erased}").status_code == 204
    held = next(id_ for id_ in (one, other) if id_ != bobs["prediction_id"])
    assert error(give(service, "ann", UNKNOWN, "hate")) == (404, "not_found", "prediction_id")
    assert error(give(service, "ann", erased, "hate")) == (404, "not_found", "prediction_id")
    for label in ("rude", "", None, 1):
        assert error(give(service, "ann", held, label)) == (422, "invalid", "label")
    for note in (1, "x" * 1001):
        assert error(give(service, "ann", held, "hate", note=note)) == (422, "invalid", "note")
    assert error(give(service, "ann", held, "hate", remark="x")) == (422, "invalid", "remark")
    wrong = call(service, "ann", "POST", f"/{held}", content=b"{")
    assert error(wrong)[0] == 400
    for who, id_ in (("ann", bobs["prediction_id"]), ("bob", held)):
        assert error(give(service, who, id_, "hate")) == (409, "conflict", "prediction_id")
    for limit in ("0", "51", "many"):
        assert error(call(service, "ann", "GET", f"?limit={limit}")) == (422, "invalid", "limit")
    for method, path in (("GET", ""), ("POST", f"/{held}"), ("DELETE", f"/{held}")):
        assert error(call(service, "ops", method, path))[:2] == (403, "forbidden")
        assert error(call(service, "nobody", method, path))[:2] == (401, "unauthenticated")
    assert queue(service, "ann")["reviewed"] == queue(service, "bob")["reviewed"] == 0
    assert service.metric("tagger_reviews_total") == 0
    assert give(service, "ann", held, "hate", note="x" * 1000).status_code == 200


def test_a_lease_that_ran_out_gets_409(serve: Serve) -> None:
    service = serve(**OPTIONS | {"REVIEW_LEASE_SECONDS": "1"})
    (id_,) = contradicted(service, TEXTS[0])
    assert len(queue(service, "ann")["items"]) == 1
    time.sleep(1.1)
    assert error(give(service, "ann", id_, "hate"))[0] == 409
    assert len(queue(service, "bob")["items"]) == 1
    assert give(service, "bob", id_, "hate").status_code == 200


def test_an_open_service_has_no_reviewers(served: Served) -> None:
    assert error(call(served, "ann", "GET"))[:2] == (403, "forbidden")


def test_what_must_not_be_stored_is_never_reviewed(serve: Serve) -> None:
    service = serve(**OPTIONS | {"REVIEW_RANDOM_SHARE": "1"})
    service.http.headers["x-api-key"] = "ops"
    service.predict("walrus in secret", do_not_store=True)
    service.predict("walrus in public")
    assert [item["text"] for item in queue(service, "ann", 50)["items"]] == ["walrus in public"]


@pytest.mark.parametrize("mode", ["hash", "none"])
def test_without_stored_texts_there_is_nothing_to_review(serve: Serve, mode: str) -> None:
    service = serve(**OPTIONS | {"STORE_TEXT": mode})
    service.http.headers["x-api-key"] = "ops"
    id_ = service.predictions("a walrus")[0]["id"]
    replies = [
        call(service, "ann", "GET"),
        give(service, "ann", id_, "hate"),
        call(service, "ann", "DELETE", f"/{id_}"),
    ]
    for reply in replies:
        assert error(reply)[:2] == (409, "conflict")
        assert "TAGGER_STORE_TEXT" in reply.json()["error"]["message"]


def test_two_workers_never_give_one_item_to_two_reviewers(serve: Serve) -> None:
    service = serve(**OPTIONS | {"WORKERS": "2"})
    contradicted(service, *(f"walrus {i}" for i in range(30)))

    def ask(who: str) -> list[str]:
        # A connection for each request, so that both workers get some.
        url, headers = f"{service.url}/v1/review?limit=3", {"x-api-key": who}
        reply = httpx.get(url, headers=headers, timeout=60)
        assert reply.status_code == 200, reply.text
        return [item["prediction_id"] for item in reply.json()["items"]]

    with ThreadPoolExecutor(8) as pool:
        asked = ["ann", "bob"] * 8
        found = list(zip(asked, pool.map(ask, asked), strict=True))
    of_ann = {id_ for who, ids in found for id_ in ids if who == "ann"}
    of_bob = {id_ for who, ids in found for id_ in ids if who == "bob"}
    assert of_ann
    assert of_bob
    assert not of_ann & of_bob


def test_while_mongodb_is_gone_reviews_get_503_and_predictions_go_on(
    serve: Serve, tmp_path: Path
) -> None:
    with MongoServer(tmp_path) as server:
        service = serve(**OPTIONS, MONGODB_URI=f"{server.uri}reviews")
        (id_,) = contradicted(service, TEXTS[0])
        service.wait_for("tagger_archive_sent_total", 2)  # the prediction and the feedback
        assert len(queue(service, "ann")["items"]) == 1
        server.stop()
        replies = [
            call(service, "ann", "GET"),
            give(service, "ann", id_, "hate"),
            call(service, "ann", "DELETE", f"/{id_}"),
        ]
        for reply in replies:
            assert error(reply)[:2] == (503, "unavailable")
        assert service.predict("a walrus").status_code == 200
        server.start()
        deadline = time.monotonic() + 60
        while (reply := give(service, "ann", id_, "hate")).status_code == 503:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert reply.status_code == 200, reply.text
        service.stop()


def tool(service: Served, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `tweet-tagger review …` on the outbox of a service."""
    return subprocess.run(
        [sys.executable, "-m", "serving", "review", *arguments],
        cwd=ROOT,
        env=without_settings() | {PREFIX + "OUTBOX": str(service.log.parent / "outbox.db")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_what_label_studio_got_comes_back_as_reviews_of_several_annotators(
    serve: Serve, tmp_path: Path
) -> None:
    service = serve(**OPTIONS)
    ids = contradicted(service, *TEXTS[:4])
    out, back = tmp_path / "tasks.json", tmp_path / "labelled.json"
    queue(service, "ann")  # what she has is left out
    done = tool(service, "export", str(out))
    assert (done.returncode, done.stderr) == (0, "3 items\n")
    tasks = json.loads(out.read_text())
    assert len(tasks) == 3
    assert {task["data"]["prediction_id"] for task in tasks} < set(ids)
    erased = tasks[2]["data"]["prediction_id"]
    assert service.http.delete(f"/v1/predictions/{erased}").status_code == 204
    annotations = [annotation("hate", "x@y.example"), annotation("unsure", 7)]
    for i, task in enumerate(tasks):
        task |= {"id": i, "annotations": annotations}
    back.write_text(json.dumps(tasks))
    done = tool(service, "import", str(back))
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "4 reviews stored",
        "2 left out: their predictions are unknown or erased",
    ]
    assert tool(service, "import", str(back)).returncode == 0  # once more changes nothing
    state = queue(service, "bob", 5)
    assert [item["reason"] for item in state["items"]] == []
    assert tool(service, "export", str(out)).stderr == "0 items\n"
    tasks[1]["annotations"] = [annotation("rude", 7)]
    back.write_text(json.dumps(tasks))
    done = tool(service, "import", str(back))
    assert done.returncode == 2
    wanted = "hate, offensive, neither, unsure, skip"
    assert done.stderr == f"{back}: item 2, annotation 1, label: got 'rude', wanted {wanted}\n"


def annotation(label: str, by: object) -> dict[str, Any]:
    region = {"from_name": "label", "to_name": "text", "type": "choices"}
    author = {"id": 1, "email": by} if isinstance(by, str) else by
    return {
        "completed_by": author,
        "updated_at": "2026-01-02T03:04:05.678901Z",
        "result": [region | {"value": {"choices": [label]}}],
    }


def test_a_file_or_an_outbox_that_is_not_there_is_one_sentence(
    serve: Serve, tmp_path: Path
) -> None:
    service = serve(**OPTIONS)
    missing = tool(service, "import", str(tmp_path / "none.json"))
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "No such file" in missing.stderr
    unwritable = tool(service, "export", str(tmp_path / "none" / "out.json"))
    assert (unwritable.returncode, unwritable.stderr.count("\n")) == (2, 1)
    service.stop()  # while it runs, it makes the file again
    (service.log.parent / "outbox.db").rename(tmp_path / "moved.db")
    absent = tool(service, "export", str(tmp_path / "out.json"))
    assert absent.returncode == 2
    assert "no such outbox" in absent.stderr
