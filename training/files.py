"""Atomic writes, and reading what an earlier stage wrote."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.errors import ArtifactError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside `path`; it replaces `path` only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        scratch.chmod(0o644)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write `content`; its keys keep their order, which in bundle.json is that of the columns."""
    with atomic_write(path) as scratch:
        scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Return a JSON file's content; ArtifactError if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; run `make train`") from None
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON ({error}); run `make train`") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of nested mappings by dotted path, without lists and texts.

    Commas, which MLflow's names may not have, are left out of a path.
    """
    flat: dict[str, float] = {}
    for name, value in content.items():
        path = f"{prefix}{name}".replace(",", "")
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{path}.")
        elif isinstance(value, int | float):
            flat[path] = float(value)
    return flat
