"""The servers that are compared: how each starts, what it is sent, how its reply reads.

A peer's environment is made once, under .bench/, from peers/NAME/requirements.txt.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.serving.process import Server
from tests.support.mongodb import free_port

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / ".bench"
PEERS = HERE / "peers"
INFINITY_MODEL, MLFLOW_MODEL = WORK / "infinity-model", WORK / "mlflow-model"
MLSERVER_MODEL = WORK / "mlserver-model"
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": str(WORK / "huggingface"),
    "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TOKENIZERS_PARALLELISM": "true",
}
Scores = list[dict[str, float]]  # of each text: its labels' scores, and whatever else a reply has


class TargetError(Exception):
    """A target cannot be measured; the message says why."""


@dataclass(frozen=True, slots=True)
class Models:
    """The same model in the formats that the servers need."""

    bundle: Path
    finetuned: Path  # the fp32 model of which the bundle was made, as a Hugging Face folder
    fp32: Path  # the same as ONNX


@dataclass(frozen=True, slots=True)
class Target:
    """One server."""

    name: str
    title: str
    model: str
    command: Callable[[Models, int], list[str]]
    path: str
    body: Callable[[list[str]], Any]  # the JSON document that asks for the scores of texts
    scores: Callable[[Any], Scores]  # what the reply's JSON document says
    own_environment: bool = True
    prepare: Callable[[Models], None] = lambda _: None
    packages: tuple[str, ...] = ()
    start_timeout: float = 120.0

    def start(self, models: Models, port: int) -> Server:
        log = WORK / "logs" / f"{self.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        return Server(self.command(models, port), OFFLINE, ROOT, log, port)

    def score(self, server: Server, texts: list[str]) -> Scores:
        """Return the scores that a running server gives to the texts."""
        reply = server.http.post(self.path, json=self.body(texts))
        if reply.status_code != 200:
            raise TargetError(f"{self.title}: status {reply.status_code}: {reply.text[:300]}")
        scores = self.scores(reply.json())
        if len(scores) != len(texts):
            raise TargetError(f"{self.title}: got {len(scores)} scores, wanted {len(texts)}")
        return scores


def python(name: str) -> str:
    """Return the interpreter of a peer's environment."""
    return str(WORK / name / "bin" / "python")


def _run(what: str, command: list[str], timeout: float) -> None:
    """Run a command in the project's root.

    Raises:
        TargetError: it failed.
    """
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip
    if done.returncode:
        raise TargetError(f"{what}: {done.stderr[-600:]}")


