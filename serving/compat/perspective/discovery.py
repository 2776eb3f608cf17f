"""The discovery document, from which Google's client libraries learn how to call this host.

    discovery.build("commentanalyzer", "v1alpha1", developerKey=…, static_discovery=False,
                    discoveryServiceUrl="http://HOST/$discovery/rest?version=v1alpha1")

Its schemas are generated from the models in `schemas`.
"""

import logging
from functools import cache
from typing import Any

from fastapi import Request
from pydantic.json_schema import models_json_schema

from serving.compat.perspective import schemas

log = logging.getLogger(__name__)

STRING = {"type": "string"}
MESSAGES: tuple[type[schemas.Message], ...] = (
    schemas.AnalyzeCommentRequest,
    schemas.AnalyzeCommentResponse,
    schemas.SuggestCommentScoreRequest,
    schemas.SuggestCommentScoreResponse,
)


def root_url(request: Request, public_url: str | None) -> str:
    """Return this service's address as clients shall use it, with a slash at its end."""
    if public_url:
        return f"{public_url}/"
    if request.url.scheme == "http" and request.headers.get("x-forwarded-proto") == "https":
        _warn_of_clear_text()
    return str(request.base_url)


@cache  # once per process
def _warn_of_clear_text() -> None:
    log.warning(
        "a proxy that is not in TAGGER_TRUSTED_PROXIES ends TLS, so the discovery document says "
        "http:// and clients may send their keys in clear; set TAGGER_PUBLIC_URL"
    )


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
        "batchPath": "batch",
        "parameters": {
            "alt": {**STRING, "location": "query", "default": "json", "enum": ["json"]},
            "fields": {**STRING, "location": "query"},
            "key": {**STRING, "location": "query", "description": "API key"},
            "prettyPrint": {"type": "boolean", "location": "query", "default": "true"},
            "quotaUser": {**STRING, "location": "query"},
        },
        "schemas": message_schemas(),
        "resources": {
            "comments": {
                "methods": {
                    "analyze": _method("analyze", "AnalyzeComment", "Scores a comment."),
                    "suggestscore": _method(
                        "suggestscore",
                        "SuggestCommentScore",
                        "Suggests the scores that a comment should have.",
                    ),
                }
            }
        },
    }


def _method(name: str, message: str, description: str) -> dict[str, Any]:
    path = f"v1alpha1/comments:{name}"
    return {
        "id": f"commentanalyzer.comments.{name}",
        "path": path,
        "flatPath": path,
        "httpMethod": "POST",
        "description": description,
        "parameters": {},
        "parameterOrder": [],
        "request": {"$ref": f"{message}Request"},
        "response": {"$ref": f"{message}Response"},
    }


@cache
def message_schemas() -> dict[str, Any]:
    """Return the schemas of all messages, by name."""
    _, generated = models_json_schema(
        [(message, "validation") for message in MESSAGES], ref_template="{model}"
    )
    return {
        name: {
            "id": name,
            "type": "object",
            "properties": {key: _type(value) for key, value in schema["properties"].items()},
        }
        for name, schema in generated["$defs"].items()
    }


def _type(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a type in the form of discovery documents: without `null`, title and default."""
    (schema,) = (option for option in schema.get("anyOf", [schema]) if option != {"type": "null"})
    result: dict[str, Any] = {
        key: schema[key] for key in ("$ref", "type", "format", "enum") if key in schema
    }
    for key in ("items", "additionalProperties"):
        if key in schema:
            result[key] = _type(schema[key])
    return result
