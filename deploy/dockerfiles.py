"""Runs a Dockerfile's lines where there is no engine: a stage is a folder, a RUN a chroot.

It does what those instructions mean that ours use, and refuses the others by name. What it cannot
show: layers, caches, the registry's base image (a Debian made by debootstrap stands in) and the
network an engine would lay. Needs root, on Linux.
"""
# ruff: noqa: S603 - the command lines are made here

import glob
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import dockerfile

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # an image that says nothing
IGNORED = {"LABEL", "EXPOSE"}
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


class DockerfileError(Exception):
    """A line that cannot be run here, or that failed; the text names it."""


@dataclass(frozen=True)
class Stage:
    """A built stage: its root, and what the image would say of how to run it."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0"
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()

    def inside(self, *command: str, env: Mapping[str, str] | None = None) -> list[str]:
        """Return the command line that runs `command` in the stage as its user, with its own
        processes, which end with it.
        """
        pairs = [f"{key}={value}" for key, value in (self.env | dict(env or {})).items()]
        root = str(self.root)
        return [
            "unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={root}/proc",
            "sh", "-c", 'mount -t tmpfs tmpfs "$0/dev/shm" && exec chroot "$@"', root,
            f"--userspec={self.user}:{self.user}", root, "/usr/bin/env", "-i", *pairs,
            "/bin/sh", "-c", 'cd "$0" && exec "$@"', self.workdir, *command,
        ]  # fmt: skip


def build(  # noqa: PLR0912 - one case an instruction
    path: Path, context: Path, base: Path, work: Path, *, args: Mapping[str, str]
) -> dict[str, Stage]:
    """Run a Dockerfile's lines; return its stages by name, or by number where they have none.

    Args:
        path: the Dockerfile.
        context: where COPY reads from.
        base: a root that stands in for every image that is not a stage.
        work: an empty folder, for the stages' roots.
        args: build arguments.

    Raises:
        DockerfileError: a line failed, or is none that can be run here.
    """
    stages: dict[str, Stage] = {}
    known = dict(args)
    name, stage = "", Stage(base)
    for line in dockerfile.parse_file(str(path)):
        where = f"{path}:{line.start_line}: {line.cmd}"
        value = list(line.value)
        if line.cmd not in {"RUN", "CMD", "HEALTHCHECK"}:
            value = [_filled(word, known | stage.env) for word in value]
        match line.cmd:
            case "ARG":
                key, _, default = value[0].partition("=")
                known.setdefault(key, default)
            case "FROM":
                name = value[2] if len(value) == 3 else str(len(stages))
                origin = stages.get(value[0], Stage(base, {"PATH": PATH}))
                _run(["cp", "-a", str(origin.root), str(work / name)], where)
                stage = replace(origin, root=work / name)
            case "RUN":
                environment = {key: known[key] for key in known} | _machine(stage)
                shell = value if line.json else ["/bin/sh", "-c", value[0]]
                _run(stage.inside(*shell, env={**environment, **stage.env}), where)
            case "COPY":
                options = dict(flag[2:].split("=", 1) for flag in line.flags)
                if unknown := set(options) - {"from", "chown"}:
                    raise DockerfileError(f"{where}: --{unknown.pop()}: not known here")
                if "from" in options:
                    _copy(stage, stages[options["from"]].root, value, where, owner=None)
                else:
                    owner = options.get("chown", "0:0")
                    _copy(stage, context, value, where, owner=owner)
            case "ENV":
                pairs = dict(zip(value[0::2], value[1::2], strict=True))
                stage = replace(stage, env=stage.env | {k: v.strip('"') for k, v in pairs.items()})
            case "WORKDIR":
                stage = replace(stage, workdir=str(Path(stage.workdir, value[0])))
                (stage.root / stage.workdir[1:]).mkdir(parents=True, exist_ok=True)
            case "USER":
                stage = replace(stage, user=value[0])
            case "CMD" if line.json:
                stage = replace(stage, command=tuple(value))
            case "HEALTHCHECK" if value[0] == "CMD":
                stage = replace(stage, health=tuple(value[1:]))
            case other if other not in IGNORED:
                raise DockerfileError(f"{where}: not known here")
        if name:
            stages[name] = stage
    return stages


def _filled(word: str, values: Mapping[str, str]) -> str:
    return VARIABLE.sub(lambda found: values.get(found[1] or found[2], ""), word)


def _machine(stage: Stage) -> dict[str, str]:
    """Lend a RUN this machine's way to its package index, as an engine's network would."""
    shutil.copyfile("/etc/resolv.conf", stage.root / "etc/resolv.conf")
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.is_file():
        shutil.copyfile(certificates, stage.root / "etc/ssl/certs/ca-certificates.crt")
    asked = subprocess.run(
        ["python3", "-m", "pip", "config", "get", "global.index-url"],  # noqa: S607
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = {"PIP_CERT": str(certificates), "PIP_DEFAULT_TIMEOUT": "180"}
    return found | ({"PIP_INDEX_URL": asked.stdout.strip()} if asked.stdout.strip() else {})


def _copy(stage: Stage, origin: Path, value: list[str], where: str, *, owner: str | None) -> None:
    *sources, target = value
    to = stage.root / str(Path(stage.workdir, target)).lstrip("/")
    for source in sources:
        found = sorted(glob.glob(str(origin / source.lstrip("/"))))  # noqa: PTH207 - of a string
        if not found:
            raise DockerfileError(f"{where}: {source}: not there")
        for one in map(Path, found):
            # A folder's content is copied, a file goes under a target that ends with a slash.
            into = to / one.name if one.is_file() and target.endswith(("/", ".")) else to
            into.parent.mkdir(parents=True, exist_ok=True)
            what = f"{one}/." if one.is_dir() else str(one)
            if one.is_dir():
                into.mkdir(parents=True, exist_ok=True)
            _run(["cp", "-a", what, str(into)], where)
            if owner is not None:
                _run(["chown", "-R", owner, str(into)], where)


def _run(command: list[str], where: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise DockerfileError(f"{where}: exit {ended.returncode}\n{ended.stderr[-2000:]}")
