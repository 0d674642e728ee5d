"""
Signing in and out with a browser.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import RedirectResponse, Response

from supercheck_server.access import Access
from supercheck_server.gate import Gate, check_form, cookie_of, set_cookie
from supercheck_server.render import Renderer


def sign_in_routes(access: Access, gate: Gate, renderer: Renderer) -> APIRouter:
    """Make the routes; the gate does not stand before them, and only says whose token it is."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/sign-in")
    def sign_in_page(request: Request, next: str = "/") -> Response:  # noqa: A002 - the field's name
        return renderer.page(request, "sign_in.html", title="Sign in", wrong=False, next=_own(next))

    @routes.post("/sign-in", dependencies=[Depends(check_form)])
    def sign_in(
        request: Request,
        secret: Annotated[str, Form(max_length=200)] = "",
        next: Annotated[str, Form()] = "/",  # noqa: A002 - the field's name
    ) -> Response:
        token = gate.token_of(request, secret.strip())
        if token is None:
            page = {"title": "Sign in", "wrong": True, "next": _own(next)}
            return renderer.page(request, "sign_in.html", status=401, **page)
        response = RedirectResponse(_own(next), 303)
        set_cookie(request, response, access.sign_in(token))
        return response

    @routes.post("/sign-out", dependencies=[Depends(check_form)])
    def sign_out(request: Request) -> Response:
        access.sign_out(cookie_of(request))
        response = RedirectResponse("/sign-in", 303)
        set_cookie(request, response, "")
        return response

    return routes


def _own(address: str) -> str:
    """The address if it is one of this server's, else the first page."""
    own = address.startswith("/") and not address.startswith("//") and "\\" not in address and address.isprintable()
    return address if own else "/"
