"""
The door for sessions that cannot reach Redis: the gateway's verbs over HTTP, for `pytest_supercheck.http_gateway`.

Between HTTP and the dispatcher, the same one that sessions in the network use.  A run's events are read for each
session by a task, not a thread: there may be hundreds of them, and most have nothing to read.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Header, HTTPException
from pydantic import BaseModel, Field, field_validator
from starlette.responses import StreamingResponse

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import SupercheckError
from pytest_supercheck.event_reader import EventReader
from pytest_supercheck.events import Collected, decode, encode_collected
from pytest_supercheck.model import Admission, How, Offer, Priority, RunId, RunRequest, RunStatus
from supercheck_server.api import ANSWERS, EVENTS, REFUSED, RUN_ID, UNKNOWN, RunPath, event_stream
from supercheck_server.feed import PING
from supercheck_server.gate import Asking, Gate

#: Seconds for which one read waits, and between two signs that a stream is still there.
READ_S: Final = 1.0
SIGN_S: Final = 5.0
#: Seconds after which a stream ends. Who reads it comes back, through the gate: a token is not good for ever.
STREAM_S: Final = 60.0

#: An id of a stream's entry, as Redis has it.
_ENTRY_ID: Final = r"^\d{1,20}(-\d{1,20})?$"


IN_PLACE: Final = (
    "This server takes no runs in place, whose tests are in directories of the workers: ship the project "
    "(--supercheck-source=ship), or set SUPERCHECK_IN_PLACE=1 for the server."
)


class Submission(BaseModel):
    """What a session asks for; see `RunRequest`."""

    run_id: Annotated[str, Field(pattern=RUN_ID)]
    project: Annotated[str, Field(min_length=1, max_length=200)] = "default"
    priority: Priority = "normal"
    want: Annotated[int, Field(ge=1, le=100_000)] = 1
    spec: Annotated[str, Field(max_length=4_000_000)] = "{}"
    timeout_s: Annotated[float, Field(ge=0, le=10_000_000)] = 0
    maxfail: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    detached: bool = False
    labels: Annotated[list[Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,100}$")]], Field(max_length=100)] = []
    grace_s: Annotated[float, Field(ge=15, le=3600)] = 60
    concurrency: Annotated[str, Field(pattern=r"^([A-Za-z0-9._:/-]{1,200})?$")] = ""
    concurrency_limit: Annotated[int, Field(ge=1, le=100_000)] = 1
    cancel_in_progress: bool = False

    def request(self) -> RunRequest:
        """As the dispatcher wants it."""
        asked = self.model_dump()
        return RunRequest(**{**asked, "run_id": RunId(self.run_id), "labels": tuple(self.labels)})


class Items(BaseModel):
    """What a run consists of; see `Offer`."""

    names: list[str]
    single: Annotated[int, Field(ge=0)] = 0
    joined: list[Annotated[int, Field(ge=1)]] = []
    listing: str = ""
    detached: bool = False

    @field_validator("listing")
    @classmethod
    def _check_listing(cls, text: str) -> str:
        if not text:
            return text
        found = decode(text.encode("ascii", "replace"))
        if not isinstance(found, Collected):
            raise ValueError("it is not the event `collected`")
        return encode_collected(found).decode("ascii")  # on one line, whatever it came in

    def offer(self) -> Offer:
        """As the dispatcher wants it."""
        joined = [index for index in self.joined if index < len(self.names)]
        return Offer(**{**self.model_dump(), "joined": joined})


class Taken(BaseModel):
    """Whether items were taken: not when the run is over already."""

    taken: bool


class Stop(BaseModel):
    """How a session stops its run; see `Gateway.cancel`."""

    outcome: Literal["cancelled", "interrupted", "stopped", "withdrawn"]
    how: How
    message: Annotated[str, Field(max_length=2000)] = ""


def door_routes(
    dispatcher: Dispatcher, reader: EventReader, is_closing: Callable[[], bool], gate: Gate, *, in_place: bool
) -> APIRouter:
    """
    Make the routes.

    Args:
        in_place: Whether a token is enough to have runs in directories that are the workers' own. Without any token
            whoever asks is on this machine, and may anyway.
        reader: Reads runs' results.
        is_closing: Whether readers are to go: they come back, to another server or to this one's successor.
    """
    routes = APIRouter(prefix="/api/v1", tags=["sessions"], responses=ANSWERS)
    read, submits = [gate.programs("read")], [gate.programs("submit")]

    @routes.post("/runs", summary="Submit a run", status_code=201, responses=REFUSED, dependencies=submits)
    def submit(submission: Submission, visitor: Asking) -> Admission:
        gate.check_submission(visitor, submission.run_id, submission.project)
        if visitor.signed_in and not in_place and not is_shipped(submission.spec):
            raise HTTPException(403, IN_PLACE)
        return dispatcher.submit(submission.request())

    @routes.post(
        "/runs/{run_id}/items", summary="Hand over a run's items, once", responses=UNKNOWN, dependencies=submits
    )
    def offer(run_id: RunPath, items: Items) -> Taken:
        return Taken(taken=dispatcher.offer(RunId(run_id), items.offer()))

    @routes.post(
        "/runs/{run_id}/keep",
        summary="Say that the session still wants its run",
        responses=UNKNOWN,
        dependencies=submits,
    )
    def keep(run_id: RunPath) -> RunStatus:
        return dispatcher.keep(RunId(run_id))

    @routes.get("/runs/{run_id}/status", summary="Look where a run stands", responses=UNKNOWN, dependencies=read)
    def status(run_id: RunPath) -> RunStatus:
        return dispatcher.look(RunId(run_id))

    @routes.post(
        "/runs/{run_id}/stop", summary="Stop a run as its session does", responses=UNKNOWN, dependencies=submits
    )
    def stop(run_id: RunPath, how: Stop) -> RunStatus:
        return dispatcher.cancel(RunId(run_id), outcome=how.outcome, how=how.how, message=how.message)

    @routes.get(
        "/runs/{run_id}/events", summary="A run's results, from the beginning or after Last-Event-ID, as they come",
        responses={**EVENTS, **UNKNOWN}, response_class=StreamingResponse, dependencies=read,
    )  # fmt: skip
    async def events(
        run_id: RunPath, once: bool = False, last_event_id: Annotated[str, Header(pattern=_ENTRY_ID)] = "0"
    ) -> StreamingResponse:
        return event_stream(_entries(reader, RunId(run_id), last_event_id, is_closing, once=once))

    return routes


def is_shipped(spec: str) -> bool:
    """
    Whether a run's tests are where workers have put them, and not where its spec says that they are.

    Args:
        spec: As the session has written it, in which workers look for ``source``.
    """
    try:
        told = json.loads(spec)
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and "source" in told


async def _entries(
    reader: EventReader, run: RunId, after: str, is_closing: Callable[[], bool], *, once: bool
) -> AsyncIterator[bytes]:
    """
    A run's results as server-sent events, each of one or more NDJSON lines, for a while.

    Args:
        once: Whether to end with the first ones, or with none soon: for readers behind a proxy that holds streams back.
    """
    begun_at = sign_at = time.monotonic()
    while not is_closing() and time.monotonic() < begun_at + (SIGN_S if once else STREAM_S):
        try:
            entries = await reader.read(run, after=after, wait_s=READ_S)
        except SupercheckError:
            return  # whoever reads comes back for the rest
        if entries:
            yield b"".join(_encode(entry, lines) for entry, lines in entries)
            after, sign_at = entries[-1][0], time.monotonic()
            if once:
                return
        elif not once and time.monotonic() > sign_at + SIGN_S:
            sign_at = time.monotonic()
            yield PING


def _encode(entry: str, lines: bytes) -> bytes:
    data = b"".join(b"data: %s\n" % line for line in lines.rstrip(b"\n").split(b"\n"))
    return b"id: %s\n%s\n" % (entry.encode(), data)
