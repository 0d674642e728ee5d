"""
The pages of tests: what many runs say of each, which are flaky or slow, and what they fail of.

Between people and the trends.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request
from starlette.responses import HTMLResponse, Response

from supercheck_server import charts
from supercheck_server.access import Visitor
from supercheck_server.gate import Asking, Gate
from supercheck_server.history import PAGE_ROWS, History
from supercheck_server.render import Renderer
from supercheck_server.rows import TestRow
from supercheck_server.trends import Trends

#: How far back the page of failures looks, in days.
FAILURE_DAYS: Final = 14

#: What an address may say in one word of its query.
Text = Annotated[str, Query(max_length=200)]


def trend_pages(trends: Trends, history: History, renderer: Renderer, gate: Gate) -> APIRouter:
    """Make the routes."""
    routes = APIRouter(include_in_schema=False, dependencies=[gate.people("read")], default_response_class=HTMLResponse)

    def choice(visitor: Visitor, project: str) -> dict[str, Any]:
        return {"project": project, "projects": history.choices("project", visitor.project)}

    @routes.get("/tests/{key}")
    def test(request: Request, key: str, visitor: Asking) -> Response:
        row = trends.test(key, visitor.project)
        if row is None:
            raise HTTPException(404, "There is no such test.")
        results = trends.test_results(row.no)
        page: dict[str, Any] = {
            "test": row,
            "results": results,
            "files": trends.test_files(row.no),
            "first_bad": trends.first_bad_run(row.no),
            "durations": charts.durations([(one.outcome, one.duration_s) for one in reversed(results)]),
        }
        return renderer.page(request, "test.html", title="Test", **page)

    @routes.get("/flaky")
    def flaky(request: Request, visitor: Asking, project: Text = "", after: Text = "") -> Response:
        project = visitor.narrow(project)
        rows = trends.flaky(project, after=after)
        more = _more("/flaky", project, rows, "flakiness")
        chosen = choice(visitor, project)
        return renderer.page(request, "flaky.html", title="Flaky tests", rows=rows, more=more, **chosen)

    @routes.get("/slow")
    def slow(request: Request, visitor: Asking, project: Text = "", after: Text = "") -> Response:
        project = visitor.narrow(project)
        rows = trends.slow(project, after=after)
        more = _more("/slow", project, rows, "mean_us")
        chosen = choice(visitor, project)
        return renderer.page(request, "slow.html", title="Slow tests", rows=rows, more=more, **chosen)

    @routes.get("/failures")
    def failures(request: Request, visitor: Asking, project: Text = "") -> Response:
        project = visitor.narrow(project)
        rows = trends.causes(project, since_ms=round((time.time() - FAILURE_DAYS * 86400) * 1000))
        page = {"rows": rows, "days": FAILURE_DAYS, **choice(visitor, project)}
        return renderer.page(request, "failures.html", title="Failures by cause", **page)

    @routes.get("/failures/{key}")
    def cause(request: Request, key: str, visitor: Asking) -> Response:
        rows = trends.cause_failures(key, visitor.project)
        if not rows:
            raise HTTPException(404, "There is no such cause, or no failure of it any more.")
        return renderer.page(request, "cause.html", title="Failures of one cause", rows=rows)

    return routes


def _more(path: str, project: str, rows: Sequence[TestRow], rank: str) -> str:
    """Where a list of tests goes on; empty at its end."""
    if len(rows) < PAGE_ROWS:
        return ""
    after = f"{getattr(rows[-1], rank)!r}-{rows[-1].no}"
    return f"{path}?{urlencode({'project': project, 'after': after} if project else {'after': after})}"
