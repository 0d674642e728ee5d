"""
Workflows of GitHub are started once, followed to their end, and what GitHub refuses is told.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest

from pytest_supercheck.errors import Unreachable
from pytest_supercheck.jobs import Dispatch, decode_job
from pytest_supercheck.model import new_run_id
from pytest_supercheck.operators import BadVariable
from supercheck_server import github
from supercheck_server.configuration import read_configuration
from supercheck_server.database import Database
from supercheck_server.errors import WorkflowTrouble
from supercheck_server.github import FOLLOW_MS, SHOWN_MS, GitHub, GithubSection, Workflows
from supercheck_server.jobs import Jobs
from supercheck_server.parts import Parts
from supercheck_server.settings import Settings
from supercheck_server.starts import Occasion, StartRow, Starts
from tests.server.conftest import Served, serving, wait_for
from tests.server.played_github import TOKEN, PlayedGitHub, played_github

WANTED = Dispatch(repository="acme/shop", workflow="nightly.yml", ref="main", inputs={"suite": "all"})


@pytest.fixture
def played() -> Iterator[PlayedGitHub]:
    """GitHub."""
    with played_github() as made:
        yield made


@pytest.fixture
def public(played: PlayedGitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is played is github.com, and no server of an enterprise."""
    monkeypatch.setattr(github, "GITHUB", played.url)


class Desk:
    """A server's workflows and a job that is one, with a clock that tests set."""

    def __init__(self, database: Database, played: PlayedGitHub) -> None:
        self.now_ms = round(time.time() * 1000)
        self.slept: list[float] = []
        self.starts = Starts(database, now_ms=lambda: self.now_ms)
        self.jobs = Jobs(database, now_ms=lambda: self.now_ms)
        self.section = GithubSection(api=played.url, repositories={"shop": ("Acme/Shop",)})
        self.github = GitHub(self.section, environ={"SUPERCHECK_GITHUB_TOKEN": TOKEN}, sleep=self.slept.append)
        self.workflows = Workflows(self.github, self.starts, now_ms=lambda: self.now_ms)
        self.jobs.sync(
            "shop", [(decode_job("nightly", {"dispatch": {"repository": "acme/shop", "workflow": "x"}}), None)]
        )
        [self.job] = self.jobs.known()

    def claim(self) -> StartRow:
        """A start that this server has."""
        self.now_ms += 1
        start = self.starts.claim(self.job.no, self.now_ms, Occasion(trigger="schedule"))
        assert start is not None
        return start

    def start(self) -> StartRow:
        """A start whose workflow has been asked for."""
        start = self.claim()
        self.workflows.start("shop", WANTED, start)
        self.starts.settle(start, "started")
        return self.again(start)

    def follow(self) -> None:
        """Look at what goes on, some time later."""
        self.now_ms += FOLLOW_MS
        self.workflows.follow(lambda _no: WANTED)

    def again(self, start: StartRow) -> StartRow:
        """The start as it is now."""
        found = self.starts.by_run(start.run)
        assert found is not None
        return found


@pytest.fixture
def desk(database: Database, played: PlayedGitHub) -> Iterator[Desk]:
    """A server that knows the token."""
    made = Desk(database, played)
    yield made
    made.github.close()


@pytest.mark.usefixtures("public")
def test_workflow_is_started_and_followed_to_its_end(desk: Desk, played: PlayedGitHub) -> None:
    """With its inputs; GitHub itself says which run it is."""
    start = desk.start()
    assert played.inputs == {"suite": "all"}
    assert (start.url, start.verdict) == ("https://github.com/acme/shop/actions/runs/1000", "live")
    desk.follow()
    assert desk.again(start).verdict == "live"
    played.end("success")
    desk.follow()
    ended = desk.again(start)
    assert (ended.verdict, ended.reason) == ("passed", "GitHub: success")
    assert ended.duration_s == 2 * FOLLOW_MS / 1000
    asked = len(played.asked)
    desk.follow()
    assert len(played.asked) == asked
    figures = desk.starts.figures([desk.job.no])[desk.job.no]
    assert (figures.runs, figures.failures) == (1, 0)


def test_older_servers_do_not_say_which_run_it_is(desk: Desk, played: PlayedGitHub) -> None:
    """So it is looked for, among those that no other start has."""
    first, second = desk.start(), desk.start()
    assert [(one.url, one.verdict) for one in (first, second)] == [("", "live")] * 2
    desk.follow()
    assert {desk.again(one).url for one in (first, second)} == {run["html_url"] for run in played.runs}


