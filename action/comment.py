"""
The pull request's comment: one for a workflow, job and name, found again by a mark in it and written anew.

After the summary.  GitHub's REST API over the standard library; whatever goes wrong here is told, and fails nothing.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.error
import urllib.request
from typing import Any, Final

from action import summary
from action.context import Context
from action.outcome import Outcome

#: Bytes of a comment; GitHub takes 65,536 characters.
LIMIT_BYTES: Final = 60_000
#: Comments on a page, and pages that are looked through.
_PAGE: Final = 100
_PAGES: Final = 30
#: Seconds to wait for an answer.
_ANSWER_S: Final = 20.0
_VERSION: Final = "2022-11-28"


class _Refused(Exception):
    """GitHub has not done it; the message says why."""


class Comment:
    """
    The comment of a step.

    Args:
        token: GitHub's own, of the job.
        name: What tells it from those of other steps and of the job's other variants.
    """

    def __init__(self, context: Context, token: str, name: str) -> None:
        self._context = context
        self._token = token
        who = f"{context.workflow}\0{context.job}\0{name}"
        self._mark = f"<!-- pytest-supercheck {hashlib.sha256(who.encode()).hexdigest()[:16]} -->"

    def put(self, outcome: Outcome) -> str:
        """
        Write it, in place of the one that is there.

        Returns:
            Why it was not written; empty if it was, or there is no pull request.
        """
        context = self._context
        if not context.pull_request:
            return ""
        if context.from_fork:
            return "No comment was written: the token of a fork's job may not. The summary has all of it."
        try:
            self._put(f"{self._mark}\n{summary.render(outcome, context, limit_bytes=LIMIT_BYTES, traces=False)}")
        except (_Refused, OSError, http.client.HTTPException, ValueError) as exc:
            return f"No comment was written: {exc}. It needs the permission pull-requests: write."
        return ""

    def _put(self, text: str) -> None:
        repository = f"repos/{self._context.repository}/issues"
        comments = f"{repository}/{self._context.pull_request}/comments"
        for page in range(1, _PAGES + 1):
            some = self._ask("GET", f"{comments}?per_page={_PAGE}&page={page}")
            for one in some:
                if self._is_ours(one):
                    self._ask("PATCH", f"{repository}/comments/{int(one['id'])}", {"body": text})
                    return
            if len(some) < _PAGE:
                break
        self._ask("POST", comments, {"body": text})

    def _is_ours(self, comment: dict[str, Any]) -> bool:
        """Anybody can write the mark; the job's token is a bot's."""
        by_bot = (comment.get("user") or {}).get("type") == "Bot"
        return by_bot and str(comment.get("body") or "").startswith(self._mark)

    def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self._context.api_url}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/json",
                "User-Agent": "pytest-supercheck",
                "X-GitHub-Api-Version": _VERSION,
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                raise _Refused(f"GitHub answers {exc.code}") from exc
