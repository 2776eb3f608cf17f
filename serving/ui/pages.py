"""The routes of the demo page: they serve the files of `static/`.

There is no build step, and the Content-Security-Policy allows this host only.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

FOLDER = Path(__file__).parent / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    # A Hugging Face Space shows its app in a frame.
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self' https://huggingface.co"
)
MEDIA_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
PATHS = {
    "/": "index.html",
    "/card": "card.html",
    "/favicon.ico": "icon.svg",
    **{
        f"/ui/{name}": name
        for name in (
            "style.css",
            "app.js",
            "batch.js",
            "card.js",
            "common.js",
            "papaparse.min.js",
            "review.js",
            "table.js",
            "icon.svg",
        )
    },
}


@dataclass(frozen=True, slots=True)
class File:
    """A file as it is served."""

    content: bytes
    media_type: str
    etag: str


def read(name: str) -> File:
    """Read a file of FOLDER."""
    content = (FOLDER / name).read_bytes()
    media_type = f"{MEDIA_TYPES[Path(name).suffix]}; charset=utf-8"
    return File(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:16]}"')


def router() -> APIRouter:
    """Read all files and return their routes."""
    routes = APIRouter(include_in_schema=False)
    files = {path: read(name) for path, name in PATHS.items()}

    async def serve_file(request: Request) -> Response:
        file = files[request.url.path]
        headers = {
            "content-security-policy": POLICY,
            "cache-control": "no-cache",  # cached, and revalidated by etag on each use
            "etag": file.etag,
        }
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)

    for path in PATHS:
        routes.add_api_route(path, serve_file, methods=["GET", "HEAD"])
    return routes