def test_run_that_github_never_shows_is_lost(desk: Desk, played: PlayedGitHub) -> None:
    """After some minutes; it says so."""
    start = desk.start()
    played.runs.clear()
    desk.follow()
    assert desk.again(start).verdict == "live"
    desk.now_ms += SHOWN_MS
    desk.follow()
    assert (desk.again(start).verdict, desk.again(start).reason) == (
        "lost",
        "GitHub accepted it and shows no run of it",
    )


@pytest.mark.usefixtures("public")
@pytest.mark.parametrize(
    ("conclusion", "verdict"),
    [
        ("failure", "failed"),
        ("cancelled", "cancelled"),
        ("timed_out", "timeout"),
        ("startup_failure", "failed"),
        ("skipped", "passed"),
        ("something_new", "failed"),
    ],
)
def test_conclusions(desk: Desk, played: PlayedGitHub, conclusion: str, verdict: str) -> None:
    """In our words, and in GitHub's."""
    start = desk.start()
    played.end(conclusion)
    desk.follow()
    words = f"GitHub: {conclusion.replace('_', ' ')}"
    assert (desk.again(start).verdict, desk.again(start).reason) == (verdict, words)


@pytest.mark.usefixtures("public")
def test_run_that_was_deleted_is_lost(desk: Desk, played: PlayedGitHub) -> None:
    """It is not asked for again."""
    start = desk.start()
    played.runs.clear()
    desk.follow()
    assert desk.again(start).verdict == "lost"


@pytest.mark.usefixtures("public")
def test_workflow_is_cancelled(desk: Desk, played: PlayedGitHub) -> None:
    """Also twice."""
    start = desk.start()
    desk.workflows.cancel(start)
    played.stumble(409, message="Cannot cancel a workflow run that is completed.")
    desk.workflows.cancel(start)
    assert played.runs[0]["conclusion"] == "cancelled"


def test_workflow_whose_start_was_withdrawn_is_followed(desk: Desk, played: PlayedGitHub) -> None:
    """It was not known yet that GitHub has started it."""
    start = desk.claim()
    desk.workflows.start("shop", WANTED, start)
    assert desk.starts.withdraw(start, "its job has been started again")
    played.end("cancelled")
    for _ in range(2):
        desk.follow()
    assert (desk.again(start).state, desk.again(start).verdict) == ("skipped", "cancelled")


# -- GitHub's troubles


@pytest.mark.usefixtures("public")
def test_answer_that_is_lost_starts_nothing_twice(desk: Desk, played: PlayedGitHub) -> None:
    """Whoever takes the start on looks at GitHub first."""
    start = desk.claim()
    played.stumble(502, started=True)
    with pytest.raises(Unreachable, match="GitHub has trouble: status 502"):
        desk.workflows.start("shop", WANTED, start)
    desk.workflows.start("shop", WANTED, desk.again(start))
    assert desk.again(start).url == played.runs[0]["html_url"]
    assert len(played.runs) == 1


@pytest.mark.usefixtures("public")
def test_two_servers_that_have_the_same_start(desk: Desk, played: PlayedGitHub) -> None:
    """One that was thought dead and the one that took its start on: one asks GitHub."""
    start = desk.claim()
    desk.workflows.start("shop", WANTED, start)
    with pytest.raises(Unreachable, match="Another server asks GitHub"):
        desk.workflows.start("shop", WANTED, start)
    assert len(played.runs) == 1


@pytest.mark.usefixtures("public")
def test_request_that_was_not_heard_is_made_again(desk: Desk, played: PlayedGitHub) -> None:
    """When GitHub shows no run of it; one that somebody else has started is older."""
    played.add_run()["created_at"] = "2026-01-01T00:00:00Z"
    start = desk.claim()
    played.stumble(502)
    with pytest.raises(Unreachable):
        desk.workflows.start("shop", WANTED, start)
    desk.workflows.start("shop", WANTED, desk.again(start))
    assert desk.again(start).url == played.runs[1]["html_url"]


@pytest.mark.usefixtures("public")
def test_short_wait_is_waited(desk: Desk, played: PlayedGitHub) -> None:
    """As long as GitHub says."""
    start = desk.start()
    played.end("success")
    played.stumble(429, headers={"Retry-After": "2"})
    desk.follow()
    assert desk.slept == [2.0]
    assert desk.again(start).verdict == "passed"


