"""
The gate in front of the routes: who is asking, may they, and does the request come from a page of ours.

Between HTTP and `access`. Each route says which scope it needs; all decisions about it are here. Answers 401, 403, 404
and 429 as JSON to programs and as pages to people.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from typing import Annotated, Final
from urllib.parse import quote, urlsplit

from fastapi import Depends, HTTPException, Request
from fastapi.params import Depends as Dependency
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from pytest_supercheck.addresses import is_local
from pytest_supercheck.gateway import NO_RUN
from supercheck_server.access import (
    LOCAL,
    NOBODY,
    SESSION_S,
    Access,
    Scope,
    Token,
    Visitor,
    form_token,
    is_form_token,
)
from supercheck_server.throttle import Throttle

#: The browser's cookie. Without a session it only ties forms to the browser.
COOKIE: Final = "supercheck"
#: Where a form or a script brings the form's token.
FIELD: Final = "form_token"
HEADER: Final = "X-Form-Token"

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

#: For the OpenAPI document; the gate reads the header by itself.
_BEARER: Final = HTTPBearer(auto_error=False, description="A token, as `supercheck token create` prints it.")


class Gate:
    """Decides about requests; its two dependencies stand before all routes but health, sign-in and static files."""

    def __init__(self, access: Access, throttle: Throttle, projects_of: Callable[[str], set[str]]) -> None:
        """
        Make the gate.

        Args:
            projects_of: The projects that a run's id belongs to: none when there is no such run.
        """
        self._access = access
        self._throttle = throttle
        self._projects_of = projects_of

    def programs(self, scope: Scope, *, everywhere: bool = False) -> Dependency:
        """
        The dependency of the HTTP API: a token, or a browser's session or an open server and no foreign page.

        Args:
            scope: What the route needs.
            everywhere: It concerns all projects, so a token for one is not enough.
        """

        def check(request: Request, _shown: Annotated[object, Depends(_BEARER)]) -> None:
            self._let_in(request, scope, everywhere)
            by_token = "authorization" in request.headers
            if by_token or request.method in _SAFE:
                return
            check_origin(request)
            if visitor_of(request).signed_in and not is_form_token(cookie_of(request), request.headers.get(HEADER, "")):
                raise HTTPException(403, f"A browser's request needs its page's form token in {HEADER}.")

        dependency: Dependency = Depends(check)
        return dependency

    def people(self, scope: Scope, *, everywhere: bool = False) -> Dependency:
        """The dependency of pages, as `programs`: a browser's session or an open server, and for forms their token."""

        async def check(request: Request) -> None:
            await run_in_threadpool(self._let_in, request, scope, everywhere)
            if request.method not in _SAFE:
                await check_form(request)

        dependency: Dependency = Depends(check)
        return dependency

    def check_submission(self, visitor: Visitor, run: str, project: str) -> None:
        """
        Require that a run may be submitted for a project: that is in the request's body, which no dependency sees.

        Raises:
            HTTPException: 403 for another project than the visitor's, 409 for an id that another project has.
        """
        self.check_project(visitor, project, "the run")
        if visitor.project and self._projects_of(run) - {project}:
            raise HTTPException(409, "This run's id is taken. Submit it with another one.")

    def check_project(self, visitor: Visitor, project: str, what: str) -> None:
        """
        Require that somebody may bring something of a project.

        Raises:
            HTTPException: 403 for another project than the visitor's.
        """
        if visitor.narrow(project) != project:
            raise HTTPException(
                403,
                f"This token is for the project {visitor.project!r}, and {what} is of {project!r}. "
                "Say with --supercheck-project which one it is of.",
            )

    def token_of(self, request: Request, secret: str) -> Token | None:
        """
        The valid token with that secret.

        Raises:
            HTTPException: 429 when too many wrong ones have come from the same address; this one was not looked at.
        """
        self.check_tries(request, secret)
        token = self._access.by_secret(secret)
        self.note_try(request, secret, right=token is not None)
        return token

    def check_tries(self, request: Request, secret: str) -> None:
        """
        Require that not too many wrong tokens have come from where this one comes from; it is not looked at.

        Raises:
            HTTPException: 429.
        """
        if wait_s := self._throttle.wait_s(_address(request), secret):
            headers = {"Retry-After": str(math.ceil(wait_s))}
            raise HTTPException(429, "Too many wrong tokens have come from your address. Wait a minute.", headers)

    def note_try(self, request: Request, secret: str, *, right: bool) -> None:
        """Note what a token has turned out to be."""
        self._throttle.note(_address(request), secret, right=right)

    def _let_in(self, request: Request, scope: Scope, everywhere: bool) -> None:
        asking = request.state.visitor = self._recognise(request)
        if not asking.may(scope):
            raise HTTPException(403, f"This needs a token with the scope {scope!r}; yours has {asking.scope!r}.")
        if not asking.may(scope, everywhere=everywhere):
            raise HTTPException(
                403, f"This concerns all projects: it needs a token with the scope {scope!r} that is not for one only."
            )
        run = request.path_params.get("run_id")
        # What belongs to nobody and what belongs to others cost the same questions, and get the same answer.
        if run is not None and asking.project and self._projects_of(run) != {asking.project}:
            raise HTTPException(404, NO_RUN)

    def _recognise(self, request: Request) -> Visitor:
        kind, _, secret = request.headers.get("authorization", "").strip().partition(" ")
        if secret:  # a program without a token may send the word alone
            token = self.token_of(request, secret.strip()) if kind.lower() == "bearer" else None
            if token is None:
                raise unauthorized("This token is unknown, revoked or has expired.")
        else:
            token = self._access.by_cookie(cookie_of(request)) if cookie_of(request) else None
        if token is None:
            self._let_in_unknown(request)
        return Visitor.of(token) if token else LOCAL

    def _let_in_unknown(self, request: Request) -> None:
        if not self._access.is_open():
            raise unauthorized("Sign in, or send a token: Authorization: Bearer TOKEN.")
        # No token yet: whoever is on this machine. A page of another site that has its name point here is not.
        if not is_local(request.url.hostname or ""):
            raise HTTPException(
                403,
                "No token has been made yet, so this server answers under a local name only: use "
                "http://127.0.0.1, or make a token with 'supercheck token create' and sign in.",
            )


