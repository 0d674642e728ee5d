"""
The server's application: its parts behind routes, and its threads.

Joins parts and routes; what they do is theirs.
"""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib import resources

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware

from pytest_supercheck import __version__
from pytest_supercheck.event_reader import EventReader
from supercheck_server.answers import answer_errors
from supercheck_server.bundle_routes import bundle_routes
from supercheck_server.door import door_routes
from supercheck_server.exchange import exchange_routes
from supercheck_server.feed import Feed
from supercheck_server.file_routes import file_routes
from supercheck_server.gate import Gate
from supercheck_server.health import health_routes
from supercheck_server.job_pages import job_pages
from supercheck_server.job_routes import job_routes
from supercheck_server.judgement_routes import judgement_routes
from supercheck_server.live_pages import form_routes, live_routes
from supercheck_server.messenger import Postman
from supercheck_server.middleware import Bounded, WithHeaders
from supercheck_server.oidc import Issuers
from supercheck_server.parts import Parts
from supercheck_server.queue_routes import queue_of, queue_routes
from supercheck_server.recorder import RecorderThread
from supercheck_server.render import Renderer, static_version
from supercheck_server.run_pages import Sources, run_pages
from supercheck_server.run_routes import run_routes
from supercheck_server.run_state import projects_of
from supercheck_server.scheduler import SchedulerThread
from supercheck_server.sign_in import sign_in_routes
from supercheck_server.throttle import Throttle
from supercheck_server.trend_pages import trend_pages
from supercheck_server.view import QueueView
from supercheck_server.viewer import ViewerFiles, find_viewer


def create_app(parts: Parts) -> FastAPI:
    """
    Make the application.

    Args:
        parts: Closed by whoever made them, after the application has ended.
    """
    reader = EventReader(parts.settings.redis_url or "", password=parts.settings.redis_password)
    app = FastAPI(
        title="pytest-supercheck", version=__version__, lifespan=lambda _app: _at_work(parts, reader), docs_url=None,
        redoc_url=None, description="The pool's queue and the history of its runs.",
    )  # fmt: skip
    viewer = find_viewer()
    owners = functools.partial(projects_of, parts.dispatcher, parts.history)
    gate = Gate(parts.access, Throttle(), owners)
    renderer = Renderer(has_viewer=viewer is not None)
    sources = Sources(
        dispatcher=parts.dispatcher, history=parts.history, shelf=parts.shelf, renderer=renderer, feeds=parts.feeds
    )
    checks = {"redis": parts.gateway.check, "database": parts.database.check, "store": parts.shelf.check}
    in_place = parts.settings.in_place
    for routes in (
        health_routes(checks, parts.metrics),
        queue_routes(parts.dispatcher, functools.partial(_queue_feed, parts), gate),
        run_routes(parts.dispatcher, parts.history, gate),
        door_routes(parts.dispatcher, reader, lambda: parts.feeds.is_closed, gate, in_place=in_place),
        bundle_routes(parts.bundles, gate),
        job_routes(parts.desk, gate),
        file_routes(owners, parts.shelf, gate),
        exchange_routes(Issuers(parts.configuration.oidc), parts.access, gate),
        judgement_routes(owners, parts.trends, gate),
        sign_in_routes(parts.access, gate, renderer),
        run_pages(sources, gate),
        trend_pages(parts.trends, parts.history, renderer, gate),
        job_pages(parts.desk, parts.history, renderer, gate),
        live_routes(parts.dispatcher, parts.history, renderer, parts.feeds, gate),
        form_routes(parts.dispatcher, gate),
    ):
        app.include_router(routes)
    files = StaticFiles(directory=str(resources.files("supercheck_server") / "static"))
    app.mount(f"/static/{static_version()}", files, name="static")
    if viewer is not None:
        app.mount("/trace", ViewerFiles(viewer), name="trace")
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    app.add_middleware(Bounded)
    app.add_middleware(WithHeaders)
    answer_errors(app, renderer)
    return app


@asynccontextmanager
async def _at_work(parts: Parts, reader: EventReader) -> AsyncIterator[None]:
    """The threads of a server, from before its first answer until after its last."""
    adopts = "://" not in parts.settings.store
    recorder = RecorderThread(parts.recorder, parts.retention, parts.mirror, parts.bundles, adopts=adopts)
    scheduler = SchedulerThread(parts.scheduler)
    recorder.start()
    scheduler.start()
    postman = Postman(parts.messenger, parts.alerts) if parts.messenger else None
    if postman is not None:
        postman.start()
    yield
    parts.feeds.close()
    await run_in_threadpool(scheduler.stop)
    await run_in_threadpool(recorder.stop)
    if postman is not None:
        await run_in_threadpool(postman.stop)
    await reader.close()


def _queue_feed(parts: Parts, project: str) -> Feed:
    """The queue as a project sees it, as the API shows it."""

    def look() -> str:
        return json.dumps(asdict(queue_of(QueueView.look(parts.dispatcher, project))))

    return parts.feeds.named(f"api queue {project}", look, event="queue")
