"""
What the history says of tests that fail, for programs that report them.

Between HTTP and `judgement`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from pytest_supercheck.gateway import NO_RUN
from supercheck_server.api import ANSWERS, UNKNOWN, RunPath
from supercheck_server.gate import Gate
from supercheck_server.judgement import Judgement, judge
from supercheck_server.trends import Trends


class Doubtful(BaseModel):
    """Tests of a run that fail."""

    branch: Annotated[str, Field(max_length=500, description="On which they may have failed before.")] = ""
    attempts: Annotated[
        str, Field(max_length=500, description="With what pages of CI jobs begin whose runs do not count there.")
    ] = ""
    nodeids: list[Annotated[str, Field(max_length=10_000)]] = Field(max_length=200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgements:
    """What the history says of them."""

    #: In the order in which they were named.
    tests: list[Judgement]


def judgement_routes(projects_of: Callable[[str], set[str]], trends: Trends, gate: Gate) -> APIRouter:
    """
    Make the route.

    Args:
        projects_of: The projects that a run's id belongs to.
    """
    routes = APIRouter(prefix="/api/v1", tags=["runs"], responses=ANSWERS, dependencies=[gate.programs("read")])

    @routes.post(
        "/runs/{run_id}/judge", summary="Which failing tests are flaky, or fail on a branch already", responses=UNKNOWN
    )
    def judge_tests(run_id: RunPath, what: Doubtful) -> Judgements:
        project = next(iter(projects_of(run_id)), None)
        if project is None:
            raise HTTPException(404, NO_RUN)
        found = judge(trends, project, what.nodeids, run=run_id, branch=what.branch, attempts=what.attempts)
        return Judgements(tests=found)

    return routes
