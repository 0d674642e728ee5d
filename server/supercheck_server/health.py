"""
Is the server alive, can it work, and what does it count: for load balancers and Prometheus. No sign-in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from pytest_supercheck.errors import SupercheckError
from supercheck_server.metrics import Metrics

#: Raises a `SupercheckError` with words when a part cannot be used.
Check = Callable[[], None]


class Part(BaseModel):
    """One thing that the server needs."""

    #: Whether it can be used.
    ready: bool
    #: Why not, and what to do; empty when it can.
    words: str


class Readiness(BaseModel):
    """Whether requests should come here."""

    #: True when all parts are.
    ready: bool
    #: By name: `redis`, `database`, `store`.
    parts: dict[str, Part]


def health_routes(checks: Mapping[str, Check], metrics: Metrics) -> APIRouter:
    """
    Make the routes.

    Args:
        checks: By the name of the part.
    """
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz", summary="Is the process alive?")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/readyz", summary="Can it work?", responses={503: {"model": Readiness, "description": "Not now"}})
    def readyz(response: Response) -> Readiness:
        parts = {name: _look(check) for name, check in checks.items()}
        ready = all(part.ready for part in parts.values())
        response.status_code = 200 if ready else 503
        return Readiness(ready=ready, parts=parts)

    prometheus: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/plain": {}}, "description": "Prometheus's text"}
    }

    @routes.get("/metrics", summary="What does it count?", response_class=Response, responses=prometheus)
    def metrics_text() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


def _look(check: Check) -> Part:
    try:
        check()
    except SupercheckError as exc:
        return Part(ready=False, words=str(exc))
    return Part(ready=True, words="")
