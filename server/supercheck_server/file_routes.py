"""
The files of runs, for programs: sessions fetch what their tests have left behind on workers.

Between HTTP and the shelf; `run_pages` shows the same files to people.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Path
from starlette.responses import RedirectResponse, Response, StreamingResponse

from pytest_supercheck.archive import run_folder
from pytest_supercheck.errors import NotStored
from pytest_supercheck.store import BadKey, check_key
from supercheck_server.api import ANSWERS, UNKNOWN, RunPath
from supercheck_server.gate import Gate
from supercheck_server.shelf import Shelf, chunks

#: What only tests write; the rest of a run's folder is for readers of records.
_BEGINS: Final = "artifacts/"

_FOUND: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/octet-stream": {}}, "description": "The file."},
    307: {"description": "It is in the store, at an address that is good for some minutes and needs no token."},
}


def file_routes(projects_of: Callable[[str], set[str]], shelf: Shelf, gate: Gate) -> APIRouter:
    """
    Make the route.

    Args:
        projects_of: The projects that a run's id belongs to.
    """
    routes = APIRouter(prefix="/api/v1", tags=["sessions"], responses=ANSWERS, dependencies=[gate.programs("read")])

    @routes.get(
        "/runs/{run_id}/files/{key:path}", summary="A file that a test has left behind",
        responses={**UNKNOWN, **_FOUND}, response_class=StreamingResponse,
    )  # fmt: skip
    def file(run_id: RunPath, key: Annotated[str, Path(max_length=1000)]) -> Response:
        for project in sorted(projects_of(run_id)) if key.startswith(_BEGINS) else ():
            try:
                name = check_key(run_folder(project, run_id) + key)
                if address := shelf.address(name):
                    return RedirectResponse(address, headers={"Cache-Control": "no-store"})
                stream = shelf.open(name)
            except (NotStored, BadKey):
                continue
            # Whatever it is, no browser is to show it as a page of ours.
            safe = {"Content-Disposition": "attachment", "Cache-Control": "no-store"}
            return StreamingResponse(chunks(stream), headers=safe, media_type="application/octet-stream")
        raise HTTPException(404, "There is no such file.")

    return routes
