"""Every error that a caller can get, and the one place that maps exceptions to a status.

    ServiceError(code, message, field, …)
    └── MissingKeyError

`as_service_error` turns every other exception into one of these; what it does not know is a bug of
ours (500). An `ErrorFormat` renders a ServiceError in the shape that an API's clients expect.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from enum import Enum
from math import ceil
from typing import Any, NamedTuple

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from serving.inference.batcher import BatcherDeadError, DeadlineError, QueueFullError
from serving.prediction_log.log import LogError


class ErrorCode(Enum):
    """What went wrong: `type` in the reply, and the HTTP status."""

    BAD_REQUEST = ("bad_request", 400)
    UNAUTHENTICATED = ("unauthenticated", 401)
    FORBIDDEN = ("forbidden", 403)
    NOT_FOUND = ("not_found", 404)
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405)
    TIMEOUT = ("timeout", 408)
    CONFLICT = ("conflict", 409)
    TOO_LARGE = ("too_large", 413)
    UNSUPPORTED_MEDIA_TYPE = ("unsupported_media_type", 415)
    INVALID = ("invalid", 422)
    HEADERS_TOO_LARGE = ("headers_too_large", 431)
    RATE_LIMITED = ("rate_limited", 429)
    OVERLOADED = ("overloaded", 429)
    INTERNAL = ("internal", 500)
    UNAVAILABLE = ("unavailable", 503)

    def __init__(self, type_: str, status: int) -> None:
        self.type, self.status = type_, status


class FieldProblem(NamedTuple):
    """What is wrong with one field of a request."""

    field: str
    message: str


class ServiceError(Exception):
    """An error that is reported to the caller.

    problems: of each wrong field, where there are several.
    """

    problems: Sequence[FieldProblem] = ()

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Create an error.

        Args:
            code: decides type and status.
            message: one sentence for the caller, without the caller's text in it.
            field: the part of the request that is wrong, such as `texts[3]`.
            retry_after: seconds until a retry may succeed.
            headers: further headers of the reply.
        """
        super().__init__(message)
        self.code, self.message, self.field = code, message, field
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, ceil(retry_after)))


class MissingKeyError(ServiceError):
    """The request has no API key. Some APIs report this differently from a wrong key."""

    def __init__(self, headers: dict[str, str]) -> None:
        message = "Missing API key: send the header Authorization: Bearer …"
        super().__init__(ErrorCode.UNAUTHENTICATED, message, headers=headers)


class ErrorFormat(NamedTuple):
    """How an API's clients expect errors (status and body), and where they put their key."""

    render: Callable[[ServiceError], tuple[int, Any]]
    key_in_query: bool = False


def render_error(error: ServiceError) -> tuple[int, dict[str, Any]]:
    """Return status and body of an error in this service's own format."""
    content = {"type": error.code.type, "message": error.message}
    if error.field is not None:
        content["field"] = error.field
    return error.code.status, {"error": content}


NATIVE = ErrorFormat(render_error)

HTTP_MESSAGES = {
    ErrorCode.NOT_FOUND: "This path does not exist",
    ErrorCode.METHOD_NOT_ALLOWED: "This method is not allowed for this path",
}
# pydantic's types of problems, in plain words.
TYPES = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "an object",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "an object",
    "string_type": "a string",
}
TYPE_NAME = re.compile(r"str$|\w+\[")  # pydantic's of a member of a union
MAX_PROBLEMS = 5  # that a message names; then it counts
PROBLEMS = {
    "extra_forbidden": "Unknown field",
    "greater_than_equal": "This value must be at least {ge}",
    "less_than": "This value must be less than {lt}",
    "less_than_equal": "This value must be at most {le}",
    "literal_error": "This value must be {expected}",
    "missing": "This field is required",
    "string_too_long": "This value must have at most {max_length} characters",
    "string_too_short": "This value must have at least {min_length} characters",
    "union_tag_invalid": "This value must be {expected_tags}",
    "union_tag_not_found": "This field is required",
}