def install(name: str) -> None:
    """Make a peer's environment, unless one with the same requirements is there."""
    requirements = PEERS / name / "requirements.txt"
    folder, mark = WORK / name, WORK / name / "installed"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if mark.is_file() and mark.read_text() == digest:
        return
    print(f"making {folder.relative_to(ROOT)} (a few minutes, once)", flush=True)
    venv.create(folder, clear=True, with_pip=True)
    pip = [python(name), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run(f"{name}: pip install", [*pip, "-r", str(requirements)], timeout=1800)
    mark.write_text(digest)


def versions(target: Target) -> str:
    """Return the versions of the packages that a target runs on."""
    code = (
        "import sys; from importlib.metadata import version;"
        "print(', '.join(f'{p} {version(p)}' for p in sys.argv[1:]))"
    )
    interpreter = python(target.name) if target.own_environment else sys.executable
    done = subprocess.run(
        [interpreter, "-c", code, *target.packages], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _prepare(name: str, folder: Path, *args: Path) -> None:
    """Convert the model to a peer's format, with the peer's own tools."""
    shutil.rmtree(folder, ignore_errors=True)
    script = PEERS / name / "prepare.py"
    command = [python(name), str(script), *map(str, args), str(folder)]
    _run(f"{name}: converting the model", command, timeout=300)


def _ours(models: Models, port: int, workers: int = 1) -> list[str]:
    """Return this service's command: default settings, an empty log, no cache."""
    log = WORK / "log"
    shutil.rmtree(log, ignore_errors=True)
    log.mkdir(parents=True)
    settings = {
        "TAGGER_HOST": "127.0.0.1", "TAGGER_PORT": port, "TAGGER_BUNDLE": models.bundle,
        "TAGGER_CACHE_SIZE": 0, "TAGGER_OUTBOX": log / "outbox.db", "MONGODB_URI": "",
        "TAGGER_MONGODB_URI": "", "TAGGER_WORKERS": workers,
    }  # fmt: skip
    assignments = [f"{key}={value}" for key, value in settings.items()]
    return ["/usr/bin/env", *assignments, sys.executable, "-m", "serving", "serve"]


def _by_label(rows: list[list[dict[str, Any]]]) -> Scores:
    """Convert lists of {label, score}, the format of transformers' pipeline."""
    return [{each["label"]: each["score"] for each in row} for row in rows]


OURS = Target(
    name="ours",
    title="Tweet Tagger",
    model="static int8 bundle",
    command=_ours,
    path="/v1/predict",
    body=lambda texts: {"texts": texts},
    scores=lambda reply: [each["scores"] for each in reply["predictions"]],
    own_environment=False,
    packages=("fastapi", "uvicorn", "onnxruntime"),
)
TARGETS = [
    OURS,
    replace(
        OURS,
        name="workers",
        title="Tweet Tagger, TAGGER_WORKERS=2",
        command=lambda models, port: _ours(models, port, workers=2),
    ),
    Target(
        name="batcher",
        title="a plain FastAPI batcher",
        model="static int8 bundle",
        command=lambda models, port: [
            sys.executable, "-m", "benchmarks.serving.peers.batcher.server",
            str(models.bundle), str(port),
        ],
        path="/predict",
        body=lambda texts: {"texts": texts},
        scores=lambda reply: reply,
        own_environment=False,
        packages=("fastapi", "uvicorn", "onnxruntime"),
    ),
    Target(
        name="infinity",
        title="infinity-emb, optimum engine",
        model="dynamic int8 by Optimum",
        prepare=lambda models: _prepare("infinity", INFINITY_MODEL, models.finetuned, models.fp32),
        command=lambda _, port: [
            str(WORK / "infinity" / "bin" / "infinity_emb"), "v2", "--engine", "optimum",
            "--device", "cpu", "--model-id", str(INFINITY_MODEL), "--served-model-name", "tagger",
            "--no-model-warmup", "--no-vector-disk-cache", "--log-level", "warning",
            "--host", "127.0.0.1", "--port", str(port),
        ],
        path="/classify",
        body=lambda texts: {"model": "tagger", "input": texts},
        scores=lambda reply: _by_label(reply["data"]),
        packages=("infinity-emb", "optimum", "onnxruntime", "transformers"),
    ),
    Target(
        name="mlflow",
        title="mlflow models serve",
        model="static int8 bundle (pyfunc)",
        command=lambda _, port: [
            "/usr/bin/env", f"PATH={WORK / 'mlflow' / 'bin'}:{os.environ['PATH']}",  # its uvicorn
            "mlflow", "models", "serve", "--env-manager", "local", "--model-uri", str(MLFLOW_MODEL),
            "--host", "127.0.0.1", "--port", str(port),
        ],
        path="/invocations",
        body=lambda texts: {"inputs": texts},
        scores=lambda reply: reply["predictions"],
        prepare=lambda models: _prepare("mlflow", MLFLOW_MODEL, models.bundle),
        packages=("mlflow", "onnxruntime"),
    ),
    Target(
        name="mlserver",
        title="MLServer, Hugging Face runtime",
        model="dynamic int8 by Optimum",
        prepare=lambda models: _prepare("mlserver", MLSERVER_MODEL, models.finetuned, models.fp32),
        command=lambda _, port: [
            "/usr/bin/env", "MLSERVER_HOST=127.0.0.1", f"MLSERVER_HTTP_PORT={port}",
            f"MLSERVER_GRPC_PORT={free_port()}", f"MLSERVER_METRICS_PORT={free_port()}",
            str(WORK / "mlserver" / "bin" / "mlserver"), "start", str(MLSERVER_MODEL),
        ],
        path="/v2/models/tagger/infer",
        body=lambda texts: {
            "inputs": [
                {"name": "array_inputs", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
            ]
        },
        scores=lambda reply: [
            {row["label"]: row["score"]} for row in map(json.loads, reply["outputs"][0]["data"])
        ],
        packages=("mlserver", "mlserver-huggingface", "optimum", "onnxruntime", "transformers"),
    ),
    Target(
        name="pipeline",
        title="FastAPI around transformers.pipeline",
        model="fp32 parent, torch, bf16",
        command=lambda models, port: [
            python("pipeline"), str(PEERS / "pipeline" / "server.py"),
            str(models.finetuned), str(port),
        ],
        path="/predict",
        body=lambda texts: {"texts": texts},
        scores=_by_label,
        packages=("transformers", "torch", "fastapi", "uvicorn"),
    ),
]  # fmt: skip
