"""
What stands around all routes: headers of every answer, and the bound of every request.

Plain ASGI; knows neither routes nor who asks.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pytest_supercheck import __version__
from pytest_supercheck.gateway import VERSION_HEADER
from supercheck_server.render import CONTENT_SECURITY_POLICY

#: Bytes of a request's body, at most: what the largest run consists of. Some routes take less.
BODY_LIMIT: Final = 64 << 20


class WithHeaders:
    """
    Headers for every answer.

    No `BaseHTTPMiddleware`, which hands every event of every viewer from one task to another.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As of ASGI."""

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


class Bounded:
    """No request brings more than `BODY_LIMIT`, whoever sends it: bodies are read before anybody asks for a token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As of ASGI."""
        taken = 0

        async def receive_some() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > BODY_LIMIT:
                raise HTTPException(413, f"At most {BODY_LIMIT >> 20} MB are taken at once.")
            return message

        await self._app(scope, receive_some if scope["type"] == "http" else receive, send)
