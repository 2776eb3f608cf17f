"""The discovery document by which Google's client libraries learn to speak to this host.

    discovery.build("commentanalyzer", "v1alpha1", developerKey=…, static_discovery=False,
                    discoveryServiceUrl="http://HOST/$discovery/rest?version=v1alpha1")

It names what `perspective_schemas` accepts; a test holds the two together.
"""

from typing import Any

STRING, BOOLEAN = {"type": "string"}, {"type": "boolean"}
INTEGER = {"type": "integer", "format": "int32"}
NUMBER = {"type": "number", "format": "float"}


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
        "schemas": {name: _schema(name, fields) for name, fields in SCHEMAS.items()},
        "resources": {
            "comments": {
                "methods": {
                    "analyze": _method("analyze", "AnalyzeComment", "Scores a comment."),
                    "suggestscore": _method(
                        "suggestscore", "SuggestCommentScore", "Says what a score should be."
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
        "request": _ref(f"{message}Request"),
        "response": _ref(f"{message}Response"),
    }


def _schema(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "type": "object", "properties": fields}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": name}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _map(name: str) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": _ref(name)}


REQUEST = {
    "comment": _ref("TextEntry"),
    "context": _ref("Context"),
    "languages": _list(STRING),
    "clientToken": STRING,
    "sessionId": STRING,
    "communityId": STRING,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "TextEntry": {
        "text": STRING,
        "type": {**STRING, "enum": ["TEXT_TYPE_UNSPECIFIED", "PLAIN_TEXT", "HTML"]},
    },
    "ArticleAndParentComment": {
        "article": _ref("TextEntry"),
        "parentComment": _ref("TextEntry"),
    },
    "Context": {
        "entries": _list(_ref("TextEntry")),
        "articleAndParentComment": _ref("ArticleAndParentComment"),
    },
    "AttributeParameters": {
        "scoreType": {**STRING, "enum": ["SCORE_TYPE_UNSPECIFIED", "PROBABILITY"]},
        "scoreThreshold": NUMBER,
    },
    "Score": {"value": NUMBER, "type": {**STRING, "enum": ["PROBABILITY"]}},
    "SpanScore": {"begin": INTEGER, "end": INTEGER, "score": _ref("Score")},
    "AttributeScores": {
        "summaryScore": _ref("Score"),
        "spanScores": _list(_ref("SpanScore")),
    },
    "AnalyzeCommentRequest": {
        **REQUEST,
        "requestedAttributes": _map("AttributeParameters"),
        "spanAnnotations": BOOLEAN,
        "doNotStore": BOOLEAN,
    },
    "AnalyzeCommentResponse": {
        "attributeScores": _map("AttributeScores"),
        "languages": _list(STRING),
        "clientToken": STRING,
    },
    "SuggestCommentScoreRequest": {**REQUEST, "attributeScores": _map("AttributeScores")},
    "SuggestCommentScoreResponse": {
        "requestedLanguages": _list(STRING),
        "clientToken": STRING,
    },
}
