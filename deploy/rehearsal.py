"""Builds Dockerfile.serve without an engine, in a clean Debian, and serves from it.

    python -m deploy.rehearsal [BUNDLE]     as root; the bundle is models/production by default

Then, as the image would: starts its command as its user on loopback, asks for its health, a
prediction and an explanation, stops it, and weighs what is installed. Exit 1 if anything fails, or
if that is more than LIMIT_MB without the bundle.
"""
# ruff: noqa: S603 - the command lines are made here

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploy.dockerfiles import DockerfileError, Stage, build
from deploy.smoke import SmokeError, smoke

LIMIT_MB = 450
SUITE = "bookworm"  # the Debian of the Dockerfiles' base; its python3 is 3.11
BASE = Path("build/debian")
SLIM = ("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man")
BUNDLE_FOLDER = "app/models/production"


def clean_root() -> Path:
    """Return a Debian with its own Python 3.11, made once."""
    if not (BASE / "usr/bin/python3").exists():
        shutil.rmtree(BASE, ignore_errors=True)
        scratch = BASE.with_suffix(".part")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        packages = "--include=python3,python3-venv,ca-certificates"
        subprocess.run(
            ["debootstrap", "--variant=minbase", packages, SUITE, str(scratch)],  # noqa: S607
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        # What Debian's slim images leave out too.
        for left_out in ("var/cache/apt", "var/lib/apt/lists", *SLIM):
            shutil.rmtree(scratch / left_out)
        scratch.replace(BASE)
    return BASE


def context(folder: Path, bundle: Path) -> Path:
    """Copy what .dockerignore lets through that Dockerfile.serve asks for."""
    for name in ("requirements", "deploy", "configs", "serving"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(name, folder / name, ignore=ignored)
    ignored = shutil.ignore_patterns("reference.parquet")
    shutil.copytree(bundle, folder / "models/production", ignore=ignored)
    return folder


def megabytes(folder: Path) -> float:
    """Return the bytes of a folder's files, in 10⁶; a file of several names counts once."""
    asked = ["du", "--summarize", "--bytes", str(folder)]
    return int(subprocess.run(asked, capture_output=True, check=True).stdout.split()[0]) / 1e6


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def serve(stage: Stage) -> list[str]:
    """Run the stage's command and ask it; return what was seen.

    Raises:
        SmokeError: it did not do what an image must.
    """
    port = free_port()
    env = {"HOST": "127.0.0.1", "PORT": str(port)}
    started = time.monotonic()
    process = subprocess.Popen(stage.inside(*stage.command, env=env))
    try:
        seen = [smoke(f"http://127.0.0.1:{port}", None, 90)]
        seen.append(f"ready and asked within {time.monotonic() - started:.1f} s of the start")
        (service,) = children(process.pid)
        user = Path(f"/proc/{service}").stat().st_uid
        if user != int(stage.user) or user == 0:
            raise SmokeError(f"runs as user {user}, wanted {stage.user}")
        seen.append(f"runs as user {user}")
        if subprocess.run(stage.inside(*stage.health, env=env), check=False).returncode:
            raise SmokeError("its health check fails while it answers")
        os.kill(service, signal.SIGTERM)
        if code := process.wait(30):
            raise SmokeError(f"stopped with {code}, wanted 0")
        if not subprocess.run(
            stage.inside(*stage.health, env=env), capture_output=True, check=False
        ).returncode:
            raise SmokeError("its health check passes although it is stopped")
        return [*seen, "its health check tells up from down; SIGTERM ends it with 0"]
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Rehearse."""
    bundle = Path(sys.argv[1] if len(sys.argv) > 1 else "models/production").resolve()
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        sys.exit("error: needs root and debootstrap (apt-get install debootstrap)")
    base = clean_root()
    with tempfile.TemporaryDirectory(dir="build") as scratch:
        work = Path(scratch)
        try:
            (work / "stages").mkdir()
            stages = build(
                Path("Dockerfile.serve"), context(work / "context", bundle), base.resolve(),
                (work / "stages").resolve(), args={},
            )  # fmt: skip
            *_, stage = stages.values()
            seen = serve(stage)
        except (DockerfileError, SmokeError) as error:
            sys.exit(f"error: {error}")
        whole, debian = megabytes(stage.root), megabytes(base)
        carried = megabytes(stage.root / BUNDLE_FOLDER)
    installed = whole - carried
    print("\n".join(f"  {line}" for line in seen))
    print(f"  Debian and Python {debian:.0f} MB, the service {installed - debian:.0f} MB")
    print(f"  installed without the bundle {installed:.0f} MB; the bundle {carried:.0f} MB")
    if installed > LIMIT_MB:
        sys.exit(f"error: installed are {installed:.0f} MB, wanted at most {LIMIT_MB}")


if __name__ == "__main__":
    main()
