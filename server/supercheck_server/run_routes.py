"""
Runs over HTTP: what programs may see of them and do with them, but for what only their sessions do (`door`).

Between HTTP and the dispatcher and the history.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.model import Priority, RunId
from pytest_supercheck.retry import retry
from supercheck_server.access import SCOPES
from supercheck_server.api import ANSWERS, REFUSED, UNKNOWN, RunPath
from supercheck_server.gate import Asking, Gate
from supercheck_server.history import History, RunFilter
from supercheck_server.rows import RunRow
from supercheck_server.run_state import Run, cancel_run, look_at_run


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
class Runs:
    """A page of runs."""

    #: The last submitted first.
    runs: list[RunRow]
    #: What to give as `after` for the next page; empty at the end.
    after: str


def run_routes(dispatcher: Dispatcher, history: History, gate: Gate) -> APIRouter:
    """Make the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["runs"], responses=ANSWERS)
    read, submit, admin = ([gate.programs(scope)] for scope in SCOPES)

    @routes.get("/runs", summary="The runs of the history, the last submitted first", dependencies=read)
    def runs(asked: Annotated[Asked, Query()], visitor: Asking) -> Runs:
        wanted = replace(asked.filter(), project=visitor.narrow(asked.project))
        rows = history.runs(wanted, after=asked.after, limit=asked.limit)
        return Runs(runs=rows, after=rows[-1].key if len(rows) == asked.limit else "")

    @routes.get("/runs/{run_id}", summary="Where a run stands", responses=UNKNOWN, dependencies=read)
    def run(run_id: RunPath) -> Run:
        return look_at_run(dispatcher, history, run_id)

    @routes.post(
        "/runs/{run_id}/cancel", summary="Cancel a run; its results are kept", responses=UNKNOWN,
        dependencies=submit,
    )  # fmt: skip
    def cancel(run_id: RunPath, visitor: Asking, how: Cancel | None = None) -> Run:
        now = how is not None and how.now
        cancel_run(dispatcher, run_id, visitor=visitor.name, now=now)
        return look_at_run(dispatcher, history, run_id)

    @routes.post(
        "/runs/{run_id}/retry", summary="Run a run once more", status_code=201,
        responses={**UNKNOWN, **REFUSED}, dependencies=submit,
    )  # fmt: skip
    def again(run_id: RunPath, what: Again | None = None) -> Run:
        look_at_run(dispatcher, history, run_id)
        what = what or Again()
        made = retry(dispatcher, RunId(run_id), failed=what.failed, nodeid=what.nodeid)
        return look_at_run(dispatcher, history, made)

    @routes.post("/runs/{run_id}/priority", summary="Change a run's rank", responses=UNKNOWN, dependencies=admin)
    def priority(run_id: RunPath, rank: Rank) -> Run:
        dispatcher.priority(RunId(run_id), priority=rank.priority)
        return look_at_run(dispatcher, history, run_id)

    return routes
