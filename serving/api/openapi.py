"""The OpenAPI document with the operator's limits in it, and Swagger UI at /docs.

Swagger UI's script and style come from a Python package, so the page works without internet access
and loads no code from other hosts.
"""

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from starlette.responses import Response

from serving.settings import Settings

ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'"
)
# Addresses are relative: behind a proxy the service may have a path prefix.
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Tweet Tagger: API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<main id="api"></main>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
START = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#api", deepLinking: true, tryItOutEnabled: true,
  validatorUrl: null, persistAuthorization: false,
});
"""

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def page() -> HTMLResponse:
    """Return Swagger UI."""
    return HTMLResponse(PAGE, headers={"content-security-policy": CSP})


@router.get("/docs/start.js")
async def start() -> Response:
    """Return the script that starts Swagger UI."""
    return Response(START, media_type="text/javascript")


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    """Return a file of Swagger UI."""
    if name not in ASSETS:
        return Response(status_code=404)
    content = (files("fastapi_offline") / "static" / name).read_bytes()
    return Response(content, media_type=ASSETS[name], headers={"cache-control": "max-age=86400"})


def describe(app: FastAPI, settings: Settings) -> None:
    """Add the operator's limits, and the API key if one is needed, to the app's document."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            for schema in document["components"]["schemas"].values():
                _limit(schema, settings)
            if settings.api_keys:
                key = {"type": "http", "scheme": "bearer"}
                document["components"]["securitySchemes"] = {"key": key}
                document["security"] = [{"key": []}]
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _limit(schema: Any, settings: Settings) -> bool:
    """Add limits to every text within a schema; return whether it is a text or a list of texts."""
    if isinstance(schema, list):
        return sum(_limit(part, settings) for part in schema) > 0
    if not isinstance(schema, dict):
        return False
    if schema.get("pattern") == r"\S":
        schema["maxLength"] = settings.max_chars
        return True
    holds = [_limit(schema.get(key), settings) for key in ("items", "anyOf", "oneOf")]
    for part in schema.get("properties", {}).values():
        _limit(part, settings)
    if holds[0]:
        schema |= {"minItems": 1, "maxItems": settings.max_texts}
    return any(holds)
