"""What import-linter does not check: importing has no side effects, and packages are complete."""

import ast
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# MLflow runs `pyfunc` as a script; `__main__` is one.
SCRIPTS = {"pyfunc", "__main__"}
MODULES = [
    path
    for package in ("serving", "training")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.stem not in SCRIPTS
]
GUARDS = {"__name__ == '__main__'", "TYPE_CHECKING"}


def test_serving_imports_with_the_base_install_alone() -> None:
    """In a Python that cannot import anything of the extras."""
    code = """
import sys
EXTRAS = {'torch', 'transformers', 'mlflow', 'pandas', 'onnx', 'training', 'redis', 'httpx',
          'pyarrow', 'ray', 'evidently'}
class Refuse:
    def find_spec(self, name, *_):
        if name.split('.')[0] in EXTRAS:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import serving.app
slow = {'sklearn', 'scipy', 'matplotlib', 'skimage', 'lime', 'rich'} & set(sys.modules)
assert not slow, slow  # an explanation may load them, a start must not wait for them
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_does_nothing_when_it_is_imported(path: Path) -> None:
    """Only definitions, constants, imports and docstrings are at the top level."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, *definitions)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_main = isinstance(node, ast.If) and ast.unparse(node.test) in GUARDS
        assert isinstance(node, allowed) or is_docstring or is_main, ast.unparse(node)


def test_every_package_is_named_for_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    named, mapped = (settings["setuptools"][key] for key in ("packages", "package-dir"))
    folders = {path.parent.relative_to(ROOT) for path in MODULES}
    assert named == sorted({*(".".join(folder.parts) for folder in folders), *mapped})
    assert [path for path in mapped.values() if not (ROOT / path).is_dir()] == []


@pytest.mark.parametrize("package", ["serving", "training"])
def test_an_installed_package_has_all_its_files(package: str) -> None:
    """A file that is not Python is installed only if pyproject.toml names it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    patterns = {
        f"{owner.replace('.', '/')}/{pattern}"
        for owner, named in settings["setuptools"]["package-data"].items()
        for pattern in named
    }
    folder = ROOT / package
    files = {path.relative_to(ROOT) for path in folder.rglob("*") if path.is_file()}
    data = {path for path in files if path.suffix not in {".py", ".pyc"}}
    assert data
    assert [p for p in data if not any(fnmatch(str(p), pattern) for pattern in patterns)] == []
    # setuptools finds packages by their __init__.py.
    folders = {path.parent for path in files if path.suffix == ".py"}
    assert [path for path in folders if not (ROOT / path / "__init__.py").is_file()] == []
