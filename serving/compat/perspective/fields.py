"""Google's partial responses: `?fields=attributeScores/TOXICITY/summaryScore,languages`.

    mask = path ("," path)*      path = name (("/" | ".") name)* ["(" mask ")"]

A name may be `*`. Fields of a list's items are named without an index.
"""

import re
from typing import Any

from serving.errors import ErrorCode, ServiceError

TOKEN = re.compile(r"[\w@*-]+|[/.,()]")
MAX_CHARS = 2000
MAX_DEPTH = 10  # a reply has five levels

Tree = dict[str, "Tree"]  # an empty one stands for the whole value


class FieldMask:
    """The fields that a reply shall have."""

    def __init__(self, text: str | None) -> None:
        """Read a mask; None or an empty one stands for all fields.

        Raises:
            ServiceError: the mask cannot be read.
        """
        self._tree: Tree = {}
        if not text:
            return
        tokens = TOKEN.findall(text)
        if len(text) > MAX_CHARS or "".join(tokens) != re.sub(r"\s", "", text):
            raise _invalid()
        self._rest = tokens[::-1]
        self._mask(self._tree, 0)
        if self._rest:
            raise _invalid()

    def select(self, reply: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a reply that the mask names."""
        selected: dict[str, Any] = _select(reply, self._tree)
        return selected

    def _mask(self, tree: Tree, depth: int) -> None:
        self._path(tree, depth)
        while self._rest and self._rest[-1] == ",":
            self._rest.pop()
            self._path(tree, depth)

    def _path(self, tree: Tree, depth: int) -> None:
        if depth > MAX_DEPTH or not self._rest or self._rest[-1] in "/.,()":
            raise _invalid()
        node = tree.setdefault(self._rest.pop(), {})
        separator = self._rest[-1] if self._rest else ""
        if separator in {"/", "."}:
            self._rest.pop()
            self._path(node, depth + 1)
        elif separator == "(":
            self._rest.pop()
            self._mask(node, depth + 1)
            if not self._rest or self._rest.pop() != ")":
                raise _invalid()


def _select(value: Any, tree: Tree) -> Any:
    if isinstance(value, list):
        return [_select(item, tree) for item in value]
    if not tree or not isinstance(value, dict):
        return value
    return {
        name: _select(inner, tree[name] if name in tree else tree["*"])
        for name, inner in value.items()
        if name in tree or "*" in tree
    }


def _invalid() -> ServiceError:
    message = "The value is not a field mask such as attributeScores/TOXICITY,languages"
    return ServiceError(ErrorCode.INVALID, message, field="fields")
