"""Debian's Prometheus as a process of its own, with the repository's configuration and rules."""

import math
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.mongodb import free_port
from tests.support.service import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
FASTER = 10
START_SECONDS = 60
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def configuration(port: int) -> str:
    """The committed prometheus.yml with another target, and a scrape and an evaluation a second."""
    text = (FOLDER / "prometheus.yml").read_text()
    text, targets = re.subn(r"tweet-tagger:7860", f"127.0.0.1:{port}", text)
    text, intervals = re.subn(r"(_interval): 15s", r"\1: 1s", text)
    assert (targets, intervals) == (1, 2)
    return text


def faster(rules: str) -> str:
    """Rules whose waits, windows and limits of an age are a tenth of those in the file.

    The relay waits as long as ever between its tries, so the limit of its silence stays.
    """

    def shorter(match: re.Match[str]) -> str:
        seconds = int(match[2]) * SECONDS[match[3]] // FASTER
        return f"{match[1]}{seconds}s"

    rules = re.sub(r"(for: |\[)(\d+)([smhd])\b", shorter, rules)
    return re.sub(r"(?<=age_seconds > )\d+", lambda m: str(int(m[0]) // FASTER), rules)


class PrometheusServer:
    """A server that scrapes one service; use it in a `with` statement."""

    def __init__(self, folder: Path, target: int) -> None:
        self._folder, self._target, self.port = folder, target, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def __enter__(self) -> "PrometheusServer":
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "prometheus.yml").write_text(configuration(self._target))
        for name in yaml.safe_load((FOLDER / "prometheus.yml").read_text())["rule_files"]:
            (self._folder / name).write_text(faster((FOLDER / name).read_text()))
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        if self._process:
            self._process.terminate()
            self._process.wait(30)

    def _is_ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[float]:
        """The values of a query now, without those that are not a number."""
        reply = self._http.get("/api/v1/query", params={"query": expression}).json()
        assert reply["status"] == "success", f"{expression}: {reply}"
        values = [float(row["value"][1]) for row in reply["data"]["result"]]
        return [value for value in values if not math.isnan(value)]

    def alerts(self, *states: str) -> set[str]:
        """The names of the alerts that are in one of the states."""
        reply: dict[str, Any] = self._http.get("/api/v1/alerts").json()
        return {
            alert["labels"]["alertname"]
            for alert in reply["data"]["alerts"]
            if alert["state"] in states
        }
