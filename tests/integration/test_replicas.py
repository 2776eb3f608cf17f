"""Three replicas with one model, from an MLflow server, and one rate limit, in Redis."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.bundle import LABELS, Bundle
from tests.support.bundles import variant, version
from tests.support.mlflow import MODEL, MlflowServer, Releases
from tests.support.redis import RedisServer
from tests.support.service import Served

Serve = Callable[..., Served]
REPLICAS, CALLERS = 3, 6
SECONDS = 120.0
TEXT = "you absolute clown"
PER_MINUTE = 60


@pytest.fixture(scope="module")
def bundles(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    origin = trained / "models" / "candidate"
    return [variant(origin, folder / f"{t}", t) for t in (0.5, 2.0)]


class Load:
    """Callers that ask the replicas in turn, each answer noted by replica and model."""

    def __init__(self, replicas: list[Served], bundles: list[Path]) -> None:
        self._replicas = replicas
        self._scores = {version(one): Bundle.load(one).score([TEXT]).labels[0] for one in bundles}
        self._lock, self._done = threading.Lock(), threading.Event()
        self.answers: Counter[tuple[int, str]] = Counter()
        self.failures: list[str] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._done.set()
            for thread in threads:
                thread.join(60)

    def wait_for_answers(self, model: str, from_each: int) -> None:
        """Return once every replica has answered with a model as often as that from now on."""
        with self._lock:
            wanted = [self.answers[i, model] + from_each for i in range(REPLICAS)]
        deadline = time.monotonic() + SECONDS
        while any(self.answers[i, model] < wanted[i] for i in range(REPLICAS)):
            assert time.monotonic() < deadline, (model, self.answers, self.failures[:3])
            time.sleep(0.05)

    def _ask(self, number: int) -> None:
        with httpx.Client(timeout=60) as http:
            while not self._done.wait(0.01):
                number = (number + 1) % REPLICAS
                try:
                    self._note(number, self._predict(http, self._replicas[number]))
                except (httpx.HTTPError, AssertionError) as error:
                    self.failures.append(f"{type(error).__name__}: {error}")

    def _predict(self, http: httpx.Client, replica: Served) -> str:
        """Return the model that an answer names, once its scores are that model's."""
        reply = http.post(f"{replica.url}/v1/predict", json={"texts": [TEXT]})
        assert reply.status_code == 200, reply.text
        content = reply.json()
        model = str(content["model"]["version"])
        scores = [content["predictions"][0]["scores"][label] for label in LABELS]
        assert np.abs(self._scores[model] - scores).max() < 1e-3, (model, scores)
        return model

    def _note(self, replica: int, model: str) -> None:
        with self._lock:
            self.answers[replica, model] += 1


def test_promotion_and_rollback_reach_all_replicas_and_no_request_fails(
    trained: Path, bundles: list[Path], serve: Serve, tmp_path: Path
) -> None:
    first, second = map(version, bundles)
    with MlflowServer(tmp_path / "mlflow") as server:
        releases = Releases(trained, tmp_path / "alone", server)
        for bundle in bundles:
            releases.register(bundle)
        releases.promote(bundles[0])
        settings = {
            "BUNDLE": f"models:/{MODEL}@production",
            "MLFLOW_TRACKING_URI": server.url,
            "WATCH_SECONDS": "0.2",
            "CACHE_SIZE": "0",
            "MAX_QUEUE_SECONDS": "60",
        }
        replicas = [serve(**settings) for _ in range(REPLICAS)]  # each with its own outbox, cache
        load = Load(replicas, bundles)
        with load.running():
            load.wait_for_answers(first, 10)
            releases.promote(bundles[1])
            load.wait_for_answers(second, 10)
            releases.roll_back()
            load.wait_for_answers(first, 10)
    print(f"answers by replica and model: {dict(load.answers)}; failed: {len(load.failures)}")
    assert load.failures == []
    assert all(replica.metric("tagger_model_reloads_total") == 2 for replica in replicas)


def test_replicas_share_one_limit_and_none_fails_while_redis_is_away(
    bundles: list[Path], serve: Serve, tmp_path: Path
) -> None:
    with RedisServer(tmp_path) as redis:
        settings = {
            "RATE_LIMIT_STORAGE": redis.url,
            "REQUESTS_PER_MINUTE": "1000000",
            "MAX_QUEUE_SECONDS": "60",
        }
        replicas = [serve(bundles[0], **settings) for _ in range(REPLICAS)]
        load, model = Load(replicas, bundles), version(bundles[0])
        with load.running():
            load.wait_for_answers(model, 10)
            redis.freeze()
            for replica in replicas:
                replica.wait_for("tagger_rate_limit_local", 1)
            load.wait_for_answers(model, 10)
            redis.kill()
            load.wait_for_answers(model, 10)
            redis.start()
            for replica in replicas:
                replica.wait_for("tagger_rate_limit_local", 0)
            load.wait_for_answers(model, 10)
        print(f"answers by replica and model: {dict(load.answers)}; failed: {len(load.failures)}")
        assert load.failures == []
        for replica in replicas:
            replica.stop()

        limited = [
            serve(bundles[0], **settings | {"REQUESTS_PER_MINUTE": str(PER_MINUTE)})
            for _ in range(REPLICAS)
        ]
        statuses = [limited[i % REPLICAS].predict("hello").status_code for i in range(PER_MINUTE)]
        more = [replica.predict("hello").status_code for replica in limited]
        here = sum(each.metric("tagger_rate_limit_local_requests_total") for each in limited)
    assert statuses == [200] * PER_MINUTE
    # What a busy machine made a replica count by itself is missing in Redis.
    assert more.count(200) <= here
