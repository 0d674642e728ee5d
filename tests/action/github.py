"""
GitHub's API as far as the action uses it: a local server that takes what GitHub's published description allows.

The shapes are those of GitHub's OpenAPI document, as githubkit generates them.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pydantic
from githubkit_schemas.latest.models import (
    IssueComment,
    ReposOwnerRepoIssuesCommentsCommentIdPatchBody,
    ReposOwnerRepoIssuesIssueNumberCommentsPostBody,
)

TOKEN: Final = "ghs_0123456789"
#: Characters of a comment.
LIMIT: Final = 65_536

_LIST: Final = re.compile(r"/repos/acme/shop/issues/(\d+)/comments")
_ONE: Final = re.compile(r"/repos/acme/shop/issues/comments/(\d+)")
_USER_ADDRESSES: Final = (
    *("avatar_url", "url", "html_url", "followers_url", "following_url", "gists_url", "starred_url"),
    *("subscriptions_url", "organizations_url", "repos_url", "events_url", "received_events_url"),
)


class GitHub(ThreadingHTTPServer):
    """A repository acme/shop with the comments of its pull requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        #: The comments, each in GitHub's form.
        self.comments: list[dict[str, Any]] = []
        #: Methods and paths of requests.
        self.asked: list[str] = []
        #: What was wrong with requests.
        self.wrong: list[str] = []
        #: Whether tokens may read and no more.
        self.read_only = False

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def write(self, issue: int, body: str, *, kind: str = "Bot") -> dict[str, Any]:
        """Write a comment."""
        number = len(self.comments) + 1
        user = dict.fromkeys(_USER_ADDRESSES, "https://example.org/")
        user |= {"login": "somebody", "id": 1, "node_id": "x", "gravatar_id": "", "type": kind, "site_admin": False}  # type: ignore[dict-item]
        made = {
            "id": number,
            "node_id": f"node-{number}",
            "url": f"{self.url}/repos/acme/shop/issues/comments/{number}",
            "html_url": f"https://github.com/acme/shop/pull/{issue}#issuecomment-{number}",
            "issue_url": f"{self.url}/repos/acme/shop/issues/{issue}",
            "user": user,
            "created_at": "2026-03-01T12:00:00Z",
            "updated_at": "2026-03-01T12:00:00Z",
            "body": body,
        }
        IssueComment.model_validate(made)  # this server, too, keeps to the description
        self.comments.append(made)
        return made

    def texts(self) -> list[str]:
        """What comments say."""
        return [one["body"] for one in self.comments]


class _Handler(BaseHTTPRequestHandler):
    server: GitHub

    def do_GET(self) -> None:
        """List the comments of a pull request."""
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if not self._begin() or not _LIST.fullmatch(path):
            return self._answer(404, {"message": "Not Found"})
        size, page = int(query.get("per_page", ["30"])[0]), int(query.get("page", ["1"])[0])
        if not 1 <= size <= 100:
            self.server.wrong.append("per_page")
        return self._answer(200, self.server.comments[(page - 1) * size : page * size])

    def do_POST(self) -> None:
        """Write a comment."""
        body, place = self._body(ReposOwnerRepoIssuesIssueNumberCommentsPostBody), _LIST.fullmatch(self.path)
        if not self._begin() or place is None:
            return self._answer(404, {"message": "Not Found"})
        if self.server.read_only:
            return self._answer(403, {"message": "Resource not accessible by integration"})
        return self._answer(201, self.server.write(int(place[1]), body))

    def do_PATCH(self) -> None:
        """Write a comment anew."""
        body, place = self._body(ReposOwnerRepoIssuesCommentsCommentIdPatchBody), _ONE.fullmatch(self.path)
        if not self._begin() or place is None:
            return self._answer(404, {"message": "Not Found"})
        comment = self.server.comments[int(place[1]) - 1]
        comment["body"] = body
        return self._answer(200, comment)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nowhere."""

    def _begin(self) -> bool:
        self.server.asked.append(f"{self.command} {urlsplit(self.path).path}")
        expected = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {TOKEN}",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        wrong = [name for name, value in expected.items() if self.headers.get(name) != value]
        if not self.headers.get("User-Agent"):
            wrong.append("User-Agent")
        self.server.wrong += wrong
        return not wrong

    def _body(self, model: type[pydantic.BaseModel]) -> str:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model.model_validate(told)
        if set(told) != set(model.model_fields) or len(told["body"]) > LIMIT:
            self.server.wrong.append("body")
        return str(told["body"])

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def playing() -> Iterator[GitHub]:
    """The server, while it runs; all requests have to be as they should."""
    with GitHub() as made:
        thread = threading.Thread(target=made.serve_forever, name="github")
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()
        assert not made.wrong
