"""What is compared: how each server starts, what it is asked, how its answer reads.

A peer's environment is made under .bench/ from tests/bench/peers/NAME/requirements.txt, once.
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

from tests.bench.process import Server, exchange, free_port
from tests.bench.wire import post

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
Rows = list[dict[str, float]]


class TargetError(Exception):
    """A target cannot take part; the text says why."""


@dataclass(frozen=True, slots=True)
class Models:
    """The same model in the forms that the servers want."""

    bundle: Path
    finetuned: Path  # the bundle's fp32 parent: a Hugging Face folder
    fp32: Path  # the same as ONNX


@dataclass(frozen=True, slots=True)
class Target:
    """One server."""

    name: str
    title: str
    model: str
    command: Callable[[Models, int], list[str]]
    path: str
    body: Callable[[list[str]], Any]
    rows: Callable[[Any], Rows]
    environment: bool = True  # of its own; else this one
    prepare: Callable[[Models], None] = lambda _: None
    packages: tuple[str, ...] = ()
    start_timeout: float = 120.0

    def request(self, texts: list[str], port: int) -> bytes:
        """Return the bytes that ask for the scores of `texts`."""
        return post(self.path, self.body(texts), f"127.0.0.1:{port}")

    def start(self, models: Models, port: int) -> Server:
        """Start it."""
        log = WORK / "logs" / f"{self.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        return Server(self.command(models, port), OFFLINE, ROOT, log, port)

    def score(self, server: Server, texts: list[str]) -> Rows:
        """Return what a running server says of `texts`, a row of scores a text."""
        reply, body = exchange(server.port, self.request(texts, server.port))
        if reply.status != 200:
            raise TargetError(f"{self.title}: {reply.status}: {body[:300]!r}")
        rows = self.rows(json.loads(body))
        if len(rows) != len(texts):
            raise TargetError(f"{self.title}: {len(rows)} answers to {len(texts)} texts")
        return rows


def python(name: str) -> str:
    """Return the interpreter of a peer's environment."""
    return str(WORK / name / "bin" / "python")


def install(name: str) -> None:
    """Make a peer's environment, unless it is there and of these very requirements."""
    wanted = PEERS / name / "requirements.txt"
    folder, mark = WORK / name, WORK / name / "installed"
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
    if mark.is_file() and mark.read_text() == digest:
        return
    print(f"making {folder.relative_to(ROOT)} (a few minutes, once)", flush=True)
    venv.create(folder, clear=True, with_pip=True)
    quiet = ["--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [python(name), "-m", "pip", "install", *quiet, "-r", str(wanted)],
        capture_output=True, text=True, check=False, timeout=1800,
    )  # fmt: skip
    if done.returncode:
        raise TargetError(f"{name}: pip: {done.stderr[-600:]}")
    mark.write_text(digest)


def versions(name: str, packages: tuple[str, ...]) -> str:
    """Return what of `packages` a peer's environment holds."""
    code = (
        "import sys; from importlib.metadata import version;"
        "print(', '.join(f'{p} {version(p)}' for p in sys.argv[1:]))"
    )
    interpreter = python(name) if name else sys.executable
    done = subprocess.run(
        [interpreter, "-c", code, *packages], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _prepare(name: str, folder: Path, *args: Path) -> None:
    """Fill a folder anew with a model as a peer wants it, by its own tools."""
    shutil.rmtree(folder, ignore_errors=True)
    done = subprocess.run(
        [python(name), str(PEERS / name / "prepare.py"), *map(str, args), str(folder)],
        cwd=ROOT, env={**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if done.returncode:
        raise TargetError(f"{name}: preparing the model: {done.stderr[-600:]}")


def _ours(models: Models, port: int, workers: int = 1) -> list[str]:
    """Return this service's command: as it is by default, with an empty log and no cache."""
    log = WORK / "log"
    shutil.rmtree(log, ignore_errors=True)
    log.mkdir(parents=True)
    settings = {
        "HOST": "127.0.0.1", "PORT": port, "BUNDLE": models.bundle, "CACHE_SIZE": 0,
        "OUTBOX": log / "outbox.db", "MONGODB_URI": "", "WORKERS": workers,
    }  # fmt: skip
    assignments = [f"{key}={value}" for key, value in settings.items()]
    return ["/usr/bin/env", *assignments, sys.executable, "-m", "serving", "serve"]


def _labelled(rows: list[list[dict[str, Any]]]) -> Rows:
    """Return rows of [{label, score}] by label."""
    return [{each["label"]: each["score"] for each in row} for row in rows]


OURS = Target(
    name="ours",
    title="Tweet Tagger",
    model="static int8 bundle",
    command=_ours,
    path="/v1/predict",
    body=lambda texts: {"texts": texts},
    rows=lambda answer: [each["scores"] for each in answer["predictions"]],
    environment=False,
    packages=("fastapi", "uvicorn", "onnxruntime"),
)
TARGETS = [
    OURS,
    replace(
        OURS,
        name="workers",
        title="Tweet Tagger, WORKERS=2",
        command=lambda models, port: _ours(models, port, workers=2),
    ),
    Target(
        name="batcher",
        title="a plain FastAPI batcher",
        model="static int8 bundle",
        command=lambda models, port: [
            sys.executable, "-m", "tests.bench.peers.batcher.server", str(models.bundle), str(port),
        ],
        path="/predict",
        body=lambda texts: {"texts": texts},
        rows=lambda answer: answer,
        environment=False,
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
        rows=lambda answer: _labelled(answer["data"]),
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
        rows=lambda answer: [
            {label: score for label, score in row.items() if label != "label"}
            for row in answer["predictions"]
        ],
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
        rows=lambda answer: [
            {row["label"]: row["score"]} for row in map(json.loads, answer["outputs"][0]["data"])
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
        rows=_labelled,
        packages=("transformers", "torch", "fastapi", "uvicorn"),
    ),
]  # fmt: skip