@pytest.mark.usefixtures("public")
@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {"Retry-After": "600"}),
        (403, {"Retry-After": "60"}),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "99999999999"}),
        (429, {}),
    ],
)
def test_github_is_left_alone_when_it_wants_to_be(
    desk: Desk, played: PlayedGitHub, status: int, headers: dict[str, str]
) -> None:
    """Nothing is asked for until then."""
    played.stumble(status, headers=headers)
    for _ in range(2):
        with pytest.raises(Unreachable, match="GitHub wants to be left alone for"):
            desk.start()
    assert len(played.asked) == 1
    assert not desk.slept


@pytest.mark.usefixtures("public")
def test_questions_are_asked_again(desk: Desk, played: PlayedGitHub) -> None:
    """They change nothing."""
    start = desk.start()
    played.end("success")
    played.stumble(500)
    played.stumble(503)
    desk.follow()
    assert desk.again(start).verdict == "passed"


def test_github_that_is_not_there(database: Database, unused_port: int) -> None:
    """It is no failure of the job yet."""
    there = GithubSection(api=f"http://127.0.0.1:{unused_port}")
    made = GitHub(there, environ={"SUPERCHECK_GITHUB_TOKEN": TOKEN}, sleep=lambda _s: None)
    with pytest.raises(Unreachable, match="GitHub does not answer"):
        made.dispatch(WANTED)
    made.close()


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        (401, "Bad credentials", "does not accept the token in SUPERCHECK_GITHUB_TOKEN"),
        (403, "Resource not accessible by integration", "must be allowed to read and write actions"),
        (404, "Not Found", "knows no such repository or workflow"),
        (422, 'Unexpected inputs provided: ["suite"]', "Unexpected inputs provided"),
    ],
)
def test_refusals_are_told(desk: Desk, played: PlayedGitHub, status: int, message: str, words: str) -> None:
    """With GitHub's own words, and without the token."""
    played.stumble(status, message=message)
    with pytest.raises(WorkflowTrouble, match=words) as caught:
        desk.start()
    assert message.split(maxsplit=1)[0] in str(caught.value)
    assert TOKEN not in str(caught.value)


# -- who may what


def test_projects_start_only_what_they_may(desk: Desk, played: PlayedGitHub) -> None:
    """The token may do more than a project."""
    start = desk.claim()
    for project, repository in [("shop", "acme/bank"), ("bank", "acme/shop")]:
        with pytest.raises(WorkflowTrouble, match="may not start workflows of"):
            desk.workflows.start(project, replace(WANTED, repository=repository), start)
    assert not played.asked


def test_token_from_a_file(played: PlayedGitHub, tmp_path: Path) -> None:
    """Read anew each time: those of apps live for an hour."""
    file = tmp_path / "token"
    made = GitHub(GithubSection.model_validate({"api": played.url, "token-file": file}), environ={})
    with pytest.raises(WorkflowTrouble, match="cannot be read from"):
        made.dispatch(WANTED)
    for text in ("", "two\nlines"):
        file.write_text(text)
        with pytest.raises(WorkflowTrouble, match="There is no token for GitHub in"):
            made.dispatch(WANTED)
    file.write_text(f"{TOKEN}\n")
    made.dispatch(WANTED)
    assert len(played.runs) == 1
    made.close()


def test_the_section(tmp_path: Path) -> None:
    """As the file has it; a token goes nowhere in the clear."""
    file = tmp_path / "server.toml"
    file.write_text('[github]\ntoken-variable = "TOKEN"\nrepositories = {shop = ["acme/shop"]}\n')
    section = read_configuration(file).github
    assert (section.token_variable, section.repositories) == ("TOKEN", {"shop": ("acme/shop",)})
    file.write_text('[github]\napi = "http://github.example.com"\n')
    with pytest.raises(BadVariable, match=r"github\.api"):
        read_configuration(file)


