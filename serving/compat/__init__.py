"""APIs of other services, so that their clients only change a URL.

    perspective/   Perspective API: /v1alpha1/comments:analyze, :suggestscore, /$discovery/rest
    openai.py      OpenAI: /v1/moderations
    huggingface.py text-embeddings-inference and the Inference API: /predict

Each module or package here is one API: its routes, schemas, translation and error format. It has a
`router` and may have `configure(app, settings)`, and `commands` for the command line. What is
scored, limited and logged is the same as for /v1/predict. To add an API, add a module; to remove
one, delete its module. They never import each other.
"""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


def compatible_apis() -> Iterator[ModuleType]:
    """Yield the module of each API in this package, in the order of their names."""
    for module in iter_modules(__path__):
        yield import_module(f"{__name__}.{module.name}")
