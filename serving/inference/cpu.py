"""How many processors this process may use.

ONNX Runtime counts the machine's cores. A container's limit is a quota of processor time (cgroup
version 1 or 2), which no core count shows; with more threads than quota they throttle each other.
"""

import os
from math import ceil
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OURS = Path("/proc/self/cgroup")


def cpu_limit(cgroups: Path = CGROUPS, ours: Path = OURS) -> int:
    """Return the whole processors that this process may keep busy, at least 1."""
    cores = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _folders(cgroups, ours) if (quota := _quota(folder)) is not None]
    return max(1, min([cores, *map(ceil, quotas)]))


def _folders(cgroups: Path, ours: Path) -> list[Path]:
    """Return this process's cgroups and all above them: the tightest limit holds."""
    folders = []
    for line in _read(ours).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 names no controllers. Version 1 has a folder for them.
        root = cgroups / "cpu" if controllers else cgroups
        here = root / path.strip("/")
        folders += [here, *here.parents][: len(here.parts) - len(root.parts) + 1]
    # Inside a container the paths may be the host's, while its own group is mounted at the root.
    return [*folders, cgroups, cgroups / "cpu"]


def _quota(folder: Path) -> float | None:
    """Return a cgroup's limit in processors; None if it has none."""
    limit, _, period = _read(folder / "cpu.max").partition(" ")  # version 2: "max" or a number
    if not limit:
        limit, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    try:
        quota = int(limit) / int(period)
    except ValueError:
        return None
    return quota if quota > 0 else None  # version 1 says -1 for none


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
