"""
How a job of GitHub Actions gets into a server without a stored secret: with the token that GitHub makes for the job.

    server: 401 ── runner: a token for that server ── server: exchanged for one of its own ── again

An httpx flow around the requests of `http_gateway`.  It begins when the server lets us in no other way, and again when
the server's token has lapsed: GitHub's last for minutes, the server's for hours, runs perhaps for longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping
from typing import Final

import httpx

from pytest_supercheck.addresses import is_private
from pytest_supercheck.errors import Unreachable
from pytest_supercheck.masking import masked

#: Variables that a runner sets for jobs with the permission `id-token: write`.
URL: Final = "ACTIONS_ID_TOKEN_REQUEST_URL"
TOKEN: Final = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"

#: Seconds for an answer of GitHub's, and pauses in seconds before it is asked again.
ANSWER_S: Final = 10.0
AGAIN_S: Final = (0.2, 1.0, 3.0)

_FORM: Final = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
}


def job_sign_in(address: str, environ: Mapping[str, str], mask: Callable[[str], None]) -> JobSignIn | None:
    """
    Who can sign in a job at a server.

    Args:
        address: The server's, as the user gave it.  GitHub's token is for it alone: no other server can use it.
        mask: Is told each secret, so that no log shows it.

    Returns:
        None outside of a job that may ask for tokens, and where somebody on the way could read them.
    """
    url, token = environ.get(URL), environ.get(TOKEN)
    if not (url and token and is_private(address) and is_private(url)):
        return None
    return JobSignIn(masked(address).rstrip("/"), url, token, mask)


class JobSignIn(httpx.Auth):
    """Signs a job in, once for all threads."""

    def __init__(self, audience: str, url: str, token: str, mask: Callable[[str], None]) -> None:
        self._audience = audience
        self._url = url
        self._asks_with = token
        self._mask = mask
        self._lock = threading.Lock()
        self._token = ""

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """As `httpx.Auth`: the last answer is whoever's who asked, also when it is a refusal of the exchange."""
        used = self._token
        response = yield self._signed(request)
        if response.status_code != 401:
            return
        with self._lock:
            if self._token == used:
                answer = yield self._exchange(request)
                if answer.status_code != 200:
                    return
                answer.read()
                self._token = _secret(answer, "access_token", self._audience)
                self._mask(self._token)
        yield self._signed(request)

    def _signed(self, request: httpx.Request) -> httpx.Request:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _exchange(self, request: httpx.Request) -> httpx.Request:
        form = {**_FORM, "subject_token": self._ask()}
        headers = {"User-Agent": request.headers["User-Agent"]}
        url = f"{self._audience}/api/v1/tokens/exchange"
        return httpx.Request("POST", url, data=form, headers=headers, extensions=request.extensions)

    def _ask(self) -> str:
        """
        A token of GitHub's for this job and that server.

        Source: "OpenID Connect reference", section "Methods for requesting the OIDC token", in GitHub's documentation.
        """
        url = httpx.URL(self._url).copy_merge_params({"audience": self._audience})
        headers = {"Authorization": f"Bearer {self._asks_with}", "Accept": "application/json"}
        for pause_s in (*AGAIN_S, None):
            try:
                answer = httpx.get(url, headers=headers, timeout=ANSWER_S)
            except httpx.HTTPError as exc:
                trouble, passing = str(exc) or type(exc).__name__, True
            else:
                if answer.status_code == 200:
                    found = _secret(answer, "value", "GitHub")
                    self._mask(found)
                    return found
                trouble, passing = f"status {answer.status_code}", answer.status_code >= 500
            if pause_s is None or not passing:
                raise Unreachable(f"GitHub makes no token for this job ({trouble}).")
            time.sleep(pause_s)
        raise AssertionError


def _secret(answer: httpx.Response, name: str, whose: str) -> str:
    try:
        found = answer.json()[name]
    except (ValueError, KeyError, TypeError):
        found = None
    # It becomes a header, and a line of the job's log.
    if not (isinstance(found, str) and found.isascii() and found.isprintable() and found):
        raise Unreachable(f"{whose} answers the request for this job's token with something else.")
    return found
