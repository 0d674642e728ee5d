"""
GitHub's API, played by a real HTTP server that checks what it is asked against the shapes that GitHub publishes.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import jsonschema_rs

API: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("github_api.json").read_text("utf-8"))
TOKEN: Final = "ghs_" + "secret" * 6


@dataclass
class PlayedGitHub:
    """One repository with one workflow."""

    #: Its API's address.
    url: str
    #: What to answer next instead: status, headers and JSON; `started` has it start the workflow nevertheless.
    next: list[tuple[int, dict[str, str], dict[str, Any], bool]] = field(default_factory=list)
    #: What was asked for: method and path.
    asked: list[str] = field(default_factory=list)
    #: What was wrong with it.
    faults: list[str] = field(default_factory=list)
    #: The runs, the oldest first.
    runs: list[dict[str, Any]] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)

    def stumble(
        self, status: int, *, started: bool = False, message: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Answer the next request so."""
        self.next.append((status, headers or {}, {"message": message}, started))

    def end(self, conclusion: str) -> None:
        """The newest run ends."""
        self.runs[-1].update(status="completed", conclusion=conclusion)

    def add_run(self, ref: str = "main") -> dict[str, Any]:
        """Somebody starts the workflow."""
        number = 1000 + len(self.runs)
        made = {
            "id": number,
            "head_branch": ref,
            "event": "workflow_dispatch",
            "status": "queued",
            "conclusion": None,
            "html_url": f"https://github.com/acme/shop/actions/runs/{number}",
            "created_at": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
        }
        self.runs.append(made)
        return made

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], Any]:
        """Answer a request, after it has been checked."""
        parts = urlsplit(target)
        query, asked = dict(parse_qsl(parts.query)), f"{method} {parts.path}"
        self.asked.append(asked)
        operation = next((name for name in API if _matches(name, asked)), "")
        version = headers.get("X-GitHub-Api-Version")
        self._require(operation != "", f"there is no {asked}")
        self._require(version in ("2022-11-28", "2026-03-10"), f"there is no version {version}")
        self._require(headers.get("Accept") == "application/vnd.github+json", "what is accepted is not said")
        self._require("pytest-supercheck" in headers.get("User-Agent", ""), "who asks is not said")
        given = json.loads(body) if body else None
        if "request" in API.get(operation, {}):
            self._validate(API[operation]["request"], given)
        self._validate(API.get(operation, {}).get("query", {"maxProperties": 0}), query)
        status, more, answer = self._answer(operation, asked, query, given, headers)
        self._validate(API.get(operation, {}).get("answers", {}).get(str(status), True), answer)
        return status, more, answer

    def _answer(
        self, operation: str, asked: str, query: dict[str, str], given: Any, headers: Any
    ) -> tuple[int, dict[str, str], Any]:
        begins = operation.endswith("/dispatches")
        if self.next:
            status, more, answer, started = self.next.pop(0)
            if started:
                self.add_run(given["ref"])
            return status, more, answer
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {}, {"message": "Bad credentials"}
        if begins:
            self.inputs = given["inputs"]
            made = self.add_run(given["ref"])
            if headers["X-GitHub-Api-Version"] == "2022-11-28":
                return 204, {}, None
            url = f"{self.url}/repos/acme/shop/actions/runs/{made['id']}"
            return 200, {}, {"workflow_run_id": made["id"], "run_url": url, "html_url": made["html_url"]}
        if operation.endswith("/runs"):
            after = query["created"].removeprefix(">=")
            found = [run for run in self.runs if run["created_at"] >= after and run["head_branch"] == query["branch"]]
            return 200, {}, {"total_count": len(found), "workflow_runs": found[::-1]}
        number = int(re.findall("[0-9]+", asked)[-1])
        found = [run for run in self.runs if run["id"] == number]
        if not found:
            return 404, {}, {"message": "Not Found"}
        if operation.endswith("/cancel"):
            found[0].update(status="completed", conclusion="cancelled")
            return 202, {}, {}
        return 200, {}, found[0]

    def _require(self, condition: bool, fault: str) -> None:
        if not condition:
            self.faults.append(fault)

    def _validate(self, schema: Any, value: object) -> None:
        if schema is not True:
            whole = {**schema, "$defs": API["$defs"]}
            self.faults += [str(error) for error in jsonschema_rs.validator_for(whole).iter_errors(value)]


def _matches(operation: str, asked: str) -> bool:
    return re.fullmatch(re.sub(r"\\\{[a-z_]+\\\}", "[^/]+", re.escape(operation)), asked) is not None


@contextmanager
def played_github() -> Iterator[PlayedGitHub]:
    """GitHub, on a port of this machine; nothing wrong may have been asked at the end."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, answer = played.answer(self.command, self.path, self.headers, body)
            self.send_response(status)
            text = b"" if answer is None else json.dumps(answer).encode()
            for name, value in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        played = PlayedGitHub(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield played
        finally:
            server.shutdown()
            thread.join()
    assert not played.faults
