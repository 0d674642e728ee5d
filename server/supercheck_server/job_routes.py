"""
Jobs over HTTP: what programs may see of them and do with them.

Between HTTP and the jobs, their starts and the starter.  A job is named by its name, and by its project where several
have one of that name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import BaseModel, Field

from pytest_supercheck.bundle import is_id
from pytest_supercheck.errors import BadJob
from pytest_supercheck.gateway import NO_JOB
from pytest_supercheck.jobs import Job, decode_job
from pytest_supercheck.schedule import parse_schedule
from supercheck_server.access import Visitor
from supercheck_server.api import ANSWERS, REFUSED, RUN_ID, Trouble
from supercheck_server.bundles import Bundles
from supercheck_server.gate import Asking, Gate
from supercheck_server.jobs import JobRow, Jobs, Synced
from supercheck_server.scheduler import Scheduler
from supercheck_server.starter import Starter
from supercheck_server.starts import Figures, Occasion, StartRow, Starts

#: Jobs that one file may define.
JOBS_LIMIT: Final = 500
#: Characters of what is said of one job.
SPEC_LIMIT: Final = 200_000

JobName = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,100}$", description="A job's name.")]
ProjectText = Annotated[
    str, Query(pattern=r"^[^\x00]{0,200}$", description="Its project; needed where several have such a job.")
]

_UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": Trouble, "description": "There is no such job, or it is of another project than the token"},
    409: {"model": Trouble, "description": "Several projects have a job of that name, or a run's id is taken"},
}


class Brought(BaseModel):
    """A job as its file defines it."""

    name: Annotated[str, Field(max_length=100)]
    definition: Annotated[dict[str, Any], Field(description="As its table in supercheck.toml.")]
    spec: Annotated[
        dict[str, Any] | None,
        Field(description="What its runs have in common, with its bundle; null when its sources are elsewhere."),
    ] = None


class File(BaseModel):
    """All jobs of a project."""

    jobs: Annotated[list[Brought], Field(max_length=JOBS_LIMIT)]
    prune: Annotated[bool, Field(description="Remove the project's other jobs, with their history.")] = False


class Change(BaseModel):
    """What is to be changed here; what is absent stays."""

    enabled: Annotated[bool | None, Field(description="Whether it starts by itself.")] = None
    reset: Annotated[bool, Field(description="Have everything as it is defined; `overrides` come after it.")] = False
    overrides: Annotated[
        dict[str, Any],
        Field(description="Any of schedule, executions, priority, timeout and retries; null for none."),
    ] = {}


class Start(BaseModel):
    """Start a job now."""

    run_id: Annotated[str, Field(pattern=RUN_ID, description="The run's id; repeated, it is the same start.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """A job with what is known of it."""

    project: str
    name: str
    enabled: bool
    #: As its table in the file, and as it is in force here.
    definition: dict[str, Any]
    effective: dict[str, Any]
    #: What has been changed here.
    overrides: dict[str, Any]
    #: The schedule in words; empty for none.
    schedule: str
    #: Times, ms since 1970; null for none.
    next_ms: int | None
    synced_ms: int
    #: Of its recorded runs.
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class JobList:
    """Jobs by project and name."""

    jobs: list[JobState]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartList:
    """Starts, the newest first."""

    starts: list[StartRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What routes and pages of jobs are made from."""

    jobs: Jobs
    starts: Starts
    starter: Starter
    scheduler: Scheduler
    bundles: Bundles
    #: Names of the targets that the server can tell.
    targets: Collection[str]

    def all(self, project: str) -> list[JobState]:
        """All jobs of a project, or all; with what is known of them."""
        rows = self.jobs.known(project)
        figures = self.starts.figures([row.no for row in rows])
        return [_state(row, figures[row.no]) for row in rows]

    def find(self, visitor: Visitor, name: str, project: str) -> JobRow:
        """
        The job that somebody means.

        Raises:
            HTTPException: 404 when there is none for them, 409 when there are several.
        """
        rows = [row for row in self.jobs.find(name, project) if visitor.narrow(row.project) == row.project]
        if not rows:
            raise HTTPException(404, NO_JOB)
        if len(rows) > 1:
            projects = ", ".join(row.project for row in rows[:10])
            raise HTTPException(409, f"Several projects have a job of that name: {projects}. Say which one is meant.")
        return rows[0]

    def look(self, row: JobRow) -> JobState:
        """A job with what is known of it."""
        return _state(row, self.starts.figures([row.no])[row.no])


