import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from serving.app import create_app
from serving.explain.explainer import Explainer
from serving.inference.batcher import DeadlineError
from serving.settings import Settings
from serving.ui.pages import PATHS

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = 'you "clown" </script><script>alert(1)</script> \u202eevil\u202c 😂 it\'s #bad @you'

# LIME does not close its script's file.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*bundle.js:ResourceWarning")


@pytest.fixture(scope="module")
def client(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = Settings(
        bundle=trained / "models" / "candidate",
        policy=ROOT / "configs" / "policy.yaml",
        outbox=tmp_path_factory.mktemp("log") / "outbox.db",
        max_queue_seconds=60,
    )
    with TestClient(create_app(settings)) as client:
        yield client


def test_an_explanation_has_every_field_of_the_contract(client: TestClient) -> None:
    body = client.post("/v1/explain", json={"text": HOSTILE, "num_features": 100}).json()
    assert set(body) == {
        "label", "words", "r2", "scores_used", "exact", "explained", "seed", "model"
    }  # fmt: skip
    assert body["explained"] == {"begin": 0, "end": len(HOSTILE)}
    predicted = client.post("/v1/predict", json={"texts": [HOSTILE]}).json()
    assert body["label"] == predicted["predictions"][0]["label"]
    assert body["model"] == predicted["model"]
    assert {row["word"] for row in body["words"]} == {
        "you", "clown", "script", "alert", "1", "evil", "😂", "it's", "#bad", "@you"
    }  # fmt: skip
    for row in body["words"]:
        assert set(row) == {"word", "weight", "begin", "end"}
        assert HOSTILE[row["begin"] : row["end"]] == row["word"]
    assert not body["exact"]
    assert body["scores_used"] == 1000


def test_parameters_change_the_explanation(client: TestClient) -> None:
    asked = {"text": HOSTILE, "label": "hate", "num_features": 2, "num_samples": 50, "seed": 9}
    body = client.post("/v1/explain", json=asked).json()
    assert (body["label"], body["scores_used"], body["seed"]) == ("hate", 50, 9)
    assert len({row["word"] for row in body["words"]}) == 2


def test_an_attribute_is_explained(client: TestClient) -> None:
    text = "you absolute clown"
    body = client.post("/v1/explain", json={"text": text, "label": "THREAT"}).json()
    assert body["label"] == "THREAT"
    assert {row["word"] for row in body["words"]} == set(text.split())
    page = client.post(
        "/v1/explain", json={"text": text, "label": "THREAT"}, headers={"accept": "text/html"}
    )
    (reply,) = client.post("/v1/predict", json={"texts": [text]}).json()["predictions"]
    shown = re.search(r'\["not THREAT", "THREAT"\], \[[\d.]+, ([\d.e-]+)\]', page.text)
    assert shown
    assert float(shown[1]) == pytest.approx(reply["attributes"]["THREAT"], abs=1e-3)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"text": ""}, "text"),
        ({"text": " \n"}, "text"),
        ({"text": 3}, "text"),
        ({"label": "rude"}, "label"),
        ({"label": "threat"}, "label"),
        ({"label": 0}, "label"),
        ({"num_samples": 15}, "num_samples"),
        ({"num_samples": 5001}, "num_samples"),
        ({"num_samples": "100"}, "num_samples"),
        ({"num_features": 0}, "num_features"),
        ({"num_features": 501}, "num_features"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"samples": 10}, "samples"),
    ],
)
def test_an_invalid_field_is_named(
    client: TestClient, change: dict[str, object], field: str
) -> None:
    reply = client.post("/v1/explain", json={"text": "ok", **change})
    assert reply.status_code == 422
    assert reply.json()["error"]["field"] == field


def test_an_explanation_gets_the_deadline_of_its_request(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines: list[float | None] = []

    async def recorded(*_: object, deadline: float | None) -> None:
        deadlines.append(deadline)
        raise DeadlineError

    monkeypatch.setattr(Explainer, "explain", lambda *args: recorded(*args[:-1], deadline=args[-1]))
    for headers in ({}, {"x-request-timeout": "9"}):
        assert client.post("/v1/explain", json={"text": "a"}, headers=headers).status_code == 503
    assert deadlines[0] is None
    assert deadlines[1] is not None


def test_a_text_that_is_too_long_is_refused(client: TestClient) -> None:
    reply = client.post("/v1/explain", json={"text": "a" * 10_001})
    assert (reply.status_code, reply.json()["error"]["field"]) == (413, "text")


@pytest.mark.parametrize(
    "text", ["?!", "word", "word " * 2000, "😂", "\u200b", "a" * 10_000, "你好" * 99]
)
def test_unusual_texts_are_explained(client: TestClient, text: str) -> None:
    reply = client.post("/v1/explain", json={"text": text, "num_samples": 32})
    assert reply.status_code == 200
    body = reply.json()
    assert (body["r2"] is None) == (body["words"] == [])


def test_a_browser_gets_limes_page_with_its_own_csp(client: TestClient) -> None:
    accept = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"
    reply = client.post("/v1/explain", json={"text": HOSTILE}, headers={"accept": accept})
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers.get_list("content-security-policy")
    assert len(policy) == 1
    assert "script-src 'sha256-" in policy[0]
    assert "lime.Explanation" in reply.text
    assert "alert(" not in reply.text


@pytest.mark.parametrize("path", sorted(PATHS))
def test_the_pages_files_have_a_csp_and_an_etag(client: TestClient, path: str) -> None:
    reply = client.get(path)
    assert reply.status_code == 200
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    again = client.get(path, headers={"if-none-match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_links_existing_files_and_has_no_inline_script(
    client: TestClient,
) -> None:
    for path in ("/", "/card", "/ui/app.js", "/ui/batch.js", "/ui/card.js", "/ui/review.js"):
        text = client.get(path).text
        for link in re.findall(r'(?:src|href)="(/[^"#]*)"', text):
            assert client.get(link).status_code == 200, link
        for module in re.findall(r'from "\./([\w.]+)"', text):
            assert client.get(f"/ui/{module}").status_code == 200, module
        assert not re.search(
            r"<script(?![^>]* src=)|\son\w+=\"|\sstyle=\"|innerHTML|https?://(?!www\.w3\.org/2000/svg)[\w]",
            text,
        )
