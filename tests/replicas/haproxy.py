"""HAProxy in front of the replicas, in the place of a Service and of the kubelets' probes.

It listens on two ports: one forwards requests, as an Ingress does, the other connections, as a
Service does. A connection through the second stays at its replica until one of both closes it.
HAProxy retries nothing, as a Service retries nothing: a request that reaches a replica which has
closed its port, or closes the connection, fails and is counted.
"""

import asyncio
import csv
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.support.mongodb import free_port
from tests.support.service import START_SECONDS

CONFIG = """\
global
  maxconn 1000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout check {timeout}s
  retries 0
frontend requests
  bind 127.0.0.1:{port}
  default_backend replicas
frontend connections
  mode tcp
  bind 127.0.0.1:{tcp_port}
  default_backend pods
frontend statistics
  bind 127.0.0.1:{statistics}
  stats enable
  stats uri /
backend replicas
  balance roundrobin
  option httpchk GET {path}
  http-check expect status 200
  default-server check inter {period}s fall {fall} rise {rise}
{servers}
backend pods
  mode tcp
  balance roundrobin
  option httpchk GET {path}
  http-check expect status 200
  default-server check inter {period}s fall {fall} rise {rise}
{servers}
"""


class HAProxy:
    """A load balancer that asks each replica what its readiness probe asks.

    Args:
        folder: for its configuration and its log.
        ports: of the replicas, on 127.0.0.1.
        probe: the readiness probe of the manifests.
    """

    def __init__(self, folder: Path, ports: Sequence[int], probe: dict[str, Any]) -> None:
        self.port, self.tcp_port, self._statistics = free_port(), free_port(), free_port()
        self._folder = folder
        self._config = CONFIG.format(
            port=self.port,
            tcp_port=self.tcp_port,
            statistics=self._statistics,
            path=probe["httpGet"]["path"],
            period=probe["periodSeconds"],
            timeout=probe["timeoutSeconds"],
            fall=probe["failureThreshold"],
            rise=probe.get("successThreshold", 1),
            servers="\n".join(f"  server {port} 127.0.0.1:{port}" for port in ports),
        )
        self._process: subprocess.Popen[bytes] | None = None

    async def statuses(self) -> dict[int, str]:
        """Return `UP`, `DOWN`, or a state between them, by the replica's port.

        Both ports have their own checks; a replica is up if it is so for both.
        """
        async with httpx.AsyncClient() as client:
            reply = await client.get(f"http://127.0.0.1:{self._statistics}/;csv")
        rows = csv.DictReader(reply.text.removeprefix("# ").splitlines())
        servers = [row for row in rows if row["svname"].isdigit()]
        servers.sort(key=lambda row: row["status"] != "UP")  # the last one counts
        return {int(row["svname"]): row["status"] for row in servers}

    async def wait_until_up(self, ports: Sequence[int]) -> None:
        """Wait until requests reach these replicas."""
        async with asyncio.timeout(START_SECONDS):
            while not {(await self.statuses())[port] for port in ports} <= {"UP"}:
                await asyncio.sleep(0.1)

    async def __aenter__(self) -> "HAProxy":
        config = self._folder / "haproxy.cfg"
        config.write_text(self._config)
        program = shutil.which("haproxy") or "/usr/sbin/haproxy"
        with (self._folder / "haproxy.log").open("wb") as log:
            command = [program, "-db", "-f", str(config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self._answers():
                    await asyncio.sleep(0.1)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process
        self._process.kill()  # its own graceful stop would wait for the clients' idle connections
        await asyncio.to_thread(self._process.wait)

    async def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, (self._folder / "haproxy.log").read_text()
        try:
            return bool(await self.statuses())
        except httpx.TransportError:
            return False
