"""
The server's object graph: settings in, an ASGI application out.

The one place that knows all parts; below it everybody is handed what it needs.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib import resources
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pytest_supercheck import __version__
from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.errors import BadJob, CannotRetry, QueueFull, SourceTrouble, SupercheckError, Unreachable
from pytest_supercheck.event_reader import EventReader
from pytest_supercheck.gateway import NO_JOB, NO_RUN, VERSION_HEADER
from pytest_supercheck.local_archive import mark_served
from pytest_supercheck.redis_gateway import RedisGateway
from pytest_supercheck.stores import open_store
from supercheck_server.access import Access
from supercheck_server.alerts import Alerts
from supercheck_server.api import Refused, api_routes, projects_of, queue_of
from supercheck_server.bundle_routes import bundle_routes
from supercheck_server.bundles import Bundles, live_bundles
from supercheck_server.configuration import read_configuration
from supercheck_server.database import Database
from supercheck_server.door import door_routes
from supercheck_server.errors import DatabaseTrouble
from supercheck_server.exchange import exchange_routes
from supercheck_server.feed import Feed, Feeds
from supercheck_server.file_routes import file_routes
from supercheck_server.gate import Gate, sign_in_address
from supercheck_server.github import GitHub, Workflows
from supercheck_server.health import health_routes
from supercheck_server.history import History
from supercheck_server.job_pages import job_pages
from supercheck_server.job_routes import Desk, job_routes
from supercheck_server.jobs import Jobs, UnknownJob
from supercheck_server.judgement_routes import judgement_routes
from supercheck_server.ledger import Ledger
from supercheck_server.live_pages import form_routes, live_routes
from supercheck_server.messenger import Messenger, Postman
from supercheck_server.metrics import Metrics
from supercheck_server.mirror import Mirror
from supercheck_server.notifications import Outbox
from supercheck_server.notifier import Notifiers
from supercheck_server.oidc import Issuers
from supercheck_server.pages import Sources, run_routes, test_routes
from supercheck_server.recorder import Keeper, Recorder
from supercheck_server.render import CONTENT_SECURITY_POLICY, Renderer, static_version
from supercheck_server.repositories import Repositories
from supercheck_server.retention import Retention
from supercheck_server.scheduler import Scheduler, SchedulerThread
from supercheck_server.settings import Settings
from supercheck_server.shelf import Shelf
from supercheck_server.sign_in import sign_in_routes
from supercheck_server.starter import Starter
from supercheck_server.starts import Starts
from supercheck_server.targets import read_targets
from supercheck_server.throttle import Throttle
from supercheck_server.view import QueueView
from supercheck_server.viewer import ViewerFiles, find_viewer

_TITLES: Final = {
    400: "That cannot be read",
    401: "Sign in",
    403: "Not allowed",
    404: "Not found",
    405: "Not here",
    409: "That does not go",
    413: "That is too much",
    429: "Wait a little",
    503: "Not now",
}

#: Bytes of a request's body, at most: what the largest run consists of. Some routes take less.
BODY_LIMIT: Final = 64 << 20


class Parts:
    """What a server is made of; made once, closed at its end."""

    def __init__(self, settings: Settings) -> None:
        """
        Make the parts, and the database's tables.

        Raises:
            Unreachable: No pool was given, or its URL is malformed.
            DatabaseTrouble: The database cannot be used.
            StoreTrouble: The store's address is malformed, or its directory cannot be written.
            BadVariable: The configuration file makes no sense.
            NotifierMissing: It names somebody to be told, and apprise is not installed.
        """
        if settings.redis_url is None:
            raise Unreachable("No pool was given: set SUPERCHECK_REDIS_URL, or use --url redis://HOST:6379/0.")
        self.settings = settings
        self.configuration = read_configuration(settings.config)
        self.gateway = RedisGateway.later(settings.redis_url, password=settings.redis_password)
        self.dispatcher = self.gateway.dispatcher
        self.database = Database(settings.database_url)
        self.database.migrate()
        self.history = History(self.database)
        store = open_store(settings.store, endpoint=settings.s3_endpoint)
        mark_served(settings.store)
        public = open_store(settings.store, endpoint=settings.s3_public_endpoint) if _is_public(settings) else None
        self.shelf = Shelf(store, DirectoryStore(settings.data / "waiting"), public)
        self.access = Access(self.database, closed=bool(self.configuration.oidc))
        self.mirror = Mirror(self.access, store)
        self.metrics = Metrics(self.dispatcher)
        self.feeds = Feeds()
        ledger = Ledger(self.database)
        outbox, self.messenger = self._messages()
        self.alerts = Alerts(
            rules=self.configuration.alerts,
            dispatcher=self.dispatcher,
            database=self.database,
            history=self.history,
            outbox=outbox,
            public_url=self.configuration.public_url,
        )
        self.starts = Starts(self.database, tell=self.alerts.missed, note=outbox.note)
        self.recorder = Recorder(
            dispatcher=self.dispatcher,
            shelf=self.shelf,
            ledger=ledger,
            history=self.history,
            metrics=self.metrics,
            outbox=outbox,
            starts=self.starts,
        )
        self.retention = Retention(
            history=self.history,
            ledger=ledger,
            shelf=self.shelf,
            days=settings.retention_days,
            runs_per_project=settings.retention_runs,
        )
        self.jobs = Jobs(self.database)
        self.bundles = Bundles(
            self.database,
            store,
            days=settings.bundle_days,
            needed=lambda: live_bundles(self.dispatcher) | self.jobs.bundles(),
        )
        self.github = GitHub(self.configuration.github)
        self.starter = Starter(
            jobs=self.jobs,
            starts=self.starts,
            dispatcher=self.dispatcher,
            bundles=self.bundles,
            repositories=Repositories(self.configuration.jobs, settings.data / "fetched"),
            workflows=Workflows(self.github, self.starts),
        )
        self.scheduler = Scheduler(self.jobs, self.starts, self.starter)

    def _messages(self) -> tuple[Outbox, Messenger | None]:
        """What is to be sent, and what sends it: None where nobody is told anything."""
        if not self.configuration.notify:
            return Outbox(self.database, {}), None
        notifier = Notifiers()
        targets = read_targets(self.configuration.notify, notifier, os.environ)
        outbox = Outbox(self.database, targets)
        return outbox, Messenger(
            outbox=outbox,
            targets=targets,
            notifier=notifier,
            history=self.history,
            metrics=self.metrics,
            public_url=self.configuration.public_url,
        )

    def close(self) -> None:
        """Close the connections."""
        self.github.close()
        self.gateway.close()
        self.database.close()


def _is_public(settings: Settings) -> bool:
    """Whether clients get files from the store itself."""
    return settings.s3_public_endpoint is not None and "://" in settings.store


def create_app(parts: Parts) -> FastAPI:
    """
    Make the application.

    Args:
        parts: Closed by whoever made them, after the application has ended.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        keeper = Keeper(
            parts.recorder, parts.retention, parts.mirror, parts.bundles, adopts="://" not in parts.settings.store
        )
        scheduling = SchedulerThread(parts.scheduler)
        keeper.start()
        scheduling.start()
        postman = Postman(parts.messenger, parts.alerts) if parts.messenger else None
        if postman is not None:
            postman.start()
        yield
        parts.feeds.close()
        await run_in_threadpool(scheduling.stop)
        await run_in_threadpool(keeper.stop)
        if postman is not None:
            await run_in_threadpool(postman.stop)
        await reader.close()

    app = FastAPI(
        title="pytest-supercheck", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="The pool's queue and the history of its runs.",
    )  # fmt: skip
    viewer = find_viewer()
    owners = functools.partial(projects_of, parts.dispatcher, parts.history)
    gate = Gate(parts.access, Throttle(), owners)
    renderer = Renderer(has_viewer=viewer is not None)

    def queue_feed(project: str) -> Feed:
        def look() -> str:
            return json.dumps(asdict(queue_of(QueueView.look(parts.dispatcher, project))))

        return parts.feeds.named(f"api queue {project}", look, event="queue")

    checks = {"redis": parts.gateway.check, "database": parts.database.check, "store": parts.shelf.check}
    app.include_router(health_routes(checks, parts.metrics))
    app.include_router(api_routes(parts.dispatcher, parts.history, queue_feed, gate))
    reader = EventReader(parts.settings.redis_url or "", password=parts.settings.redis_password)
    in_place = parts.settings.in_place
    app.include_router(door_routes(parts.dispatcher, reader, lambda: parts.feeds.is_closed, gate, in_place=in_place))
    app.include_router(bundle_routes(parts.bundles, gate))
    desk = Desk(
        jobs=parts.jobs,
        starts=parts.starts,
        starter=parts.starter,
        scheduler=parts.scheduler,
        bundles=parts.bundles,
        targets=parts.configuration.notify.keys(),
    )
    app.include_router(job_routes(desk, gate))
    app.include_router(file_routes(owners, parts.shelf, gate))
    app.include_router(exchange_routes(Issuers(parts.configuration.oidc), parts.access, gate))
    app.include_router(judgement_routes(owners, parts.history, gate))
    app.include_router(sign_in_routes(parts.access, gate, renderer))
    sources = Sources(
        dispatcher=parts.dispatcher, history=parts.history, shelf=parts.shelf, renderer=renderer, feeds=parts.feeds
    )
    app.include_router(run_routes(sources, gate))
    app.include_router(test_routes(sources, gate))
    app.include_router(job_pages(desk, parts.history, renderer, gate))
    app.include_router(live_routes(parts.dispatcher, parts.history, renderer, parts.feeds, gate))
    app.include_router(form_routes(parts.dispatcher, gate))
    files = StaticFiles(directory=str(resources.files("supercheck_server") / "static"))
    app.mount(f"/static/{static_version()}", files, name="static")
    if viewer is not None:
        app.mount("/trace", ViewerFiles(viewer), name="trace")
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    app.add_middleware(_Bounded)
    app.add_middleware(_WithHeaders)
    _answer_errors(app, renderer)
    return app


