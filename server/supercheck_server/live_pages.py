"""
The pages of what happens now: the queue and the workers, with the buttons that change them.

Between people and the dispatcher. Every change works without JavaScript, as a form that leads back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.model import PRIORITIES, RunId
from pytest_supercheck.retry import retry
from supercheck_server import charts
from supercheck_server.access import SCOPES, Visitor
from supercheck_server.api import RunPath, event_stream
from supercheck_server.feed import Feed, Feeds
from supercheck_server.gate import Asking, Gate
from supercheck_server.history import LOAD_MINUTES, History
from supercheck_server.render import Renderer
from supercheck_server.run_state import cancel_run
from supercheck_server.view import HIDDEN, QueueView, look_at_pool


def live_routes(dispatcher: Dispatcher, history: History, renderer: Renderer, feeds: Feeds, gate: Gate) -> APIRouter:
    """The routes that show."""
    routes = APIRouter(include_in_schema=False, dependencies=[gate.people("read")], default_response_class=HTMLResponse)

    def look_at_queue(visitor: Visitor) -> dict[str, Any]:
        return {"view": QueueView.look(dispatcher, visitor.project)}

    def look_at_workers(visitor: Visitor) -> dict[str, Any]:
        pool = look_at_pool(dispatcher, visitor.project)
        return {"pool": pool, "by_job": {one.job: one for one in pool.executions if one.job != HIDDEN}}

    def feed(name: str, look: Callable[[Visitor], dict[str, Any]], visitor: Visitor) -> Feed:
        # One for those who see the same, of the pool and of its buttons.
        return feeds.named(
            f"{name} {visitor.scope} {visitor.project}",
            lambda: renderer.text(f"{name}_live.html", visitor, **look(visitor)),
            event=name,
        )

    @routes.get("/queue")
    def queue(request: Request, visitor: Asking) -> Response:
        now_minute = int(time.time() // 60)
        chart = charts.load(history.loads(now_minute - LOAD_MINUTES), now_minute)
        return renderer.page(request, "queue.html", title="Queue", load=chart, **look_at_queue(visitor))

    @routes.get("/queue/live")
    async def queue_live(visitor: Asking) -> StreamingResponse:
        return event_stream(feed("queue", look_at_queue, visitor).watch())

    @routes.get("/workers")
    def workers(request: Request, visitor: Asking) -> Response:
        return renderer.page(request, "workers.html", title="Workers", **look_at_workers(visitor))

    @routes.get("/workers/live")
    async def workers_live(visitor: Asking) -> StreamingResponse:
        return event_stream(feed("workers", look_at_workers, visitor).watch())

    return routes


def form_routes(dispatcher: Dispatcher, gate: Gate) -> APIRouter:
    """The routes that change."""
    routes = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
    _, submit, admin = ([gate.people(scope)] for scope in SCOPES)
    operate = [gate.people("admin", everywhere=True)]

    @routes.post("/queue/pause", dependencies=operate)
    def pause(request: Request) -> Response:
        dispatcher.pause(on=True)
        return done(request, "/queue")

    @routes.post("/queue/resume", dependencies=operate)
    def resume(request: Request) -> Response:
        dispatcher.pause(on=False)
        return done(request, "/queue")

    @routes.post("/queue/limits", dependencies=operate)
    def limits(
        request: Request,
        running: Annotated[str, Form()] = "",
        queued: Annotated[str, Form()] = "",
        project: Annotated[str, Form(max_length=200)] = "",
    ) -> Response:
        dispatcher.limits(running=_number(running), queued=_number(queued), project=project.strip() or None)
        return done(request, "/queue")

    @routes.post("/runs/{run_id}/cancel", dependencies=submit)
    def cancel(request: Request, run_id: RunPath, visitor: Asking, now: Annotated[bool, Form()] = False) -> Response:
        cancel_run(dispatcher, run_id, visitor=visitor.name, now=now)
        return done(request, f"/runs/{run_id}")

    @routes.post("/runs/{run_id}/retry", dependencies=submit)
    def again(
        run_id: RunPath, failed: Annotated[bool, Form()] = False, nodeid: Annotated[str, Form()] = ""
    ) -> Response:
        made = retry(dispatcher, RunId(run_id), failed=failed, nodeid=nodeid)
        return RedirectResponse(f"/runs/{made}", 303)

    @routes.post("/runs/{run_id}/priority", dependencies=admin)
    def priority(request: Request, run_id: RunPath, priority: Annotated[str, Form()]) -> Response:
        if priority not in PRIORITIES:
            raise HTTPException(400, f"A priority is one of {', '.join(PRIORITIES)}.")
        dispatcher.priority(RunId(run_id), priority=priority)
        return done(request, "/queue")

    return routes


def done(request: Request, address: str) -> Response:
    """The answer to a form: nothing for a script, which sees the change live, else the page it came from."""
    return Response(status_code=204) if "hx-request" in request.headers else RedirectResponse(address, 303)


def _number(text: str) -> int | None:
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) > 1_000_000:
        raise HTTPException(400, f"A limit is a whole number from 0 to 1000000, not {text[:40]!r}.")
    return int(text)
