"""The service as a process of its own, for tests that speak HTTP to it."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from serving.settings import PREFIX, Settings, variables

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 120  # for a busy machine


def without_settings() -> dict[str, str]:
    """The environment of the tests, without settings of the service."""
    names = {variable for name in Settings.model_fields for variable in variables(name)}
    return {name: value for name, value in os.environ.items() if name not in names}


class Served:
    """`python -m serving serve` on a free port; `environment` has settings, without prefix."""

    def __init__(self, bundle: Path, log: Path, **environment: str) -> None:
        defaults = {"BUNDLE": str(bundle), "PORT": "0", "OUTBOX": str(log / "outbox.db")}
        settings = {PREFIX + name: value for name, value in (defaults | environment).items()}
        self.log = log / "stderr"
        started = time.perf_counter()
        with self.log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serving", "serve"],
                cwd=ROOT,
                env=without_settings() | settings,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdout
        select.select([self.process.stdout], [], [], START_SECONDS)
        line = self.process.stdout.readline() if self.process.poll() is None else ""
        self.seconds_to_start = time.perf_counter() - started
        assert line.startswith("Tweet Tagger on http://"), self.log.read_text()
        self.url = line.split()[3]
        self.port = int(self.url.rpartition(":")[2])
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def predict(self, *texts: str, **more: object) -> httpx.Response:
        """POST /v1/predict."""
        return self.http.post("/v1/predict", json={"texts": texts, **more})

    def predictions(self, *texts: str) -> list[dict[str, Any]]:
        """The predictions of texts."""
        reply = self.predict(*texts)
        assert reply.status_code == 200, reply.text
        return list(reply.json()["predictions"])

    def scores(self, *texts: str) -> list[dict[str, float]]:
        """The scores of each text by label."""
        return [row["scores"] for row in self.predictions(*texts)]

    def raw(self, *parts: bytes) -> bytes:
        """Send raw bytes; return what is received until the connection closes or is silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            for part in parts:
                connection.sendall(part)
            received = b""
            try:
                while piece := connection.recv(65536):
                    received += piece
            except TimeoutError:
                pass
            return received

    def metric(self, name: str) -> float:
        """The value of a metric, summed over its labels; 0 if no labels were counted yet."""
        lines = self.http.get("/metrics").text.splitlines()
        families = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
        assert any(map(name.startswith, families)), name
        samples = [line for line in lines if line.split()[0].partition("{")[0] == name]
        return sum(float(line.split()[-1]) for line in samples)

    def wait_for(self, name: str, expected: float) -> None:
        """Return once a metric has the expected value."""
        deadline = time.monotonic() + START_SECONDS
        while (value := self.metric(name)) != expected:
            assert time.monotonic() < deadline, f"{name} is {value}, not {expected}"
            time.sleep(0.01)

    def stop(self) -> float:
        """Send SIGTERM; return the seconds until the process has ended."""
        started = time.perf_counter()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.http.close()
            if self.process.stdout:
                self.process.stdout.close()
        return time.perf_counter() - started
