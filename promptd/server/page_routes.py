"""The web page at `/`: files of this package, which ask for nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from promptd.errors import NotFound
from promptd.server.keys import PUBLIC_PREFIX

_MODULES = (
    "api",
    "app",
    "branches",
    "engine",
    "icons",
    "keyboard",
    "markdown",
    "messages",
    "state",
    "talk",
    "theme",
    "tree",
    "view",
)

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **{f"{module}.js": "text/javascript; charset=utf-8" for module in _MODULES},
}
"""Every file of the page, and its type."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src "
    "'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def page_router() -> APIRouter:
    """Return the routes of the page."""
    router = APIRouter(include_in_schema=False)
    folder = files("promptd.server") / "page"
    contents = {name: (folder / name).read_bytes() for name in _TYPES}

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index() -> Response:
        return _file("index.html")

    @router.get(PUBLIC_PREFIX + "{name}")
    async def part(name: str) -> Response:
        if name not in contents:
            raise NotFound(f"there is nothing at {PUBLIC_PREFIX}{name}")
        return _file(name)

    def _file(name: str) -> Response:
        return Response(contents[name], headers={**_HEADERS, "Content-Type": _TYPES[name]})

    return router
