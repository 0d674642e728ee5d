"""
The exchange of a job's own token, which lasts for minutes, for an ordinary one of this server, which outlasts its run.

Source: RFC 8693, section 2; refusals are as those of the other routes.
"""

from __future__ import annotations

import logging
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Form, Request
from pydantic import BaseModel, Field

from supercheck_server.access import Access, Scope
from supercheck_server.api import ANSWERS
from supercheck_server.errors import WrongJobToken
from supercheck_server.gate import Gate, unauthorized
from supercheck_server.oidc import Issuers

logger = logging.getLogger(__name__)

_TYPE: Final = "urn:ietf:params:oauth:token-type:"


class Exchange(BaseModel):
    """A job's token, and that it is to be exchanged."""

    grant_type: Literal["urn:ietf:params:oauth:grant-type:token-exchange"]
    subject_token_type: Literal["urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"]
    subject_token: Annotated[str, Field(max_length=16_384)]


class Issued(BaseModel):
    """A token for the job."""

    access_token: str
    issued_token_type: str = f"{_TYPE}access_token"
    token_type: str = "Bearer"
    #: Seconds until it lapses.
    expires_in: int
    scope: Scope
    #: The one that it is good for.
    project: str


def exchange_routes(issuers: Issuers, access: Access, gate: Gate) -> APIRouter:
    """Make the route; the gate does not stand before it, and only counts the wrong tokens."""
    routes = APIRouter(prefix="/api/v1", tags=["tokens"], responses=ANSWERS)

    @routes.post(
        "/tokens/exchange",
        summary="Exchange a job's own token for a short-lived one of this server",
        openapi_extra={"security": []},
    )
    def exchange(request: Request, asked: Annotated[Exchange, Form()]) -> Issued:
        gate.check_tries(request, asked.subject_token)
        try:
            grant = issuers.grant(asked.subject_token)
        except WrongJobToken as exc:
            gate.note_try(request, asked.subject_token, right=False)
            logger.info("job token refused", extra={"reason": str(exc)})
            raise unauthorized(str(exc)) from exc
        gate.note_try(request, asked.subject_token, right=True)
        token, secret = access.create(grant.name, project=grant.project, scope=grant.scope, days=grant.hours / 24)
        logger.info("job token exchanged", extra={"token": token.id, "job": token.name, "project": token.project})
        return Issued(access_token=secret, expires_in=grant.hours * 3600, scope=token.scope, project=token.project)

    return routes