def job_routes(desk: Desk, gate: Gate) -> APIRouter:
    """Make the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["jobs"], responses=ANSWERS)
    read, submit = [gate.programs("read")], [gate.programs("submit")]

    @routes.get("/jobs", summary="The jobs, by project and name", dependencies=read)
    def jobs(visitor: Asking, project: ProjectText = "") -> JobList:
        return JobList(jobs=desk.all(visitor.narrow(project)))

    @routes.put("/jobs", summary="Take over the jobs of a project as its file defines them", dependencies=submit)
    def sync(file: File, visitor: Asking, project: Annotated[str, Query(pattern=r"^[^\x00]{1,200}$")]) -> Synced:
        gate.check_project(visitor, project, "the file")
        if len({one.name for one in file.jobs}) < len(file.jobs):
            raise BadJob("Two jobs have the same name.")
        brought = [_brought(desk, project, one) for one in file.jobs]
        done = desk.jobs.sync(project, brought, prune=file.prune)
        named = {subscription.to for job, _ in brought for subscription in job.notify}
        return replace(done, unknown_targets=tuple(sorted(named.difference(desk.targets))))

    @routes.get("/jobs/{name}", summary="A job", responses=_UNKNOWN, dependencies=read)
    def job(name: JobName, visitor: Asking, project: ProjectText = "") -> JobState:
        return desk.look(desk.find(visitor, name, project))

    @routes.patch(
        "/jobs/{name}", summary="Change a job until its definition changes", responses=_UNKNOWN, dependencies=submit
    )
    def change(name: JobName, change: Change, visitor: Asking, project: ProjectText = "") -> JobState:
        row = desk.find(visitor, name, project)
        if change.reset or change.overrides:
            row = desk.jobs.override(row.no, change.overrides, reset=change.reset)
        if change.enabled is not None:
            row = desk.jobs.enable(row.no, change.enabled)
        return desk.look(row)

    @routes.get(
        "/jobs/{name}/starts", summary="Its last starts, the newest first", responses=_UNKNOWN, dependencies=read
    )
    def starts(
        name: JobName, visitor: Asking, project: ProjectText = "",
        before_ms: Annotated[int | None, Query(ge=0, le=1 << 53, description="Those before that moment.")] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> StartList:  # fmt: skip
        row = desk.find(visitor, name, project)
        return StartList(starts=desk.starts.of(row.no, before_ms=before_ms, limit=limit))

    @routes.post(
        "/jobs/{name}/starts", summary="Start a job now", status_code=201, responses={**_UNKNOWN, 429: REFUSED[429]},
        dependencies=submit,
    )  # fmt: skip
    def start(name: JobName, wanted: Start, visitor: Asking, project: ProjectText = "") -> StartRow:
        row = desk.find(visitor, name, project)
        gate.check_submission(visitor, wanted.run_id, row.project)
        return start_now(desk, row, Occasion(trigger="job", user=visitor.name, run=wanted.run_id))

    return routes


def start_now(desk: Desk, row: JobRow, occasion: Occasion) -> StartRow:
    """
    Start a job; one whose sources have to be fetched is submitted after the answer.

    Raises:
        HTTPException: 409 when the run's id is that of another job.
    """
    made, is_new = desk.starter.now(row, occasion)
    if made.job_no != row.no:
        raise HTTPException(409, "This run's id is taken. Submit it with another one.")
    if not is_new:
        return made
    if row.job.source is None:
        return desk.starter.submit(made)
    desk.scheduler.begin(row, made)
    return made


def _brought(desk: Desk, project: str, one: Brought) -> tuple[Job, dict[str, Any] | None]:
    if len(json.dumps([one.definition, one.spec])) > SPEC_LIMIT:
        raise BadJob(f"job {one.name}: there is too much of it")
    job = decode_job(one.name, one.definition)
    if job.project not in ("", project):
        raise BadJob(f"job {job.name}: it is of the project {job.project!r}")
    if job.source is not None or job.dispatch is not None:
        return job, None
    match one.spec:
        case {"argv": list(), "origin": dict(), "source": {"bundle": str(bundle), "root": str()}} if is_id(bundle):
            pass
        case _:
            raise BadJob(f"job {job.name}: it needs the spec of a run with a bundle, or a source of its own")
    if desk.bundles.ask(project, bundle, b"")[0] != "ready":
        raise BadJob(f"job {job.name}: bring its bundle first")
    return job, one.spec


def _state(row: JobRow, figures: Figures) -> JobState:
    schedule = parse_schedule(row.job.schedule) if row.job.schedule is not None else None
    next_ms = row.next_ms
    if schedule is not None and next_ms is None:
        next_ms = schedule.next_after(max(row.since_ms, round(time.time() * 1000)))
    return JobState(
        project=row.project,
        name=row.name,
        enabled=row.enabled,
        definition=row.defined.encode(),
        effective=row.job.encode(),
        overrides=dict(row.overrides),
        schedule="" if schedule is None else str(schedule),
        next_ms=next_ms if row.enabled else None,
        synced_ms=row.synced_ms,
        figures=figures,
    )
