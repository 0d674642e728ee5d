"""
Starts workflows of GitHub for jobs, and follows them.

    Starter ── Workflows ── GitHub ── the API
               starts                 of github.com, or of a GitHub Enterprise Server

Starting a workflow is the one thing here that cannot be repeated: GitHub starts another one.  So the start says that
GitHub is being asked before it is, and whoever finds it so looks at GitHub first.

Source: https://docs.github.com/rest/actions/workflows and .../workflow-runs.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import httpx
from pydantic import Field

from pytest_supercheck.errors import SupercheckError, Unreachable
from pytest_supercheck.jobs import Dispatch
from supercheck_server.errors import WorkflowTrouble
from supercheck_server.section import Section
from supercheck_server.starts import StartRow, Starts

logger = logging.getLogger(__name__)

GITHUB: Final = "https://api.github.com"
#: Of the API: the first that answers with the run that it has started, and the one that every server knows.
VERSION: Final = "2026-03-10"
OLD_VERSION: Final = "2022-11-28"

#: Seconds for a connection and for an answer: together less than those after which another server takes a start on.
CONNECT_S: Final = 3
ANSWER_S: Final = 5
#: How often a question is asked, and seconds for which one waits that is asked to.
ATTEMPTS: Final = 3
PATIENCE_S: Final = 5.0
#: Ms between two looks at a workflow, and after which GitHub must show one that it has accepted.
FOLLOW_MS: Final = 15_000
SHOWN_MS: Final = 600_000
#: Ms by which GitHub's clock may differ from ours.
SKEW_MS: Final = 30_000

#: What GitHub's conclusions are here; any other one is `failed`.
VERDICTS: Final = {
    "success": "passed",
    "neutral": "passed",
    "skipped": "passed",
    "cancelled": "cancelled",
    "timed_out": "timeout",
}


class GithubSection(Section):
    """Which workflows jobs may start, and as whom."""

    #: The API's address; of a GitHub Enterprise Server it is https://HOST/api/v3.
    api: Annotated[str, Field(pattern=r"^(https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/])")] = GITHUB
    #: The variable with a token that may read and write actions, or the file that it is read from each time.
    token_variable: str = "SUPERCHECK_GITHUB_TOKEN"
    token_file: Path | None = None
    #: By project, the repositories whose workflows its jobs may start.
    repositories: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)


class Workflows:
    """The jobs that are workflows of GitHub."""

    def __init__(
        self, github: GitHub, starts: Starts, *, now_ms: Callable[[], int] = lambda: round(time.time() * 1000)
    ) -> None:
        self._github = github
        self._starts = starts
        self._now_ms = now_ms

    def start(self, project: str, wanted: Dispatch, start: StartRow) -> None:
        """
        Start a workflow, unless that has been done, and note where it can be followed.

        Raises:
            Unreachable: GitHub does not answer, or wants to be left alone for a while.
            WorkflowTrouble: It does not start it; the message says why.
        """
        self._github.check(project, wanted.repository)
        url = "" if start.asked_ms is None else self._find(wanted, start.asked_ms)
        if not url:
            if not self._starts.note_asked(start):
                raise Unreachable("Another server asks GitHub to start it.")
            url = self._github.dispatch(wanted)
        self._starts.note_page(start.no, url)

    def cancel(self, start: StartRow) -> None:
        """
        Have a workflow end soon.

        Raises:
            SupercheckError: GitHub does not do so.
        """
        if start.url:
            self._github.cancel(start.url)

    def follow(self, wanted: Callable[[int], Dispatch | None]) -> None:
        """
        Look at the workflows that go on, those at which nobody has looked for a while.

        Args:
            wanted: The workflow of a job, by the job's number.
        """
        for start in self._starts.followed(FOLLOW_MS):
            try:
                self._look(start, wanted(start.job_no))
            except Unreachable as exc:
                logger.warning("workflows not seen", extra={"reason": str(exc)})
                return
            except SupercheckError as exc:
                logger.warning("workflow not seen", extra={"url": start.url, "reason": str(exc)})

    def _look(self, start: StartRow, wanted: Dispatch | None) -> None:
        asked_ms = start.asked_ms or 0
        if not start.url:
            url = self._find(wanted, asked_ms) if wanted is not None else ""
            if url:
                self._starts.note_page(start.no, url)
            elif self._now_ms() - asked_ms > SHOWN_MS:
                self._starts.note_end(start.no, "lost", reason="GitHub accepted it and shows no run of it")
            return
        status, conclusion = self._github.look(start.url)
        if status == "completed":
            verdict = VERDICTS.get(conclusion, "failed")
            self._starts.note_end(start.no, verdict, reason=f"GitHub: {conclusion.replace('_', ' ')}")
        elif status == "gone":
            self._starts.note_end(start.no, "lost", reason="GitHub does not know it any more")

    def _find(self, wanted: Dispatch, asked_ms: int) -> str:
        """The oldest run since GitHub was asked that no other start has; empty for none."""
        found = [url for url in self._github.runs(wanted, asked_ms - SKEW_MS) if url]
        noted = self._starts.noted(found)
        return next((url for url in reversed(found) if url not in noted), "")


class GitHub:
    """GitHub's API, as far as it is needed here."""

    def __init__(
        self,
        section: GithubSection,
        *,
        environ: Mapping[str, str] = os.environ,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Prepare; nothing is asked yet.

        Args:
            sleep: Waits some seconds.
        """
        self._section = section
        self._environ = environ
        self._sleep = sleep
        self._version = VERSION if section.api.rstrip("/") == GITHUB else OLD_VERSION
        self._client = httpx.Client(timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S), follow_redirects=True)
        self._silent_until = 0.0

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def check(self, project: str, repository: str) -> None:
        """
        Require that a project may start workflows of a repository.

        Raises:
            WorkflowTrouble: It may not.
        """
        if repository.lower() not in (name.lower() for name in self._section.repositories.get(project, ())):
            raise WorkflowTrouble(
                f"Jobs of the project {project!r} may not start workflows of {repository}. The server's operator "
                "allows it with repositories in [github] of the configuration file."
            )

    def dispatch(self, wanted: Dispatch) -> str:
        """
        Start a workflow.

        Returns:
            The address of its page; empty when GitHub does not tell.

        Raises:
            Unreachable: It is not known whether it was started, or it was not for now.
            WorkflowTrouble: It was not.
        """
        body = {"ref": wanted.ref, "inputs": dict(wanted.inputs)}
        answer = self._call("POST", f"{_workflow(wanted)}/dispatches", json=body)
        # The older versions of the API say only that they have heard.
        return _page(_read(answer)) if answer.status_code == 200 else ""

    def runs(self, wanted: Dispatch, since_ms: int) -> list[str]:
        """
        Find the runs of a workflow that were started so.

        Returns:
            Addresses of their pages, those of the newest first.

        Raises:
            SupercheckError: GitHub does not tell.
        """
        since = datetime.fromtimestamp(since_ms // 1000, timezone.utc)
        asked = {"event": "workflow_dispatch", "created": f">={since:%Y-%m-%dT%H:%M:%SZ}", "per_page": "100"}
        asked["branch"] = re.sub("^refs/(heads|tags)/", "", wanted.ref)
        found = _read(self._call("GET", f"{_workflow(wanted)}/runs", params=asked)).get("workflow_runs")
        return [_page(run) for run in found if isinstance(run, dict)] if isinstance(found, list) else []

    def look(self, url: str) -> tuple[str, str]:
        """
        Look how far a run is.

        Args:
            url: The address of its page.

        Returns:
            GitHub's status, `completed` at the end, or `gone`; and its conclusion, empty before the end.

        Raises:
            SupercheckError: GitHub does not tell.
        """
        answer = self._call("GET", _run(url), expected=(200, 404))
        if answer.status_code == 404:
            return "gone", ""
        run = _read(answer)
        return str(run.get("status") or ""), str(run.get("conclusion") or "")[:100]

    def cancel(self, url: str) -> None:
        """
        Have a run end; one that has ended is left alone.

        Raises:
            SupercheckError: GitHub does not do so.
        """
        self._call("POST", f"{_run(url)}/cancel", expected=(202, 409))

    def _call(self, method: str, path: str, *, expected: tuple[int, ...] = (200, 204), **more: Any) -> httpx.Response:
        """Ask; a question, which changes nothing, again when there is no answer."""
        for attempt in range(1, ATTEMPTS + 1):
            last = method != "GET" or attempt == ATTEMPTS
            if (silent_s := self._silent_until - time.monotonic()) > 0:
                raise Unreachable(f"GitHub wants to be left alone for {silent_s:.0f} s.")
            try:
                answer = self._client.request(
                    method, self._section.api.rstrip("/") + path, headers=self._headers(), **more
                )
            except (httpx.HTTPError, httpx.InvalidURL) as exc:
                if last:
                    raise Unreachable(f"GitHub does not answer: {str(exc) or type(exc).__name__}") from exc
                self._sleep(attempt)
                continue
            if answer.status_code in expected:
                return answer
            if (wait_s := _asked_to_wait(answer)) is not None:
                if last or wait_s > PATIENCE_S:
                    self._silent_until = time.monotonic() + wait_s
                    raise Unreachable(f"GitHub wants to be left alone for {wait_s:.0f} s.")
                self._sleep(wait_s)
            elif answer.status_code < 500:
                raise self._refused(answer)
            elif last:
                raise Unreachable(f"GitHub has trouble: status {answer.status_code}.")
            else:
                self._sleep(attempt)
        raise AssertionError("the last attempt returns or raises")

    def _headers(self) -> dict[str, str]:
        accepted = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": self._version}
        return {**accepted, "Authorization": f"Bearer {self._token()}", "User-Agent": "pytest-supercheck"}

    def _token(self) -> str:
        file = self._section.token_file
        try:
            token = file.read_text("utf-8") if file else self._environ.get(self._section.token_variable, "")
        except (OSError, ValueError) as exc:
            raise WorkflowTrouble(f"The token for GitHub cannot be read from {file}: {exc}") from exc
        if not re.fullmatch(r"[!-~]+", token.strip()):
            raise WorkflowTrouble(f"There is no token for GitHub in {file or self._section.token_variable}.")
        return token.strip()

    def _refused(self, answer: httpx.Response) -> WorkflowTrouble:
        place = self._section.token_file or self._section.token_variable
        reasons = {
            401: f"GitHub does not accept the token in {place}.",
            403: "The token for GitHub may not do this: it must be allowed to read and write actions.",
            404: "GitHub knows no such repository or workflow, or the token may not see it.",
        }
        words = str(_read(answer).get("message", ""))[:500]
        return WorkflowTrouble(f"{reasons.get(answer.status_code, 'GitHub refuses it.')} It says: {words!r}")


def _asked_to_wait(answer: httpx.Response) -> float | None:
    """Seconds until GitHub wants to be asked again; None for an answer that is one."""
    if answer.status_code not in (403, 429, 503):
        return None
    headers = answer.headers
    if (after := headers.get("retry-after", "")).isdigit():
        return float(min(int(after), 3600))
    if headers.get("x-ratelimit-remaining") == "0" and headers.get("x-ratelimit-reset", "").isdigit():
        return min(max(0.0, int(headers["x-ratelimit-reset"]) - time.time()), 3600.0)
    # Without a word of how long, it is a minute.
    return 60.0 if answer.status_code == 429 else None


def _read(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _page(run: Mapping[str, Any]) -> str:
    url = str(run.get("html_url", ""))
    return url if _RUN.fullmatch(url) else ""


_RUN: Final = re.compile(r"https?://[^/?#\s]+/([A-Za-z0-9-]+/[A-Za-z0-9._-]+)/actions/runs/([0-9]+)")


def _run(url: str) -> str:
    match = _RUN.fullmatch(url)
    if match is None:
        raise WorkflowTrouble(f"{url!r} is no run of GitHub.")
    return f"/repos/{match[1]}/actions/runs/{match[2]}"


def _workflow(wanted: Dispatch) -> str:
    return f"/repos/{wanted.repository}/actions/workflows/{quote(wanted.workflow, safe='')}"
