"""An MLflow server with its artifacts, and a checkout that registers and promotes there."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.support.bundles import version
from tests.support.mongodb import free_port
from tests.support.service import ROOT

START_SECONDS = 120.0
MODEL = "tweet-tagger"
PROMOTE = """
import sys
from training.release import promote, releases
promote.apply_state(releases.read_state().promote(sys.argv[1]))
"""


class MlflowServer:
    """`mlflow server` on loopback; it can be stopped, and started again on the same port."""

    def __init__(self, folder: Path, store: Path | None = None) -> None:
        """Take a folder for its files, and a store that exists already."""
        self.port = free_port()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{store or folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        path = self.folder / "server.log"
        with path.open("ab") as log:
            # A group of its own: its workers are children.
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, path.read_text()
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        self.stop()
        raise TimeoutError(path.read_text())

    def stop(self) -> None:
        """Kill it and its workers."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)

    def __enter__(self) -> "MlflowServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def checkout_of(bundle: Path, folder: Path) -> Path:
    """Make a checkout as `make train` would leave it, with this bundle as its candidate."""
    for needed in ("configs", "training", "serving", "requirements"):
        (folder / needed).parent.mkdir(parents=True, exist_ok=True)
        (folder / needed).symlink_to(ROOT / needed)
    shutil.copytree(bundle, folder / "models" / "candidate")
    (folder / "models" / "finetuned").mkdir()
    (folder / "models" / "finetuned" / "run.json").write_text('{"run_id": null}')
    (folder / "data").mkdir()
    (folder / "data" / "profile.yaml").write_text("profile: full\ndata: sources\n")
    for name in ("plots/none", "drift/none", "rules.json"):
        (folder / "reports" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "reports" / name).write_text("{}")
    return folder


class Releases:
    """A copy of a trained checkout that registers bundles at a server and moves its aliases."""

    def __init__(self, trained: Path, folder: Path, server: MlflowServer) -> None:
        self.folder = shutil.copytree(trained, folder, symlinks=True)
        self._environment = os.environ | {"MLFLOW_TRACKING_URI": server.url}

    def register(self, bundle: Path) -> None:
        """Register a bundle as `make train` does, and make it a release."""
        candidate = self.folder / "models" / "candidate"
        for path in bundle.iterdir():
            shutil.copy(path, candidate)
        self._run("-m", "training.release.register")
        release = self.folder / "models" / "releases" / version(bundle)
        shutil.copytree(bundle, release)

    def promote(self, bundle: Path) -> None:
        """Put a registered bundle into production, as `make promote` does after its gates."""
        self._run("-c", PROMOTE, version(bundle))

    def roll_back(self) -> None:
        """Do what `make rollback` does."""
        self._run("-m", "training.release.promote", "--rollback")

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
