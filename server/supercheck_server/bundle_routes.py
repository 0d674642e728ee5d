"""
The way in for projects' files: what sessions on other machines bring, so that workers have it.

Between HTTP and `Bundles`; bodies are bytes, and bounded before they are read.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from pytest_supercheck.packs import PACK_LIMIT
from supercheck_server.api import ANSWERS, Trouble
from supercheck_server.bundles import Bundles, State
from supercheck_server.gate import Asking, Gate

#: Bytes of a manifest as it is sent, compressed, at most.
WISH_LIMIT: Final = 16 << 20

#: How many manifests are read at a time, which takes some 200 MB for the largest, and seconds that one waits for that.
WISHES: Final = 2
WISH_S: Final = 10.0

BundlePath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="A bundle's id: the sha256 of its manifest.")]
Project = Annotated[str, Query(min_length=1, max_length=200, description="Whose files they are.")]

_BYTES: Final[dict[str, Any]] = {
    "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
_TOO_LONG: Final[dict[int | str, dict[str, Any]]] = {
    413: {"model": Trouble, "description": "More than may come at once"}
}


class Asked(BaseModel):
    """Whether a bundle is there."""

    #: `ready`; `incomplete`: bring what is missing and ask again; `unknown`: say what is in it.
    state: State
    #: The sha256 of pieces to bring, perhaps not all of them.
    missing: list[str]


class Kept(BaseModel):
    """What became of a pack."""

    #: How many of its pieces are new.
    pieces: int


def body(limit_bytes: int) -> Callable[[Request], Awaitable[bytes]]:
    """The body of a request as bytes, of which no more than that many are taken; else 413."""

    async def read(request: Request) -> bytes:
        declared = request.headers.get("content-length", "")
        taken = bytearray()
        if not (declared.isdigit() and int(declared[:20]) > limit_bytes):
            try:
                async for chunk in request.stream():
                    taken += chunk
                    if len(taken) > limit_bytes:
                        break
                else:
                    return bytes(taken)
            except ClientDisconnect as exc:
                raise HTTPException(400, "The request ended in the middle.") from exc
        raise HTTPException(413, f"At most {limit_bytes / (1 << 20):.0f} MB are taken at once.")

    return read


def bundle_routes(bundles: Bundles, gate: Gate) -> APIRouter:
    """Make the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["sessions"], responses={**ANSWERS, **_TOO_LONG})
    submits = [gate.programs("submit")]
    room = threading.BoundedSemaphore(WISHES)

    @routes.post(
        "/bundles/{bundle_id}", summary="Ask for a bundle of a project's files, and say what is in it",
        openapi_extra=_BYTES, dependencies=submits,
    )  # fmt: skip
    def ask(
        bundle_id: BundlePath, project: Project, visitor: Asking, wish: Annotated[bytes, Depends(body(WISH_LIMIT))]
    ) -> Asked:
        gate.check_project(visitor, project, "the bundle")
        if not room.acquire(timeout=WISH_S):
            raise HTTPException(503, "Too many projects come at once. Ask again in a moment.")
        try:
            state, missing = bundles.ask(project, bundle_id, wish)
        finally:
            room.release()
        return Asked(state=state, missing=missing)

    @routes.post(
        "/packs", summary="Bring pieces of a project's files", openapi_extra=_BYTES, dependencies=submits
    )  # fmt: skip
    def keep(project: Project, visitor: Asking, pack: Annotated[bytes, Depends(body(PACK_LIMIT))]) -> Kept:
        gate.check_project(visitor, project, "the pack")
        return Kept(pieces=bundles.keep(project, pack))

    return routes
