"""The upload to the Space: its files, and that its Dockerfile finds all that it copies."""

import fnmatch
import re
import shutil
from pathlib import Path

import pytest
import yaml

from deploy.push import push, stage
from serving.bundle import content_version
from serving.settings import SHIPPED_BUNDLE
from tests.conftest import ROOT
from training.errors import ArtifactError
from training.files import read_json, sha256, write_json
from training.release import releases
from training.release.releases import PRODUCTION, State


class FakeHub:
    """A Hub with one Space, in memory."""

    def __init__(self) -> None:
        self.created: list[str] = []
        self.files: dict[str, bytes] = {}

    def create_repo(self, repo_id: str, *, repo_type: str, space_sdk: str, exist_ok: bool) -> None:
        assert (repo_type, space_sdk, exist_ok) == ("space", "docker", True)
        self.created.append(repo_id)

    def upload_folder(
        self, *, repo_id: str, repo_type: str, folder_path: str, delete_patterns: str,
        commit_message: str,
    ) -> None:  # fmt: skip
        assert (repo_id in self.created, repo_type, delete_patterns) == (True, "space", "*")
        root = Path(folder_path)
        self.files = {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def production(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A checkout that ships the trained bundle and has it in production; its manifest claims the
    real sources.
    """
    monkeypatch.chdir(tmp_path)
    for name in ("serving", "configs", "requirements"):
        shutil.copytree(ROOT / name, name)
    shutil.copytree(ROOT / "deploy" / "space", "deploy/space")
    for name in ("Dockerfile.serve", "deploy/unused.txt"):
        shutil.copyfile(ROOT / name, name)
    version = release(trained / "models/candidate", "sources")
    shutil.copytree(PRODUCTION, SHIPPED_BUNDLE, ignore=shutil.ignore_patterns("*.parquet"))
    return version


def release(candidate: Path, data: str) -> str:
    folder = Path("made")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(candidate, folder)
    manifest = read_json(folder / "bundle.json") | {"data": data}
    manifest["files"] = {name: sha256(folder / name) for name in manifest["files"]}
    manifest["version"] = content_version(manifest)
    write_json(folder / "bundle.json", manifest)
    (folder / "reference.parquet").write_bytes(b"tweets")
    releases.add(manifest["version"], {path.name: path for path in folder.iterdir()})
    releases.write_state(State(manifest["version"]))
    releases.sync_links(releases.read_state())
    return str(manifest["version"])


@pytest.mark.parametrize("bundle", [SHIPPED_BUNDLE, PRODUCTION], ids=str)
def test_the_space_has_all_that_its_dockerfile_copies_and_no_training_data(
    production: str, tmp_path: Path, bundle: Path
) -> None:
    files = set(map(str, stage(bundle, tmp_path / "space")))
    dockerfile = (tmp_path / "space" / "Dockerfile").read_text()
    assert dockerfile.endswith("\nENV TAGGER_STORE_TEXT=none\n")
    default = dockerfile.partition("ARG BUNDLE=")[2].split()[0]
    copied = [
        source.replace("${BUNDLE}", default)
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert len(copied) >= 8
    for source in copied:
        in_folder = any(name.startswith(f"{source}/") for name in files)
        assert in_folder or fnmatch.filter(files, source), source
    assert f"{SHIPPED_BUNDLE}/drift_reference.json" in files
    assert not any(
        "parquet" in name or "training" in name or "__pycache__" in name for name in files
    )
    readme = (tmp_path / "space" / "README.md").read_text()
    front = yaml.safe_load(readme.split("---\n")[1])
    assert front["sdk"] == "docker"
    assert front["license"] == "apache-2.0"
    assert f"PORT={front['app_port']}" in dockerfile
    assert len(front["short_description"]) <= 60  # the Hub's limit
    assert readme.endswith((bundle / "MODEL_CARD.md").read_text())


def test_a_dry_run_lists_exactly_the_files_of_an_upload(
    production: str, capsys: pytest.CaptureFixture[str]
) -> None:
    push({}, None)
    listed = capsys.readouterr().out
    hub = FakeHub()
    push({"HF_SPACE": "us/tagger"}, hub)
    rows = [line.split() for line in listed.splitlines()[:-1]]
    assert {name: len(content) for name, content in hub.files.items()} == {
        name: int(size) for size, name in rows
    }
    assert production in listed
    assert hub.created == ["us/tagger"]


def test_the_shipped_model_is_uploaded_unless_production_is_named(production: str) -> None:
    (PRODUCTION / "MODEL_CARD.md").write_text("the card of production")
    hub, space = FakeHub(), {"HF_SPACE": "us/tagger"}
    push(space, hub)
    assert hub.files[f"{SHIPPED_BUNDLE}/MODEL_CARD.md"] != b"the card of production"
    push(space | {"BUNDLE": str(PRODUCTION)}, hub)
    assert hub.files[f"{SHIPPED_BUNDLE}/MODEL_CARD.md"] == b"the card of production"


def test_nothing_else_and_no_doubtful_model_is_uploaded(production: str, trained: Path) -> None:
    hub = FakeHub()

    def refused(reason: str, bundle: object = PRODUCTION, space: str = "us/tagger") -> None:
        with pytest.raises(ArtifactError, match=reason):
            push({"HF_SPACE": space, "BUNDLE": str(bundle)}, hub)

    refused("HF_SPACE", SHIPPED_BUNDLE, "nobody")
    refused("got 'models/candidate', wanted models/release or models/production",
            "models/candidate")  # fmt: skip
    releases.write_state(State(production, pending=True))
    refused("interrupted")
    sample = release(trained / "models/candidate", "sample")
    refused("got a model trained on sample, wanted sources")
    releases.write_state(State(production))
    refused(f"got {sample}, wanted {production}")
    for bundle in (PRODUCTION, SHIPPED_BUNDLE):
        (bundle / "model.onnx").write_bytes(b"other")
        refused("altered", bundle)
    releases.write_state(State())
    refused("nothing is in production")
    assert not hub.created
