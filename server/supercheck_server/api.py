"""
The HTTP API, version 1: what programs may see and do, described at `/openapi.json`.

Between HTTP and the dispatcher and history; the same dispatcher that clients in the network use.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.gateway import NO_RUN
from pytest_supercheck.model import Figures, PoolExecution, PoolStatus, Priority, QueuedRun, RunId
from pytest_supercheck.retry import retry
from supercheck_server.access import SCOPES
from supercheck_server.feed import Feed
from supercheck_server.gate import Asking, Gate
from supercheck_server.history import History, RunFilter
from supercheck_server.rows import RunRow
from supercheck_server.view import QueueView, look_at_pool

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


class Cancel(BaseModel):
    """How to cancel."""

    now: bool = Field(False, description="Kill the tests that run instead of letting them finish.")


class Again(BaseModel):
    """What to run once more."""

    failed: Annotated[bool, Field(description="Only the tests that failed, or have no result.")] = False
    nodeid: Annotated[str, Field(max_length=10_000, description="Only this test.")] = ""


class Rank(BaseModel):
    """A run's new rank."""

    priority: Priority


class Limits(BaseModel):
    """New limits; what is absent or null stays."""

    running: int | None = Field(None, ge=0, le=1_000_000, description="Executions at a time.")
    queued: int | None = Field(None, ge=0, le=1_000_000, description="Runs that may wait.")
    project: str | None = Field(
        None, min_length=1, max_length=200, description="For one project; the pool's limits when absent."
    )


