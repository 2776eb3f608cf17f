"""What the rehearsal makes of a Dockerfile's lines; RUN needs root and is left to it."""

import os
from pathlib import Path

import pytest

from deploy.dockerfiles import DockerfileError, build
from tests.conftest import ROOT


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    context, base, work = tmp_path / "context", tmp_path / "base", tmp_path / "work"
    for folder in (context / "code" / "deep", base / "etc", work):
        folder.mkdir(parents=True)
    (context / "code" / "deep" / "a.py").write_text("a")
    (context / "one.yaml").write_text("1")
    (context / "two.yaml").write_text("2")
    (base / "etc" / "os").write_text("clean")
    return context, base, work


def built(text: str, folders: tuple[Path, Path, Path], **args: str) -> dict:
    context, base, work = folders
    (context / "Dockerfile").write_text(text)
    return build(context / "Dockerfile", context, base, work, args=args)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="COPY gives files to root")


@needs_root
def test_stages_copies_and_what_is_run(folders: tuple[Path, Path, Path]) -> None:
    stages = built(
        """
ARG BASE=debian
FROM ${BASE} AS first
COPY one.yaml two.yaml /made/
FROM ${BASE} AS second
WORKDIR /app
COPY --from=first /made /opt/made
COPY --chown=1000:1000 code code
ENV PATH=/opt/bin:$PATH KEY="a value"
USER 1000
HEALTHCHECK --interval=30s CMD ["python", "-c", "pass"]
CMD ["python", "-m", "app"]
FROM second
ARG WHICH=one
COPY ${WHICH}.yaml configs/
""",
        folders,
        WHICH="two",
    )
    last = stages["2"]
    assert (last.workdir, last.user) == ("/app", "1000")
    assert last.command == ("python", "-m", "app")
    assert last.health == ("python", "-c", "pass")
    assert last.env["KEY"] == "a value"
    assert last.env["PATH"].startswith("/opt/bin:/usr/local/sbin:")
    assert {str(p.relative_to(last.root)) for p in last.root.rglob("*") if p.is_file()} == {
        "etc/os",
        "opt/made/one.yaml",
        "opt/made/two.yaml",
        "app/code/deep/a.py",
        "app/configs/two.yaml",
    }
    assert (last.root / "app/code/deep/a.py").stat().st_uid == 1000
    assert not (stages["second"].root / "app/configs").exists()
    assert not (folders[1] / "made").exists()  # the base stays clean


@needs_root
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("COPY missing.txt /x", "COPY: missing.txt: not there"),
        ("COPY --chmod=700 one.yaml /x", "COPY: --chmod: not known here"),
        ("ADD one.yaml /x", "ADD: not known here"),
        ("CMD python -m app", "CMD: not known here"),
        ("VOLUME /data", "VOLUME: not known here"),
    ],
)
def test_what_cannot_be_run_is_named(
    line: str, reason: str, folders: tuple[Path, Path, Path]
) -> None:
    with pytest.raises(DockerfileError, match=reason):
        built(f"FROM debian\n{line}\n", folders)


def test_both_dockerfiles_end_as_an_ordinary_user() -> None:
    for name in ("Dockerfile.serve", "Dockerfile.train"):
        lines = (ROOT / name).read_text().splitlines()
        assert [line for line in lines if line.startswith("USER ")] == ["USER 1000"]


def test_the_image_leaves_out_only_what_the_lock_has() -> None:
    unused = (ROOT / "deploy/unused.txt").read_text().split()
    lock = (ROOT / "requirements/serve.txt").read_text().splitlines()
    locked = {line.split("==")[0] for line in lock}
    assert unused == sorted(unused)
    assert set(unused) <= locked