def as_service_error(error: Exception) -> ServiceError | None:
    """Return the error that the caller gets for an exception; None if it is a bug of ours."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, QueueFullError | DeadlineError):
        code, message = ErrorCode.OVERLOADED, "Server overloaded, retry later"
        if isinstance(error, DeadlineError):
            code, message = ErrorCode.UNAVAILABLE, "No answer within the timeout, retry later"
        return ServiceError(code, message, retry_after=error.wait)
    if isinstance(error, BatcherDeadError | LogError):
        # A LogError's own text names hosts and files.
        part = "prediction log" if isinstance(error, LogError) else "model"
        message = f"The {part} is unavailable, retry later"
        return ServiceError(ErrorCode.UNAVAILABLE, message, retry_after=5)
    if isinstance(error, ValidationError | RequestValidationError):
        return invalid_request(error)
    if isinstance(error, HTTPException):
        known = (code for code in ErrorCode if code.status == error.status_code)
        code = next(known, ErrorCode.BAD_REQUEST)
        message = HTTP_MESSAGES.get(code, str(error.detail))
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if "GET" in headers.get("allow", "") and "HEAD" not in headers["allow"]:
            headers["allow"] += ", HEAD"  # the request middleware answers it
        return ServiceError(code, message, headers=headers)
    return None


def invalid_request(
    error: ValidationError | RequestValidationError, schema: Mapping[str, Any] | None = None
) -> ServiceError:
    """Return the error of a request that pydantic refuses; it names all wrong fields.

    Args:
        error: pydantic's.
        schema: the JSON schema of the request, for the names that an unknown field may stand for.
    """
    found = [dict(row) for row in error.errors()]
    for row in found:
        if row["loc"][:1] == ("query",):  # a parameter is named as the caller named it
            row["loc"] = row["loc"][1:]
    if found[0]["type"] == "json_invalid":
        reason = found[0]["ctx"]["error"]
        message = f"The request body is not valid JSON: {reason}"
        if reason.endswith("line 1 column 0"):
            message = "The request body must not be empty"
        elif "surrogate" in reason or "end of hex escape" in reason:
            message += "; half of an emoji (a lone surrogate), where a text was cut inside of one?"
        return ServiceError(ErrorCode.BAD_REQUEST, message)
    grouped = _grouped(found)
    problems = [
        FieldProblem(_name(path), _message(path, group, schema or {}))
        for path, group in list(grouped.items())[:MAX_PROBLEMS]
    ]
    field = problems[0].field or None
    if len(grouped) == 1:
        return ServiceError(ErrorCode.INVALID, problems[0].message, field=field)
    lines = [f"`{field}`: {message}" for field, message in problems]
    if more := len(grouped) - len(problems):
        lines.append(f"and {more} more")
    reported = ServiceError(ErrorCode.INVALID, "; ".join(lines), field=field)
    reported.problems = problems
    return reported


Path = tuple[str | int, ...]


def _grouped(found: Sequence[Any]) -> dict[Path, list[Any]]:
    """Return pydantic's problems by field.

    A value that may have several types has problems with each of them, under the type's name:
    `inputs, list[str], 1`. In a list, the wrong items are those that no type allows. Of an item
    that has one of the types, only what is wrong inside of it counts.
    """
    fields: dict[Path, list[tuple[Path, Any]]] = {}
    for problem in found:
        location = problem["loc"]
        if problem["type"].startswith("union_tag"):
            location = (*location, problem["ctx"]["discriminator"].strip("'"))
        names = (i for i, part in enumerate(location) if i and TYPE_NAME.match(str(part)))
        end = next(names, len(location))
        fields.setdefault(location[:end], []).append((location[end:], problem))
    grouped: dict[Path, list[Any]] = {}
    for field, rows in fields.items():
        items: dict[str | int, set[Any]] = {}
        for inner, _ in rows:
            if len(inner) > 1:
                items.setdefault(inner[0], set()).add(inner[1])
        wrong = set.intersection(*items.values()) if items else set()
        if inside := [row for row in rows if len(row[0]) > 2 and row[0][1] in wrong]:
            for inner, problem in inside:
                # Of a tagged union, the tag comes before the field.
                skipped = 1 if len(inner) == 3 or isinstance(inner[2], int) else 2
                path = (*field, inner[1], *inner[skipped + 1 :])
                grouped.setdefault(path, []).append(problem)
            wrong -= {inner[1] for inner, _ in inside}
            if not wrong:
                continue
        for inner, problem in rows:
            if not wrong:
                grouped.setdefault(field, []).append(problem)
            elif len(inner) > 1 and inner[1] in wrong:
                grouped.setdefault((*field, inner[1]), []).append(problem)
    return grouped


def _name(path: Sequence[str | int]) -> str:
    name = ""
    for part in path:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    # A field's name is the caller's own text: it may be long, and hold what UTF-8 cannot.
    return name[:100].encode("utf-8", "replace").decode()


def _message(path: Sequence[str | int], group: Sequence[Any], schema: Mapping[str, Any]) -> str:
    first = group[0]
    if first["type"] in TYPES:
        # A value that may have several types has a problem with each of them.
        names = dict.fromkeys(TYPES[row["type"]] for row in group if row["type"] in TYPES)
        return f"This value must be {' or '.join(names)}"
    template = PROBLEMS.get(first["type"], first["msg"])
    # JSON spells Python's False in lower case.
    message: str = template.format(**first.get("ctx", {})).replace("be False", "be false")
    if first["type"] == "union_tag_invalid":
        message = message.replace(", ", " or ")
    if first["type"] == "extra_forbidden" and (known := known_fields(schema, path[:-1])):
        plain = {re.sub("[^a-z]", "", name.lower()): name for name in known}
        close = get_close_matches(
            re.sub("[^a-z]", "", str(path[-1])[:100].lower()), plain, n=1, cutoff=0.75
        )
        shown = ", ".join(f"`{name}`" for name in [plain[name] for name in close] or known)
        message += f"; did you mean {shown}?" if close else f"; known fields: {shown}"
    return message


def known_fields(schema: Mapping[str, Any], path: Sequence[str | int]) -> list[str]:
    """Return the names of the fields that an object of a request may have.

    Args:
        schema: the JSON schema of the request.
        path: of the object in the request.
    """
    node: Any = schema
    for part in [*path, None]:
        while "$ref" in node or "anyOf" in node:
            options = [row for row in node.get("anyOf", [node]) if row != {"type": "null"}]
            reference = options[0].get("$ref", "").rpartition("/")[2]
            node = schema["$defs"][reference] if reference else options[0]
        if isinstance(part, int):
            node = node.get("items", {})
        elif part is not None:
            node = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
        if not isinstance(node, Mapping):
            return []
    return list(node.get("properties", ()))
