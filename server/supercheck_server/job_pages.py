"""
The pages of jobs: what there is, when it starts, how it went; and the forms that start and change them.

Between people and the desk, which programs use too.
"""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Form, HTTPException, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pytest_supercheck.jobs import Job
from pytest_supercheck.model import PRIORITIES, new_run_id
from supercheck_server.access import SCOPES
from supercheck_server.api import RUN_ID
from supercheck_server.gate import Asking, Gate
from supercheck_server.history import History
from supercheck_server.job_routes import Desk, JobName, ProjectText, start_now
from supercheck_server.jobs import JobRow
from supercheck_server.render import Renderer
from supercheck_server.starts import SHOWN, Occasion

Word = Annotated[str, Field(max_length=200)]


class Limits(BaseModel):
    """What a form changes of a job; all of it is text, and empty for none."""

    schedule: Word = ""
    timezone: Word = ""
    executions: Word = ""
    priority: Word = ""
    timeout: Word = ""
    retries: Word = ""
    reset: bool = False

    def changes(self, job: Job) -> dict[str, Any]:
        """
        What differs from the job, as `Jobs.override` takes it.

        Raises:
            HTTPException: A number is none.
        """
        given: dict[str, Any] = {
            "executions": _number("Executions", self.executions),
            "priority": self.priority or None,
            "timeout": _number("The time limit", self.timeout),
            "retries": _number("Retries", self.retries) or 0,
        }
        before = fields(job)
        if (self.schedule.strip(), self.timezone.strip()) != (before["schedule"], before["timezone"]):
            given["schedule"] = _schedule(self.schedule.strip(), self.timezone.strip(), job)
        return given


def job_pages(desk: Desk, history: History, renderer: Renderer, gate: Gate) -> APIRouter:
    """Make the routes."""
    routes = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
    read, submit, _ = ([gate.people(scope)] for scope in SCOPES)

    @routes.get("/jobs", dependencies=read)
    def jobs(request: Request, visitor: Asking, project: ProjectText = "") -> Response:
        project = visitor.narrow(project)
        page: dict[str, Any] = {
            "jobs": desk.all(project),
            "project": project,
            "projects": history.choices("project", visitor.project),
            "new_run_id": new_run_id,
        }
        return renderer.page(request, "jobs.html", title="Jobs", **page)

    @routes.get("/jobs/{name}", dependencies=read)
    def job(
        request: Request, name: JobName, visitor: Asking, project: ProjectText = "",
        before: Annotated[int | None, Query(ge=0, le=1 << 53)] = None,
    ) -> Response:  # fmt: skip
        row = desk.find(visitor, name, project)
        starts = desk.starts.of(row.no, before_ms=before)
        page: dict[str, Any] = {
            "job": desk.look(row),
            "form": fields(row.job),
            "starts": starts,
            "more": _address(row, before=starts[-1].due_ms) if len(starts) == SHOWN else "",
            "priorities": PRIORITIES,
            "new_run_id": new_run_id,
        }
        return renderer.page(request, "job.html", title=row.name, **page)

    @routes.post("/jobs/{name}/starts", dependencies=submit)
    def start(
        name: JobName, visitor: Asking, run_id: Annotated[str, Form(pattern=RUN_ID)], project: ProjectText = ""
    ) -> Response:
        row = desk.find(visitor, name, project)
        gate.check_submission(visitor, run_id, row.project)
        # The form's own id: who presses the button twice starts it once.
        start_now(desk, row, Occasion(trigger="job", user=visitor.name, run=run_id))
        return RedirectResponse(_address(row), 303)

    @routes.post("/jobs/{name}/enabled", dependencies=submit)
    def enabled(name: JobName, visitor: Asking, on: Annotated[bool, Form()], project: ProjectText = "") -> Response:
        row = desk.find(visitor, name, project)
        desk.jobs.enable(row.no, on)
        return RedirectResponse(_address(row), 303)

    @routes.post("/jobs/{name}/overrides", dependencies=submit)
    def overrides(
        name: JobName, visitor: Asking, wanted: Annotated[Limits, Form()], project: ProjectText = ""
    ) -> Response:
        row = desk.find(visitor, name, project)
        desk.jobs.override(row.no, {} if wanted.reset else wanted.changes(row.job), reset=wanted.reset)
        return RedirectResponse(_address(row), 303)

    return routes


def fields(job: Job) -> dict[str, str]:
    """What the form of a job begins with."""
    schedule = {"cron": job.schedule} if isinstance(job.schedule, str) else job.schedule or {}
    return {
        "schedule": str(next((schedule[key] for key in ("cron", "every", "at") if key in schedule), "")),
        "timezone": str(schedule.get("timezone", "")),
        "executions": str(job.executions or ""),
        "priority": job.priority or "",
        "timeout": str(job.timeout or ""),
        "retries": str(job.retries),
    }


def _schedule(text: str, timezone: str, job: Job) -> dict[str, Any] | None:
    """The table of a schedule of which a form says the most, and the job the rest."""
    if not text:
        return None
    kept = job.schedule if isinstance(job.schedule, dict) else {}
    key = "at" if re.match(r"\d{4}-", text) else "cron" if len(text.split()) == 5 else "every"
    value = int(text) if key == "every" and text.isascii() and text.isdigit() else text
    rest: dict[str, Any] = {name: kept[name] for name in ("overlap", "catch-up") if name in kept}
    return {key: value, **rest, **({"timezone": timezone} if timezone else {})}


def _number(what: str, text: str) -> int | None:
    text = text.strip()
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HTTPException(400, f"{what}: {text[:40]!r} is not a whole number.")
    return int(text) if text else None


def _address(row: JobRow, **more: int) -> str:
    return f"/jobs/{quote(row.name, safe='')}?{urlencode({'project': row.project, **more})}"
