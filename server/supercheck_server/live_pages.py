"""
The pages of what happens now: the queue and the workers, with the buttons that change them.

Between people and the dispatcher. Every change works without JavaScript, as a form that leads back.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.params import Depends
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.model import PRIORITIES, PoolStatus, RunId
from pytest_supercheck.retry import retry
from supercheck_server import charts
from supercheck_server.api import RunPath, cancel_run, event_stream
from supercheck_server.feed import Feeds
from supercheck_server.history import LOAD_MINUTES, History
from supercheck_server.render import Renderer
from supercheck_server.view import QueueView, look_at_pool


def live_routes(
    dispatcher: Dispatcher, history: History, renderer: Renderer, feeds: Feeds, *, gate: Depends
) -> APIRouter:
    """The routes that show."""
    routes = APIRouter(include_in_schema=False, dependencies=[gate], default_response_class=HTMLResponse)

    def queue_text() -> str:
        return renderer.text("queue_live.html", view=QueueView.look(dispatcher))

    def workers_text() -> str:
        return renderer.text("workers_live.html", **_workers(look_at_pool(dispatcher)))

    @routes.get("/queue")
    def queue(request: Request) -> Response:
        now_minute = int(time.time() // 60)
        chart = charts.load(history.loads(now_minute - LOAD_MINUTES), now_minute)
        return renderer.page(request, "queue.html", title="Queue", view=QueueView.look(dispatcher), load=chart)

    @routes.get("/queue/live")
    async def queue_live() -> StreamingResponse:
        return event_stream(feeds.named("queue", queue_text))

    @routes.get("/workers")
    def workers(request: Request) -> Response:
        return renderer.page(request, "workers.html", title="Workers", **_workers(look_at_pool(dispatcher)))

    @routes.get("/workers/live")
    async def workers_live() -> StreamingResponse:
        return event_stream(feeds.named("workers", workers_text))

    return routes


def form_routes(dispatcher: Dispatcher, *, gate: Depends) -> APIRouter:
    """The routes that change."""
    routes = APIRouter(include_in_schema=False, dependencies=[gate], default_response_class=HTMLResponse)

    @routes.post("/queue/pause")
    def pause(request: Request) -> Response:
        dispatcher.pause(on=True)
        return done(request, "/queue")

    @routes.post("/queue/resume")
    def resume(request: Request) -> Response:
        dispatcher.pause(on=False)
        return done(request, "/queue")

    @routes.post("/queue/limits")
    def limits(
        request: Request,
        running: Annotated[str, Form()] = "",
        queued: Annotated[str, Form()] = "",
        project: Annotated[str, Form(max_length=200)] = "",
    ) -> Response:
        dispatcher.limits(running=_number(running), queued=_number(queued), project=project.strip() or None)
        return done(request, "/queue")

    @routes.post("/runs/{run_id}/cancel")
    def cancel(request: Request, run_id: RunPath, now: Annotated[bool, Form()] = False) -> Response:
        cancel_run(dispatcher, run_id, visitor=request.state.visitor, now=now)
        return done(request, f"/runs/{run_id}")

    @routes.post("/runs/{run_id}/retry")
    def again(
        run_id: RunPath, failed: Annotated[bool, Form()] = False, nodeid: Annotated[str, Form()] = ""
    ) -> Response:
        made = retry(dispatcher, RunId(run_id), failed=failed, nodeid=nodeid)
        return RedirectResponse(f"/runs/{made}", 303)

    @routes.post("/runs/{run_id}/priority")
    def priority(request: Request, run_id: RunPath, priority: Annotated[str, Form()]) -> Response:
        if priority not in PRIORITIES:
            raise HTTPException(400, f"A priority is one of {', '.join(PRIORITIES)}.")
        dispatcher.priority(RunId(run_id), priority=priority)
        return done(request, "/queue")

    return routes


def done(request: Request, address: str) -> Response:
    """The answer to a form: nothing for a script, which sees the change live, else the page it came from."""
    return Response(status_code=204) if "hx-request" in request.headers else RedirectResponse(address, 303)


def _workers(pool: PoolStatus) -> dict[str, Any]:
    return {"pool": pool, "by_job": {execution.job: execution for execution in pool.executions}}


def _number(text: str) -> int | None:
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) > 1_000_000:
        raise HTTPException(400, f"A limit is a whole number from 0 to 1000000, not {text[:40]!r}.")
    return int(text)
