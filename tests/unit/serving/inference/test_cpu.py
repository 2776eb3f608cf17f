import os
from pathlib import Path

import pytest

from serving.inference.cpu import cpu_limit


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def make_group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content + "\n")


def test_without_a_cgroup_limit_all_cores_count(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path / "none", tmp_path / "none") == 8
    make_group(tmp_path, cpu__max="max 100000")
    assert cpu_limit(tmp_path, tmp_path / "none") == 8


@pytest.mark.parametrize(
    ("quota", "threads"),
    [("20000", 1), ("100000", 1), ("150000", 2), ("400000", 4), ("9000000", 8)],
)
def test_cgroup_2_quota_limits_the_processors(tmp_path: Path, quota: str, threads: int) -> None:
    make_group(tmp_path, cpu__max=f"{quota} 100000")
    assert cpu_limit(tmp_path, tmp_path / "none") == threads


def test_the_tightest_parent_group_counts(tmp_path: Path) -> None:
    (tmp_path / "self").write_text("0::/pods/ours\n")
    make_group(tmp_path / "cgroups" / "pods", cpu__max="300000 100000")
    make_group(tmp_path / "cgroups" / "pods" / "ours", cpu__max="max 100000")
    assert cpu_limit(tmp_path / "cgroups", tmp_path / "self") == 3


def test_cgroup_1_quota_limits_the_processors(tmp_path: Path) -> None:
    (tmp_path / "self").write_text("5:memory:/x\n2:cpu,cpuacct:/ours\n")
    ours = tmp_path / "cgroups" / "cpu" / "ours"
    make_group(ours, cpu__cfs_quota_us="250000", cpu__cfs_period_us="100000")
    assert cpu_limit(tmp_path / "cgroups", tmp_path / "self") == 3
    make_group(ours, cpu__cfs_quota_us="-1")
    assert cpu_limit(tmp_path / "cgroups", tmp_path / "self") == 8
