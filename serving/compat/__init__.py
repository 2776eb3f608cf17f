"""APIs of other services, so that their clients only change a URL.

    perspective/    Perspective API: /v1alpha1/comments:analyze, :suggestscore, /$discovery/rest
    openai.py       OpenAI: /v1/moderations
    huggingface.py  text-embeddings-inference and the Inference API: /predict

Each API is one module, or one package with a module `routes`: it owns its routes, schemas,
translation and error format. That module has a `router` and may have `configure(app, settings)`; a
package may have a module `commands` with `commands` for the command line. What is scored, limited
and logged is the same as for /v1/predict. To add an API, add a module; to remove one, delete it.
APIs do not import each other.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click


def compatible_apis() -> Iterator[ModuleType]:
    """Yield the module with the router of each API, in the order of their names."""
    for module in iter_modules(__path__):
        name = f"{__name__}.{module.name}"
        yield import_module(f"{name}.routes" if module.ispkg else name)


def cli_commands() -> "Iterator[click.Command]":
    """Yield the commands that APIs add to the command line, without importing their routes."""
    for module in iter_modules(__path__):
        name = f"{__name__}.{module.name}.commands"
        if module.ispkg and find_spec(name):
            yield from import_module(name).commands
