"""What each route needs, by path: its scope, its error format and its short cut.

The table is derived from the routes; a route declares its needs once, where it is defined.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp

from serving.auth import Scope
from serving.errors import NATIVE, ErrorFormat


@dataclass(frozen=True, slots=True)
class RouteRule:
    """What a route needs.

    path: its template, which is also its label in metrics.
    scope: that a key must have; None: the route is open to everybody, even before the model is
        ready.
    error_format: of the errors that its callers get.
    fast_path: answers a POST without FastAPI's routing; None where there is no such short cut.
    """

    path: str
    scope: Scope | None = None
    error_format: ErrorFormat = NATIVE
    fast_path: ASGIApp | None = None


UNKNOWN = RouteRule("other")  # all paths without a route share one label: there may be many


class RouteTable:
    """The rules of an app's routes."""

    def __init__(
        self, exact: Mapping[str, RouteRule], patterns: Sequence[tuple[re.Pattern[str], RouteRule]]
    ) -> None:
        """Create a table.

        Args:
            exact: rules of paths without parameters.
            patterns: rules of the other paths, each with the pattern that its paths match.
        """
        self._exact, self._patterns = dict(exact), list(patterns)

    def find(self, path: str) -> RouteRule:
        """Return the rule of a path; `UNKNOWN` if no route has it."""
        rule = self._exact.get(path)
        if rule is not None:
            return rule
        matching = (rule for pattern, rule in self._patterns if pattern.match(path))
        return next(matching, UNKNOWN)
