"""
The pool over HTTP: what programs may see of its queue and its workers, and change.

Between HTTP and the dispatcher, the same one that clients in the network use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.model import Figures, PoolExecution, PoolStatus, QueuedRun
from supercheck_server.api import ANSWERS, EVENTS, event_stream
from supercheck_server.feed import Feed
from supercheck_server.gate import Asking, Gate
from supercheck_server.view import QueueView, look_at_pool


class Limits(BaseModel):
    """New limits; what is absent or null stays."""

    running: int | None = Field(None, ge=0, le=1_000_000, description="Executions at a time.")
    queued: int | None = Field(None, ge=0, le=1_000_000, description="Runs that may wait.")
    project: str | None = Field(
        None, min_length=1, max_length=200, description="For one project; the pool's limits when absent."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue(Figures):
    """The pool's figures with its runs and executions."""

    #: Running runs by age, then those that wait for a slot in rank order, then those that wait for their turn.
    runs: tuple[QueuedRun, ...]
    #: Who runs what.
    executions: tuple[PoolExecution, ...]


def queue_routes(dispatcher: Dispatcher, queue_feed: Callable[[str], Feed], gate: Gate) -> APIRouter:
    """
    Make the routes.

    Args:
        queue_feed: The feed for a project, whose pictures are `queue_of` as JSON.
    """
    routes = APIRouter(prefix="/api/v1", tags=["queue"], responses=ANSWERS)
    read, operate = [gate.programs("read")], [gate.programs("admin", everywhere=True)]

    @routes.get("/queue", summary="Who runs and who waits", dependencies=read)
    def queue(visitor: Asking) -> Queue:
        return queue_of(QueueView.look(dispatcher, visitor.project))

    @routes.get(
        "/queue/events", summary="The same, whenever it changes", responses=EVENTS,
        response_class=StreamingResponse, dependencies=read,
    )  # fmt: skip
    async def queue_events(visitor: Asking) -> StreamingResponse:
        return event_stream(queue_feed(visitor.project).watch())

    @routes.post("/queue/pause", summary="Start nothing new; what runs goes on", dependencies=operate)
    def pause() -> Figures:
        return dispatcher.pause(on=True)

    @routes.post("/queue/resume", summary="Start runs again", dependencies=operate)
    def resume() -> Figures:
        return dispatcher.pause(on=False)

    @routes.post("/queue/limits", summary="Change the limits, at once", dependencies=operate)
    def limits(new: Limits) -> Figures:
        return dispatcher.limits(running=new.running, queued=new.queued, project=new.project)

    @routes.get("/workers", summary="Who works on what", dependencies=read)
    def workers(visitor: Asking) -> PoolStatus:
        return look_at_pool(dispatcher, visitor.project)

    return routes


def queue_of(view: QueueView) -> Queue:
    """The queue as the API shows it."""
    figures = {name: getattr(view.queue.figures, name) for name in Figures.__slots__}
    return Queue(**figures, runs=view.queue.runs, executions=view.pool.executions)
