"""dvc.yaml names the code that each stage depends on."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
# They read and write files and change no result; dvc.yaml leaves them out.
PLUMBED = ("config", "errors", "files", "paths", "tracking")
PLUMBING = {ROOT / "training" / f"{name}.py" for name in PLUMBED}


def imports(path: Path) -> set[Path]:
    """The modules of `training`, and the packages of `serving`, that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    paths = [ROOT / name.replace(".", "/") for name in names]
    modules = {path.with_suffix(".py") for path in paths if path.with_suffix(".py").is_file()}
    return modules | {path for path in paths if path.is_dir() and path.parent == ROOT / "serving"}


def code_of(module: Path) -> set[Path]:
    """All code that decides what a module does, but for the plumbing."""
    code, todo = set(), {module}
    while todo:
        path = todo.pop()
        code.add(path)
        if path.is_file():
            todo |= imports(path) - PLUMBING - code
    return code


def test_every_stage_has_a_section_of_parameters() -> None:
    params = yaml.safe_load((ROOT / "configs" / "params.yaml").read_text(encoding="utf-8"))
    assert set(params) == set(PIPELINE)


@pytest.mark.parametrize("name", sorted(PIPELINE))
def test_a_stage_depends_on_all_code_that_decides_its_result(name: str) -> None:
    stage = PIPELINE[name]
    module = ROOT / (stage["cmd"].removeprefix("python -m ").replace(".", "/") + ".py")
    deps = {ROOT / dep for dep in stage["deps"]}
    assert module.is_file()
    missing = [path for path in code_of(module) if not deps & {path, *path.parents}]
    assert missing == []
