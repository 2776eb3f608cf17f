"""How many processors this process may use.

ONNX Runtime counts the machine's cores. A container's limit is a quota of processor time (cgroup
version 1 or 2) that no core count shows. With more threads than the quota allows, all of them are
throttled.
"""

import os
from math import ceil
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def cpu_limit(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """Return the number of processors that this process may keep busy: a whole number, at least 1.

    Args:
        cgroups: where the cgroup file system is mounted.
        own: the file that lists this process's cgroups.
    """
    cores = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _folders(cgroups, own) if (quota := _quota(folder)) is not None]
    return max(1, min([cores, *map(ceil, quotas)]))


def _folders(cgroups: Path, own: Path) -> list[Path]:
    """Return this process's cgroups and all above them. The lowest of their limits applies."""
    folders = []
    for line in _read(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 names no controllers; version 1 has a folder for each.
        root = cgroups / "cpu" if controllers else cgroups
        here = root / path.strip("/")
        folders += [here, *here.parents][: len(here.parts) - len(root.parts) + 1]
    # In a container these paths may be the host's, while its own cgroup is mounted at the root.
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
