"""
What all routes of the HTTP API, version 1, have in common; it is described at `/openapi.json`.

Beneath the modules of routes; knows none of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import Path
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from pytest_supercheck.model import Figures

#: What a run's id looks like; anything else is unknown without asking.
RUN_ID: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$"

RunPath = Annotated[str, Path(pattern=RUN_ID, description="A run's id.")]


class Trouble(BaseModel):
    """Why a request was not answered."""

    #: In words.
    detail: str


class Refused(Trouble):
    """The queue is full."""

    #: The capacities and what they hold.
    figures: Figures
    #: Seconds after which asking again makes sense.
    retry_after_s: float


ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": Trouble, "description": "The request cannot be read"},
    401: {"model": Trouble, "description": "No token, or one that is not valid"},
    403: {"model": Trouble, "description": "Not allowed: the token has not the scope, or is for another project"},
    429: {
        "model": Trouble,
        "description": "Too many wrong tokens from this address; Retry-After says when to try again",
    },
    503: {"model": Trouble, "description": "Redis or the database cannot be used now"},
}
UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": Trouble, "description": "There is no such run, or it is of another project than the token"}
}
REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    409: {"model": Trouble, "description": "It cannot be run once more, or its id is taken"},
    429: {
        "model": Refused | Trouble,
        "description": "The queue is full, or as elsewhere; Retry-After says when to ask again",
    },
}
_EVENT: Final = {
    "type": "object",
    "required": ["data"],
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
}
EVENTS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {"text/event-stream": {"schema": _EVENT}},
        "description": "Server-sent events, in a row",
    }
}


def event_stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    """Server-sent events as a response that lasts; no proxy on the way keeps it back."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
