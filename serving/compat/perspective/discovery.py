"""The discovery document, from which Google's client libraries learn this host's API.

    discovery.build("commentanalyzer", "v1alpha1", developerKey=…, static_discovery=False,
                    discoveryServiceUrl="http://HOST/$discovery/rest?version=v1alpha1")

Its schemas are generated from the messages in `schemas`.
"""

from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

from serving.compat.perspective.schemas import (
    AnalyzeReply,
    AnalyzeRequest,
    AttributeParameters,
    Message,
    Score,
    SuggestReply,
    SuggestRequest,
    TextEntry,
)

STRING, BOOLEAN = {"type": "string"}, {"type": "boolean"}
TYPES: dict[Any, dict[str, str]] = {
    str: STRING,
    bool: BOOLEAN,
    int: {"type": "integer", "format": "int32"},
    float: {"type": "number", "format": "float"},
}
# The documented values; the schemas accept any string, so that the error is Perspective's own.
ENUMS = {
    (TextEntry, "type"): ["TEXT_TYPE_UNSPECIFIED", "PLAIN_TEXT", "HTML"],
    (AttributeParameters, "score_type"): ["SCORE_TYPE_UNSPECIFIED", "PROBABILITY"],
    (Score, "type"): ["PROBABILITY"],
}
# Google's names of the messages whose names here differ.
NAMES: dict[type[Message], str] = {
    AnalyzeRequest: "AnalyzeCommentRequest",
    AnalyzeReply: "AnalyzeCommentResponse",
    SuggestRequest: "SuggestCommentScoreRequest",
    SuggestReply: "SuggestCommentScoreResponse",
}


def document(root_url: str) -> dict[str, Any]:
    """Return the document of the service at `root_url`, which ends with a slash."""
    return {
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": "commentanalyzer:v1alpha1",
        "name": "commentanalyzer",
        "canonicalName": "Comment Analyzer",
        "version": "v1alpha1",
        "title": "Tweet Tagger, as Perspective Comment Analyzer API",
        "description": "How likely a comment is toxic.",
        "protocol": "rest",
        "rootUrl": root_url,
        "baseUrl": root_url,
        "servicePath": "",
        "parameters": {
            "alt": {**STRING, "location": "query", "default": "json", "enum": ["json"]},
            "fields": {**STRING, "location": "query"},
            "key": {**STRING, "location": "query", "description": "API key"},
            "prettyPrint": {**BOOLEAN, "location": "query", "default": "true"},
            "quotaUser": {**STRING, "location": "query"},
        },
        "schemas": _schemas(),
        "resources": {
            "comments": {
                "methods": {
                    "analyze": _method(
                        "analyze", AnalyzeRequest, AnalyzeReply, "Scores a comment."
                    ),
                    "suggestscore": _method(
                        "suggestscore", SuggestRequest, SuggestReply, "Says what a score should be."
                    ),
                }
            }
        },
    }


def _method(
    name: str, request: type[Message], reply: type[Message], description: str
) -> dict[str, Any]:
    path = f"v1alpha1/comments:{name}"
    return {
        "id": f"commentanalyzer.comments.{name}",
        "path": path,
        "flatPath": path,
        "httpMethod": "POST",
        "description": description,
        "parameters": {},
        "parameterOrder": [],
        "request": {"$ref": NAMES[request]},
        "response": {"$ref": NAMES[reply]},
    }


@cache
def _schemas() -> dict[str, dict[str, Any]]:
    """Return the schemas of all messages that requests and replies contain, by name."""
    schemas: dict[str, dict[str, Any]] = {}
    todo: list[type[Message]] = list(NAMES)
    while todo:
        message = todo.pop(0)
        name = NAMES.get(message, message.__name__)
        if name in schemas:
            continue
        properties = {
            field.alias or key: _property(field.annotation, todo) | _enum(message, key)
            for key, field in message.model_fields.items()
        }
        schemas[name] = {"id": name, "type": "object", "properties": properties}
    return schemas


def _enum(message: type[Message], key: str) -> dict[str, Any]:
    values = ENUMS.get((message, key))
    return {"enum": values} if values else {}


def _property(annotation: Any, todo: list[type[Message]]) -> dict[str, Any]:
    """Return the schema of a field, and add the messages that it contains to `todo`."""
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    origin = get_origin(annotation)
    if origin in {Union, UnionType}:
        return _property(arguments[0], todo)
    if origin is list:
        return {"type": "array", "items": _property(arguments[0], todo)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _property(arguments[1], todo)}
    if annotation in TYPES:
        return TYPES[annotation]
    todo.append(annotation)
    return {"$ref": NAMES.get(annotation, annotation.__name__)}