class _WithHeaders:
    """
    Headers for every answer.

    No `BaseHTTPMiddleware`, which hands every event of every viewer from one task to another.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                headers[VERSION_HEADER] = __version__
                if scope["path"].startswith("/static/") and message["status"] == 200:
                    headers["Cache-Control"] = "public, max-age=31536000, immutable"
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class _Bounded:
    """No request brings more than `BODY_LIMIT`, whoever sends it: bodies are read before anybody asks for a token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = 0

        async def receive_some() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > BODY_LIMIT:
                raise HTTPException(413, f"At most {BODY_LIMIT >> 20} MB are taken at once.")
            return message

        await self._app(scope, receive_some if scope["type"] == "http" else receive, send)


def _answer_errors(app: FastAPI, renderer: Renderer) -> None:
    """Errors as JSON to programs, as pages to people."""

    def answer(request: Request, status: int, words: str, headers: dict[str, str] | None = None) -> Response:
        if _is_program(request):
            return JSONResponse({"detail": words}, status, headers)
        title = _TITLES.get(status, "Something went wrong")
        page = {"title": title, "words": words, "sign_in": sign_in_address(request)}
        response = renderer.page(request, "message.html", status=status, **page)
        response.headers.update(headers or {})
        return response

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, exc: HTTPException) -> Response:
        return answer(request, exc.status_code, str(exc.detail), dict(exc.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, exc: RequestValidationError) -> Response:
        if any(error["loc"][:2] == ("path", "run_id") for error in exc.errors()):
            return answer(request, 404, NO_RUN)
        first = exc.errors()[0]
        return answer(request, 400, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")

    @app.exception_handler(CannotRetry)
    async def on_conflict(request: Request, exc: CannotRetry) -> Response:
        return answer(request, 409, str(exc))

    @app.exception_handler(UnknownJob)
    async def on_no_job(request: Request, _exc: UnknownJob) -> Response:
        return answer(request, 404, NO_JOB)

    @app.exception_handler(SourceTrouble)
    @app.exception_handler(BadJob)
    async def on_source(request: Request, exc: SupercheckError) -> Response:
        return answer(request, 400, str(exc))

    @app.exception_handler(QueueFull)
    async def on_full(request: Request, exc: QueueFull) -> Response:
        headers = {"Retry-After": str(math.ceil(exc.retry_after_s))}
        if _is_program(request):
            row = Refused(detail=str(exc), figures=exc.figures, retry_after_s=exc.retry_after_s)
            return JSONResponse(row.model_dump(), 429, headers)
        return answer(request, 429, str(exc), headers)

    @app.exception_handler(SupercheckError)
    async def on_trouble(request: Request, exc: SupercheckError) -> Response:
        passing = isinstance(exc, (Unreachable, DatabaseTrouble))
        return answer(request, 503 if passing else 500, str(exc), {"Retry-After": "5"} if passing else None)


def _is_program(request: Request) -> bool:
    """Whether words are enough for who asks: a page's script shows them in the page that there is."""
    if request.url.path.startswith("/api/") or "hx-request" in request.headers:
        return True
    return "text/html" not in request.headers.get("accept", "")