def test_two_servers_start_a_workflow_when_it_is_due(
    settings: Settings, played: PlayedGitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By themselves, and once; the page of jobs leads to it."""
    monkeypatch.setenv("SUPERCHECK_GITHUB_TOKEN", TOKEN)
    file = tmp_path / "server.toml"
    file.write_text(f'[github]\napi = "{played.url}"\nrepositories = {{shop = ["acme/shop"]}}\n')
    settings = replace(settings, config=file)
    with serving(settings) as one, serving(settings) as other:
        soon = datetime.now(timezone.utc) + timedelta(seconds=5)
        table = {"schedule": {"at": soon.isoformat()}, "dispatch": {"repository": "acme/shop", "workflow": "x.yml"}}
        one.parts.jobs.sync("shop", [(decode_job("nightly", table), None)])
        [row] = other.parts.jobs.known()
        wait_for(lambda: [start for start in other.parts.starts.of(row.no) if start.state == "started"], "it starts")
        [start] = one.parts.starts.of(row.no)
        one.parts.starts.note_page(start.no, played.runs[0]["html_url"])
        pages = [
            httpx.get(f"{other.url}{place}", headers={"Accept": "text/html"}).text
            for place in ("/jobs", "/jobs/nightly")
        ]
        assert all(f'href="{played.runs[0]["html_url"]}"' in page for page in pages)
    assert len(played.runs) == 1


def test_job_that_is_a_workflow(
    settings: Settings, played: PlayedGitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """It starts as any other job; what GitHub refuses is a failed start, and the token is nowhere."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SUPERCHECK_GITHUB_TOKEN", TOKEN)
    file = tmp_path / "server.toml"
    file.write_text(f'[github]\napi = "{played.url}"\nrepositories = {{shop = ["acme/shop"]}}\n')
    parts = Parts(replace(settings, config=file))
    try:
        job = decode_job("nightly", {"dispatch": {"repository": "acme/shop", "workflow": "x.yml"}})
        parts.jobs.sync("shop", [(job, None)])
        [row] = parts.jobs.known()
        started = parts.starter.submit(parts.starter.now(row, Occasion(trigger="job"))[0])
        assert (started.state, started.verdict) == ("started", "live")
        assert parts.starter.is_live(started)
        played.stumble(422, message="No ref found for: main")
        failed = parts.starter.submit(parts.starter.now(row, Occasion(trigger="job"))[0])
        assert failed.state == "failed"
        assert "No ref found for: main" in failed.reason
    finally:
        parts.close()
    assert TOKEN not in caplog.text
    assert not [path for path in settings.data.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


@pytest.fixture
def allowing(
    settings: Settings, played: PlayedGitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    """A server with a job that is a workflow."""
    monkeypatch.setenv("SUPERCHECK_GITHUB_TOKEN", TOKEN)
    file = tmp_path / "server.toml"
    file.write_text(f'[github]\napi = "{played.url}"\nrepositories = {{shop = ["acme/shop"]}}\n')
    with serving(replace(settings, config=file)) as served:
        job = decode_job("nightly", {"dispatch": {"repository": "acme/shop", "workflow": "x.yml"}})
        served.parts.jobs.sync("shop", [(job, None)])
        yield served


@pytest.mark.usefixtures("public")
def test_server_that_dies_after_github_has_answered(allowing: Served, played: PlayedGitHub) -> None:
    """Whoever takes its start on asks for no second one."""
    parts = allowing.parts
    [row] = parts.jobs.known()
    start = parts.starter.submit(parts.starter.now(row, Occasion(trigger="job"))[0])
    with parts.database.write() as connection:
        connection.exec_driver_sql("UPDATE starts SET state = 'claimed', claimed_ms = claimed_ms - 60000")
    wait_for(lambda: [one.state for one in parts.starts.of(row.no)] == ["started"], "it is taken on")
    assert len(played.runs) == 1
    assert parts.starts.of(row.no)[0].run == start.run


def test_workflow_that_is_started_by_two_clicks(
    allowing: Served, played: PlayedGitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes while GitHub still thinks of the first."""
    body, dispatch, clicks = {"run_id": new_run_id()}, github.GitHub.dispatch, list[httpx.Response]()

    def click() -> None:
        clicks.append(httpx.post(f"{allowing.url}/api/v1/jobs/nightly/starts", json=body))

    def slow(self: github.GitHub, wanted: Dispatch) -> str:
        monkeypatch.setattr(github.GitHub, "dispatch", dispatch)
        click()
        return dispatch(self, wanted)

    monkeypatch.setattr(github.GitHub, "dispatch", slow)
    click()
    assert [(one.status_code, one.json()["state"]) for one in clicks] == [(201, "claimed"), (201, "started")]
    assert len(played.runs) == 1
