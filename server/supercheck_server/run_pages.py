"""
The pages of runs, alive or recorded, with their files.

Between people and the history, the shelf and, for runs that live, the dispatcher.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Header, HTTPException, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from pytest_supercheck.archive import PAGE
from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import NotStored
from pytest_supercheck.model import PoolExecution, RunId
from pytest_supercheck.report import script_source
from pytest_supercheck.store import BadKey, check_key, headers
from supercheck_server import charts
from supercheck_server.access import NOBODY
from supercheck_server.api import RunPath, event_stream
from supercheck_server.feed import Feeds
from supercheck_server.gate import Asking, Gate
from supercheck_server.history import PAGE_ROWS, History, RunFilter
from supercheck_server.render import Renderer
from supercheck_server.rows import Comparison, RunRow
from supercheck_server.run_state import look_at_run
from supercheck_server.shelf import Shelf, chunks
from supercheck_server.view import log_of, look_at_pool

#: Whatever a run has left behind may run nothing and send nothing, and is not of our origin.
FILE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
#: A report brings style and script in the page. Of scripts only this release's own runs, whoever has written to the
#: store; a report of another release does without.
REPORT_POLICY: Final = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src {script_source()}; img-src 'self' data:; "
    "media-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

#: What an address may say in one word of its query.
Position = Annotated[int, Query(ge=-1, lt=1 << 31)]
Word = Annotated[str, Field(max_length=200)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What pages are made from."""

    dispatcher: Dispatcher
    history: History
    shelf: Shelf
    renderer: Renderer
    feeds: Feeds


class RunQuery(BaseModel):
    """What the form above the list of runs asks for."""

    project: Word = ""
    verdict: Word = ""
    branch: Word = ""
    trigger: Word = ""
    search: Word = ""
    since: Word = ""
    until: Word = ""
    after: Word = ""

    def filter(self) -> RunFilter:
        """As the history wants it; dates are days in UTC, and what is no date does not matter."""
        until = _day(self.until)
        return RunFilter(
            project=self.project,
            verdict=self.verdict,
            branch=self.branch,
            trigger=self.trigger,
            search=self.search,
            since_ms=_ms(_day(self.since)),
            until_ms=_ms(until + timedelta(days=1) if until else None),
        )

    def link(self, **changes: str) -> str:
        """A query with changes, without what is empty."""
        asked = {name: getattr(self, name) for name in type(self).model_fields if name != "after"}
        return urlencode({name: value for name, value in {**asked, **changes}.items() if value})


def run_pages(sources: Sources, gate: Gate) -> APIRouter:
    """Make the routes."""
    routes = APIRouter(include_in_schema=False, dependencies=[gate.people("read")], default_response_class=HTMLResponse)
    history, renderer = sources.history, sources.renderer

    @routes.get("/")
    def runs(request: Request, wanted: Annotated[RunQuery, Query()], visitor: Asking) -> Response:
        rows = history.runs(replace(wanted.filter(), project=visitor.narrow(wanted.project)), after=wanted.after)
        page: dict[str, Any] = {
            "rows": rows,
            "wanted": wanted,
            "projects": history.choices("project", visitor.project),
            "verdicts": history.choices("verdict", visitor.project),
            "triggers": history.choices("trigger", visitor.project),
            "spark": charts.pass_rates([row.pass_rate for row in reversed(rows) if row.done]),
            "more": f"/?{wanted.link(after=rows[-1].key)}" if len(rows) == PAGE_ROWS else "",
            "undelivered": history.undelivered(visitor.project),
        }
        return renderer.page(request, "runs.html", title="Runs", **page)

    @routes.get("/runs/index.html")
    def up() -> Response:
        # Where a report leads to: in a bucket, to the list of its project's runs.
        return RedirectResponse("/")

    @routes.get("/runs/{run_id}")
    def run(request: Request, run_id: RunPath, after: Position = -1, bad_after: Position = -1) -> Response:
        found = look_at_run(sources.dispatcher, history, run_id)
        if found.record is None or not found.record.folder:
            return renderer.page(request, "run_alive.html", title=found.project, **_live(sources, run_id))
        return renderer.page(
            request, "run.html", title=found.project, **_recorded(history, found.record, after, bad_after)
        )

    @routes.get("/runs/{run_id}/live")
    async def run_live(run_id: RunPath) -> StreamingResponse:
        def look() -> str:
            # It has no buttons: whoever may see the run sees the same.
            return renderer.text("run_live.html", NOBODY, **_live(sources, run_id))

        return event_stream(sources.feeds.named(f"run {run_id}", look, event="run").watch())

    @routes.get("/runs/{run_id}/files/{path:path}")
    def file(run_id: RunPath, path: str, range: Annotated[str, Header()] = "") -> Response:  # noqa: A002 - its name
        row = history.run(run_id)
        if row is None or not row.folder:
            raise HTTPException(404, "This run has no files.")
        policy = FILE_POLICY if path != PAGE else REPORT_POLICY
        try:
            return _file(sources.shelf, check_key(row.folder + path), policy, range)
        except (NotStored, BadKey):
            raise HTTPException(404, "There is no such file.") from None

    return routes


def _live(sources: Sources, run_id: str) -> dict[str, Any]:
    run = look_at_run(sources.dispatcher, sources.history, run_id)
    executions: list[PoolExecution] = [one for one in look_at_pool(sources.dispatcher).executions if one.run == run_id]
    return {"run": run, "executions": executions, "log": log_of(sources.dispatcher, RunId(run_id))}


def _recorded(history: History, row: RunRow, after: int, bad_after: int) -> dict[str, Any]:
    before = history.previous(row)
    comparison: Comparison | None = history.compare(row, before) if before else None
    failures = history.failures(row.no, after=bad_after)
    results = history.results(row.no, after=after)
    executions = history.executions(row.no)
    return {
        "run": row,
        "comparison": comparison,
        "failures": failures,
        "more_failures": failures[-1].position if len(failures) == PAGE_ROWS else None,
        "results": results,
        "files": history.run_files(row.no, [*(one.position for one in failures), *(one.position for one in results)]),
        "more_results": results[-1].position if len(results) == PAGE_ROWS else None,
        "executions": executions,
        "attempts": history.attempts(row),
        "job": history.job(row.id),
        "letters": history.letters(row.id),
        "timeline": charts.timeline(executions, row.started_ms, row.ended_ms),
        "after": after,
        "bad_after": bad_after,
    }


def _file(shelf: Shelf, key: str, policy: str, wanted: str) -> Response:
    told = headers(key)
    status, about = 200, {"Cache-Control": told.cache_control, "Content-Security-Policy": policy}
    asked = re.fullmatch(r"bytes=([0-9]{1,15})-([0-9]{0,15})", wanted)
    if asked and told.content_type.startswith("video/"):  # players want parts, to jump within it
        size = shelf.size(key)
        start, end = int(asked[1]), min(int(asked[2] or size), size - 1)
        if start > end:
            raise HTTPException(416, "The file ends before that.", {"Content-Range": f"bytes */{size}"})
        stream = shelf.open(key, start=start, length=end - start + 1)
        status = 206
        about |= {"Content-Range": f"bytes {start}-{end}/{size}", "Content-Length": str(end - start + 1)}
        about["Content-Encoding"] = "identity"  # it is a part of the file, not of the packed file
    else:
        stream = shelf.open(key)

    return StreamingResponse(chunks(stream), status, about, media_type=told.content_type)


def _day(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def _ms(at: datetime | None) -> int | None:
    return None if at is None else round(at.timestamp() * 1000)
