"""
Where the step runs: GitHub's variables and the event that started the workflow.

Reads; knows nothing of tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One job, as GitHub tells of it. Source: "Variables" in the documentation of GitHub Actions."""

    #: `OWNER/NAME`.
    repository: str
    #: GitHub's API.
    api_url: str
    #: The page of this attempt of the workflow's run, and with what those of all its attempts begin.
    page: str
    attempts: str
    #: Which attempt of the workflow's run this is, from 1.
    attempt: int
    #: The workflow and the job, which together name the step's comments.
    workflow: str
    job: str
    #: The pull request that the workflow runs for; 0 for none.
    pull_request: int
    #: Whether it comes from a fork, so that the job's token may read and no more.
    from_fork: bool
    #: The branch that failures are compared with: a pull request's base, else the repository's own.
    base: str
    #: A directory that goes with the job.
    temporary: Path
    #: Files by which a step tells GitHub something; None where this is no job of GitHub's.
    output_file: Path | None
    summary_file: Path | None

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Context:
        """Read the variables."""
        event = _event(environ.get("GITHUB_EVENT_PATH", ""))
        request = _table(event.get("pull_request"))
        head = _table(_table(request.get("head")).get("repo")).get("full_name")
        repository = environ.get("GITHUB_REPOSITORY", "")
        attempt = environ.get("GITHUB_RUN_ATTEMPT", "")
        default_branch = _table(event.get("repository")).get("default_branch")
        run = f"{repository}/actions/runs/{environ.get('GITHUB_RUN_ID', '')}"
        attempts = f"{environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{run}/attempts/"
        return cls(
            repository=repository,
            api_url=environ.get("GITHUB_API_URL", "https://api.github.com"),
            page=f"{attempts}{attempt or 1}",
            attempts=attempts,
            attempt=int(attempt) if attempt.isdigit() else 1,
            workflow=environ.get("GITHUB_WORKFLOW", ""),
            job=environ.get("GITHUB_JOB", ""),
            pull_request=number if isinstance(number := request.get("number"), int) else 0,
            # What pull_request_target starts has the rights of the repository itself.
            from_fork=environ.get("GITHUB_EVENT_NAME") == "pull_request" and head != repository,
            base=environ.get("GITHUB_BASE_REF") or (default_branch if isinstance(default_branch, str) else ""),
            temporary=Path(environ.get("RUNNER_TEMP") or "/tmp"),
            output_file=_file(environ, "GITHUB_OUTPUT"),
            summary_file=_file(environ, "GITHUB_STEP_SUMMARY"),
        )


def _event(path: str) -> dict[str, Any]:
    try:
        return _table(json.loads(Path(path).read_bytes()))
    except (OSError, ValueError):
        return {}


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _file(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name]) if environ.get(name) else None
