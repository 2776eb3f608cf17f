"""A service as its own process, for tests that speak HTTP to it."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from serving.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 120  # a busy machine may need many


class Served:
    """`python -m serving serve` on a free port of the loopback."""

    def __init__(self, bundle: Path, log: Path, **environment: str) -> None:
        clean = {k: v for k, v in os.environ.items() if k.lower() not in Settings.model_fields}
        wanted = {"BUNDLE": str(bundle), "PORT": "0", "OUTBOX": str(log / "outbox.db")}
        self.log = log / "stderr"
        began = time.perf_counter()
        with self.log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serving", "serve"],
                cwd=ROOT,
                env=clean | wanted | environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdout
        select.select([self.process.stdout], [], [], START_SECONDS)
        line = self.process.stdout.readline() if self.process.poll() is None else ""
        self.seconds_to_start = time.perf_counter() - began
        assert line.startswith("Tweet Tagger on http://"), self.log.read_text()
        self.url = line.split()[3]
        self.port = int(self.url.rpartition(":")[2])
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def predict(self, *texts: str, **more: object) -> httpx.Response:
        """Ask for `texts`."""
        return self.http.post("/v1/predict", json={"texts": texts, **more})

    def scores(self, *texts: str) -> list[dict[str, float]]:
        """The scores of `texts`."""
        reply = self.predict(*texts)
        assert reply.status_code == 200, reply.text
        return [row["scores"] for row in reply.json()["predictions"]]

    def raw(self, *parts: bytes) -> bytes:
        """Send bytes as they are; return what comes until the other side closes or is silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as line:
            for part in parts:
                line.sendall(part)
            got = b""
            try:
                while piece := line.recv(65536):
                    got += piece
            except TimeoutError:
                pass
            return got

    def metric(self, name: str) -> float:
        """The sum over a metric's labels."""
        lines = [line for line in self.http.get("/metrics").text.splitlines() if line[:1] != "#"]
        found = [line for line in lines if line.split()[0].partition("{")[0] == name]
        assert found, name
        return sum(float(line.split()[-1]) for line in found)

    def wait_for(self, name: str, wanted: float) -> None:
        """Return once a metric has a value."""
        deadline = time.monotonic() + START_SECONDS
        while (found := self.metric(name)) != wanted:
            assert time.monotonic() < deadline, f"{name} is {found}, not {wanted}"
            time.sleep(0.01)

    def stop(self) -> float:
        """Tell it to stop; return the seconds until it was gone."""
        began = time.perf_counter()
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
        return time.perf_counter() - began
