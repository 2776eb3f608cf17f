"""The import directions that the README draws, and that importing does nothing."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRAINING = {path.stem: path for path in sorted((ROOT / "training").glob("*.py"))}
SERVING = {path.stem: path for path in sorted((ROOT / "serving").glob("*.py"))}
STAGES = {"prepare", "validate", "train", "export", "evaluate", "register"}
SCORERS = {"export", "measure", "evaluate", "promote", "pyfunc"}
GUARDS = {"__name__ == '__main__'", "TYPE_CHECKING"}
# Modules that any stage may import. `fetch` comes before the pipeline; `prepare` reads its files.
LEAVES = {
    "config",
    "errors",
    "files",
    "labels",
    "measure",
    "behaviour",
    "gates",
    "gates_page",
    "releases",
    "text",
    "model",
    "int8",
    "tracking",
    "plots",
    "report",
    "fetch",
}


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its direction"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path, package: str) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith(f"{package}.")}


@pytest.mark.parametrize("name", SERVING)
def test_serving_never_imports_training_nor_its_libraries(name: str) -> None:
    heavy = {
        "training",
        "torch",
        "transformers",
        "mlflow",
        "pandas",
        "sklearn",
        "datasets",
        "evidently",
    }
    assert not {found.split(".")[0] for found in imports(SERVING[name])} & heavy


@pytest.mark.parametrize("name", TRAINING)
def test_training_reaches_into_serving_only_to_score(name: str) -> None:
    allowed = {"bundle"} if name in SCORERS else set()
    crossed = ours(TRAINING[name], "serving") & set(SERVING)
    assert crossed <= allowed


@pytest.mark.parametrize("name", TRAINING)
def test_stages_meet_through_files(name: str) -> None:
    found = ours(TRAINING[name], "training") & set(TRAINING)
    assert not found & STAGES
    assert name in STAGES | LEAVES | {"promote", "pyfunc", "__init__"}


def test_every_stage_is_in_the_pipeline() -> None:
    import yaml

    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert set(stages) == STAGES
    params = yaml.safe_load((ROOT / "configs" / "params.yaml").read_text())
    assert set(params) == STAGES
    for name, stage in stages.items():
        assert stage["cmd"] == f"python -m training.{name}"
        assert f"training/{name}.py" in stage["deps"]


@pytest.mark.parametrize("name", sorted(STAGES))
def test_the_pipeline_names_the_code_that_a_stage_depends_on(name: str) -> None:
    """All but the plumbing, which would re-run everything and changes no result."""
    import yaml

    plumbing = {"config", "errors", "files", "tracking"}
    deps = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][name]["deps"])
    imported = ours(TRAINING[name], "training") & set(TRAINING) - plumbing
    wanted = {f"training/{module}.py" for module in imported}
    wanted |= {f"serving/{m}.py" for m in ours(TRAINING[name], "serving") & set(SERVING)}
    assert wanted <= deps


def test_serving_imports_with_its_own_needs_alone() -> None:
    """In a Python in which nothing of the train extra can be imported."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split('.')[0] in {'torch', 'transformers', 'mlflow', 'pandas', 'onnx', 'training'}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import serving.app
slow = {'sklearn', 'scipy', 'matplotlib', 'skimage', 'lime'} & set(sys.modules)
assert not slow, slow  # an explanation may load them, a start must not wait for them
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


HTTP = {"fastapi", "starlette", "uvicorn", "http", "httptools"}


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("batcher", HTTP | {"serving", "tokenizers", "numpy", "onnxruntime"}),
        ("bundle", HTTP | {"serving", "asyncio"}),
        ("policy", HTTP | {"serving", "asyncio", "numpy"}),
        ("engine", HTTP | {"prometheus_client"}),
        ("service", HTTP | {"prometheus_client"}),
        ("limits", HTTP | {"serving"}),
        ("perspective", HTTP | {"numpy"}),
        ("moderations", HTTP),
        ("huggingface", HTTP),
        ("spans", HTTP | {"serving", "pydantic"}),
    ],
)
def test_what_a_module_of_the_service_does_not_know(name: str, unknown: set[str]) -> None:
    assert not {found.split(".")[0] for found in imports(SERVING[name])} & unknown


def test_one_module_each_knows_motor_the_environment_and_the_app() -> None:
    found = {name: imports(path) for name, path in SERVING.items()}
    roots = {name: {module.split(".")[0] for module in names} for name, names in found.items()}
    assert {name for name, names in roots.items() if names & {"motor", "pymongo"}} == {"mongo"}
    assert not {name for name, names in found.items() if "serving.app" in names}
    source = {name: path.read_text(encoding="utf-8") for name, path in SERVING.items()}
    assert {n for n, text in source.items() if "pydantic_settings" in text} == {"settings"}
    assert not {n for n, text in source.items() if "getenv" in text or "environ.get" in text}
    # It only hands its workers what prometheus_client asks for.
    assert {n for n, text in source.items() if "os.environ" in text} == {"app"}


MODULES = [*TRAINING.values(), *SERVING.values()]


# MLflow runs `pyfunc` as it is imported.
@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.stem != "pyfunc"], ids=lambda p: f"{p.parent.name}.{p.stem}"
)
def test_modules_do_nothing_when_imported(path: Path) -> None:
    """Only definitions, constants, imports and docstrings stand at the top level."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, *functions)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_main = isinstance(node, ast.If) and ast.unparse(node.test) in GUARDS
        assert isinstance(node, allowed) or is_docstring or is_main, ast.unparse(node)


@pytest.mark.parametrize("package", ["serving", "training"])
def test_an_installed_package_has_all_its_files(package: str) -> None:
    """What is not Python comes along only if pyproject.toml names it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"][package]
    named = {path for pattern in patterns for path in (ROOT / package).glob(pattern)}
    files = {path for path in (ROOT / package).rglob("*") if path.is_file()}
    data = {path for path in files if path.suffix not in {".py", ".pyc"}}
    assert data
    assert data <= named