def visitor_of(request: Request) -> Visitor:
    """Who asks; nobody in particular before the gate has seen them."""
    found: Visitor = getattr(request.state, "visitor", NOBODY)
    return found


async def _asking(request: Request) -> Visitor:
    # An error where no gate stands before the route: nothing is shown by mistake.
    found: Visitor = request.state.visitor
    return found


#: A route's parameter: who asks, as the gate has found.
Asking = Annotated[Visitor, Depends(_asking)]


def cookie_of(request: Request) -> str:
    """What the browser's cookie holds; empty for none."""
    return request.cookies.get(COOKIE, "")


def page_token(request: Request) -> str:
    """The token for the forms of a page; `keep_cookie` has to see the page's response."""
    if not cookie_of(request) and not hasattr(request.state, "new_cookie"):
        request.state.new_cookie = secrets.token_urlsafe(32)
    return form_token(getattr(request.state, "new_cookie", "") or cookie_of(request))


def keep_cookie(request: Request, response: Response) -> None:
    """Give the browser its cookie, if `page_token` has made one."""
    made = getattr(request.state, "new_cookie", "")
    if made:
        set_cookie(request, response, made)


def set_cookie(request: Request, response: Response, value: str) -> None:
    """Give the browser a cookie; an empty one takes it away."""
    response.set_cookie(
        COOKIE,
        value,
        max_age=SESSION_S if value else 0,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
        path="/",
    )


async def check_form(request: Request) -> None:
    """
    Require that a form is one of ours.

    Raises:
        HTTPException: 403.
    """
    check_origin(request)
    given = request.headers.get(HEADER) or str((await request.form()).get(FIELD, ""))
    if not cookie_of(request) or not is_form_token(cookie_of(request), given):
        raise HTTPException(403, "This form is too old, or not one of this server's. Load the page again.")


def check_origin(request: Request) -> None:
    """
    Require that no page of another site sends this.

    Raises:
        HTTPException: 403.
    """
    origin = request.headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise HTTPException(403, "A page of another site may not do this.")


def sign_in_address(request: Request) -> str:
    """Where to sign in, to come back to this page."""
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return f"/sign-in?next={quote(here, safe='/')}" if request.method in _SAFE else "/sign-in"


def unauthorized(words: str) -> HTTPException:
    """The answer to whoever has to come with another token."""
    return HTTPException(401, words, headers={"WWW-Authenticate": "Bearer"})


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