class Asked(BaseModel):
    """Which runs a list has; what is absent does not matter."""

    project: str = Field("", max_length=200)
    verdict: str = Field("", max_length=50)
    branch: str = Field("", max_length=500)
    trigger: str = Field("", max_length=50)
    search: str = Field("", max_length=200, description="A beginning of id or commit, a part of other texts.")
    since_ms: int | None = Field(None, ge=0, le=1 << 53, description="Submitted then or later, ms since 1970.")
    until_ms: int | None = Field(None, ge=0, le=1 << 53, description="Submitted before, ms since 1970.")
    after: str = Field("", max_length=64, description="`after` of the page before.")
    limit: int = Field(50, ge=1, le=200)

    def filter(self) -> RunFilter:
        """As the history wants it."""
        return RunFilter(**self.model_dump(exclude={"after", "limit"}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue(Figures):
    """The pool's figures with its runs and executions."""

    #: Running runs by age, then those that wait for a slot in rank order, then those that wait for their turn.
    runs: tuple[QueuedRun, ...]
    #: Who runs what.
    executions: tuple[PoolExecution, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run, alive or recorded."""

    #: Its id and whose it is.
    run: str
    project: str
    #: `waiting`, `running`, `stopping` or `ended`.
    state: str
    #: `live`, `passed`, `failed`, or what ended it.
    verdict: str
    #: What ended it, and in words; empty while it lives.
    outcome: str
    message: str
    #: Tests reported, tests in all (null while unknown), and the share in percent.
    done: int
    total: int | None
    percent: float
    #: Executions that hold a slot; place in the queue from 1, 0 for none; seconds until a slot is likely.
    held: int
    position: int
    eta_s: float | None
    #: The concurrency group in which it waits for its turn, where it has the position; empty when it does not.
    waits_for: str
    #: Executions that have begun so far, each a number and how often it was given out.
    attempts: tuple[str, ...]
    #: Times, ms since 1970.
    submitted_ms: int | None
    started_ms: int | None
    ended_ms: int | None
    #: The run's row in the history; null while there is none.
    record: RunRow | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """A page of runs."""

    #: The last submitted first.
    runs: list[RunRow]
    #: What to give as `after` for the next page; empty at the end.
    after: str


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


def api_routes(dispatcher: Dispatcher, history: History, queue_feed: Callable[[str], Feed], gate: Gate) -> APIRouter:
    """
    Make the routes.

    Args:
        queue_feed: The feed for a project, whose pictures are `queue_of` as JSON.
    """
    routes = APIRouter(prefix="/api/v1", responses=ANSWERS)
    read, submit, admin = ([gate.programs(scope)] for scope in SCOPES)
    operate = [gate.programs("admin", everywhere=True)]

    @routes.get("/queue", tags=["queue"], summary="Who runs and who waits", dependencies=read)
    def queue(visitor: Asking) -> Queue:
        return queue_of(QueueView.look(dispatcher, visitor.project))

    @routes.get(
        "/queue/events", tags=["queue"], summary="The same, whenever it changes", responses=EVENTS,
        response_class=StreamingResponse, dependencies=read,
    )  # fmt: skip
    async def queue_events(visitor: Asking) -> StreamingResponse:
        return event_stream(queue_feed(visitor.project))

    @routes.post("/queue/pause", tags=["queue"], summary="Start nothing new; what runs goes on", dependencies=operate)
    def pause() -> Figures:
        return dispatcher.pause(on=True)

    @routes.post("/queue/resume", tags=["queue"], summary="Start runs again", dependencies=operate)
    def resume() -> Figures:
        return dispatcher.pause(on=False)

    @routes.post("/queue/limits", tags=["queue"], summary="Change the limits, at once", dependencies=operate)
    def limits(new: Limits) -> Figures:
        return dispatcher.limits(running=new.running, queued=new.queued, project=new.project)

    @routes.get("/workers", tags=["queue"], summary="Who works on what", dependencies=read)
    def workers(visitor: Asking) -> PoolStatus:
        return look_at_pool(dispatcher, visitor.project)

    @routes.get("/runs", tags=["runs"], summary="The runs of the history, the last submitted first", dependencies=read)
    def runs(asked: Annotated[Asked, Query()], visitor: Asking) -> Runs:
        wanted = replace(asked.filter(), project=visitor.narrow(asked.project))
        rows = history.runs(wanted, after=asked.after, limit=asked.limit)
        return Runs(runs=rows, after=rows[-1].key if len(rows) == asked.limit else "")

    @routes.get("/runs/{run_id}", tags=["runs"], summary="Where a run stands", responses=UNKNOWN, dependencies=read)
    def run(run_id: RunPath) -> Run:
        return _known(look_at_run(dispatcher, history, run_id))

    @routes.post(
        "/runs/{run_id}/cancel", tags=["runs"], summary="Cancel a run; its results are kept", responses=UNKNOWN,
        dependencies=submit,
    )  # fmt: skip
    def cancel(run_id: RunPath, visitor: Asking, how: Cancel | None = None) -> Run:
        now = how is not None and how.now
        cancel_run(dispatcher, run_id, visitor=visitor.name, now=now)
        return _known(look_at_run(dispatcher, history, run_id))

    @routes.post(
        "/runs/{run_id}/retry", tags=["runs"], summary="Run a run once more", status_code=201,
        responses={**UNKNOWN, **REFUSED}, dependencies=submit,
    )  # fmt: skip
    def again(run_id: RunPath, what: Again | None = None) -> Run:
        _known(look_at_run(dispatcher, history, run_id))
        what = what or Again()
        made = retry(dispatcher, RunId(run_id), failed=what.failed, nodeid=what.nodeid)
        return _known(look_at_run(dispatcher, history, made))

    @routes.post(
        "/runs/{run_id}/priority", tags=["runs"], summary="Change a run's rank", responses=UNKNOWN, dependencies=admin
    )
    def priority(run_id: RunPath, rank: Rank) -> Run:
        dispatcher.priority(RunId(run_id), priority=rank.priority)
        return _known(look_at_run(dispatcher, history, run_id))

    return routes


def cancel_run(dispatcher: Dispatcher, run: str, *, visitor: str, now: bool) -> None:
    """
    Cancel a run in somebody's name.

    Args:
        visitor: Who it was; goes into the run's message.
        now: Kill the tests that run instead of letting them finish.
    """
    words = f"cancelled through the server by {visitor}"
    dispatcher.cancel(RunId(run), outcome="cancelled", how="kill" if now else "leave", message=words)


def queue_of(view: QueueView) -> Queue:
    """The queue as the API shows it."""
    figures = {name: getattr(view.queue.figures, name) for name in Figures.__slots__}
    return Queue(**figures, runs=view.queue.runs, executions=view.pool.executions)


def event_stream(feed: Feed) -> StreamingResponse:
    """A feed as a response that lasts; no proxy on the way keeps it back."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(feed.watch(), media_type="text/event-stream", headers=headers)


def projects_of(dispatcher: Dispatcher, history: History, run: str) -> set[str]:
    """
    The projects that a run's id belongs to, as the pool and the history know it.

    Ids are made by clients: of two, somebody has taken the id of another's run.
    """
    if not re.match(RUN_ID, run):
        return set()
    record = history.run(run)
    return {name for name in (dispatcher.project(RunId(run)), record.project if record else None) if name is not None}


def look_at_run(dispatcher: Dispatcher, history: History, run: str) -> Run | None:
    """
    Look where a run stands, in the pool or in the history.

    Returns:
        None when neither knows it.
    """
    record = history.run(run)
    details = dispatcher.details(RunId(run))
    if details is None:
        return _recorded(record) if record else None
    status = dispatcher.look(RunId(run))
    if status.state == "gone":
        return _recorded(record) if record else None
    return Run(
        run=run,
        project=details.project,
        state=status.state,
        verdict=record.verdict if record else "live",
        outcome=status.outcome,
        message=status.message,
        done=status.done,
        total=status.total,
        percent=_percent(status.done, status.total),
        held=status.held,
        position=status.position,
        eta_s=status.eta_s,
        waits_for=status.waits_for,
        attempts=details.attempts,
        submitted_ms=details.submitted_ms,
        started_ms=details.started_ms,
        ended_ms=details.ended_ms,
        record=record,
    )


def _recorded(record: RunRow) -> Run:
    return Run(
        run=record.id,
        project=record.project,
        state="ended",
        verdict=record.verdict,
        outcome=record.outcome,
        message=record.message,
        done=record.done,
        total=record.total,
        percent=_percent(record.done, record.total),
        held=0,
        position=0,
        eta_s=None,
        waits_for="",
        attempts=(),
        submitted_ms=record.submitted_ms,
        started_ms=record.started_ms,
        ended_ms=record.ended_ms,
        record=record,
    )


def _percent(done: int, total: int | None) -> float:
    if total is None:
        return 0.0
    return round(100 * done / total, 1) if total else 100.0


def _known(run: Run | None) -> Run:
    if run is None:
        raise HTTPException(404, NO_RUN)
    return run
