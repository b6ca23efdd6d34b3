"""The routes of guests: list them, upload one, delete one that was uploaded."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from promptd.errors import InvalidArgument, NotFound, SecurityDenied
from promptd.server import documents
from promptd.server.uploads import Uploads
from promptd.wasm.guest import Guest
from promptd.wasm.host import Host

WASM_TYPE = "application/wasm"


def guest_router(host: Host, uploads: Uploads) -> APIRouter:
    """Return the routes under `/v1/guests`."""
    router = APIRouter(prefix="/v1/guests", tags=["guests"])

    @router.get("", responses=documents.answer(documents.GuestList))
    async def list_guests() -> dict[str, Any]:
        """List the guests, and what is known of those that are compiled."""
        compiled = host.compiled_guests()
        return {
            "object": "list",
            "data": [_guest(name, compiled.get(name), name in uploads) for name in host.guest_names()],
        }

    @router.post(
        "",
        status_code=201,
        responses=documents.answer(documents.Guest, status=201),
        openapi_extra={"requestBody": {"required": True, "content": {WASM_TYPE: {"schema": {"format": "binary"}}}}},
    )
    async def upload_guest(
        request: Request, name: Annotated[str, Query()], content_type: Annotated[str, Header()] = ""
    ) -> Any:
        """Upload a WebAssembly binary, which is granted nothing: no graphs, no files, no environment."""
        # A type no form or plain request of a web page can have, so that a browser asks first whether the page may.
        if content_type.partition(";")[0].strip().lower() != WASM_TYPE:
            raise InvalidArgument(f"send the guest's bytes with Content-Type: {WASM_TYPE}")
        try:
            guest = await uploads.receive(name, request.stream())
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        return _guest(name, guest, True)

    @router.delete("/{name}", status_code=204)
    async def delete_guest(name: str) -> None:
        """Delete an uploaded guest; its sessions go on."""
        if name in host.guest_names() and name not in uploads:
            raise SecurityDenied(f"guest {name} was not uploaded; it stands in the daemon's settings")
        if name not in uploads:
            raise NotFound(f"there is no guest {name[:80]!r}")
        uploads.remove(name)

    return router


def _guest(name: str, guest: Guest | None, uploaded: bool) -> dict[str, Any]:
    kinds = [] if guest is None else ["handler"] * guest.is_handler + ["command"] * guest.is_command
    return {
        "object": "guest",
        "name": name,
        "uploaded": uploaded,
        "format": None if guest is None else guest.format,
        "kinds": kinds,
        "sha256": None if guest is None else guest.digest,
    }
