"""
Errors as answers: JSON to programs, pages to people.

Between what routes raise and HTTP; the one place that knows which error has which status.
"""

from __future__ import annotations

import math
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from pytest_supercheck.errors import (
    BadJob,
    CannotRetry,
    QueueFull,
    SourceTrouble,
    SupercheckError,
    UnknownRun,
    Unreachable,
)
from pytest_supercheck.gateway import NO_JOB, NO_RUN
from supercheck_server.api import Refused
from supercheck_server.errors import DatabaseTrouble
from supercheck_server.gate import sign_in_address
from supercheck_server.jobs import UnknownJob
from supercheck_server.render import Renderer

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

#: Errors that are not the server's own fault.
_STATUSES: Final[dict[type[SupercheckError], int]] = {
    BadJob: 400,
    SourceTrouble: 400,
    UnknownJob: 404,
    UnknownRun: 404,
    CannotRetry: 409,
    Unreachable: 503,
    DatabaseTrouble: 503,
}
#: Words that clients know.
_NOT_THERE: Final[dict[type[SupercheckError], str]] = {UnknownJob: NO_JOB, UnknownRun: NO_RUN}


def answer_errors(app: FastAPI, renderer: Renderer) -> None:
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

    @app.exception_handler(QueueFull)
    async def on_full(request: Request, exc: QueueFull) -> Response:
        headers = {"Retry-After": str(math.ceil(exc.retry_after_s))}
        if _is_program(request):
            row = Refused(detail=str(exc), figures=exc.figures, retry_after_s=exc.retry_after_s)
            return JSONResponse(row.model_dump(), 429, headers)
        return answer(request, 429, str(exc), headers)

    @app.exception_handler(SupercheckError)
    async def on_trouble(request: Request, exc: SupercheckError) -> Response:
        status = next((status for kind, status in _STATUSES.items() if isinstance(exc, kind)), 500)
        words = _NOT_THERE.get(type(exc)) or str(exc)
        return answer(request, status, words, {"Retry-After": "5"} if status == 503 else None)


def _is_program(request: Request) -> bool:
    """Whether words are enough for who asks: a page's script shows them in the page that there is."""
    if request.url.path.startswith("/api/") or "hx-request" in request.headers:
        return True
    return "text/html" not in request.headers.get("accept", "")
