"""
Jobs on a server: synced, changed there, started once however many try, with sources that may be a stranger's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from pytest_supercheck.cli import main
from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import BadJob, SourceTrouble
from pytest_supercheck.jobs import Git, Job, decode_job
from pytest_supercheck.model import RunId, RunRequest, new_run_id
from supercheck_server.configuration import read_configuration
from supercheck_server.database import Database
from supercheck_server.github import Workflows
from supercheck_server.history import RunFilter
from supercheck_server.jobs import Jobs, UnknownJob
from supercheck_server.ledger import Ledger
from supercheck_server.repositories import JobsSection, Repositories
from supercheck_server.scheduler import Scheduler
from supercheck_server.settings import Settings
from supercheck_server.starter import Starter
from supercheck_server.starts import ABANDONED_MS, KEPT, Occasion, StartRow, Starts, State
from tests.conftest import Valkey
from tests.server.conftest import GUARD_S, NOON, Pool, Served, make_record, serving, wait_for
from tests.server.played_github import TOKEN, played_github

DAY_MS = 86_400_000

MANUAL = Occasion(trigger="job", user="ada")


class Clock:
    """A clock that a test moves."""

    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        """Ms since 1970."""
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    """The time of a test."""
    return Clock()


@pytest.fixture
def jobs(database: Database, clock: Clock) -> Jobs:
    """The jobs of an empty database."""
    return Jobs(database, now_ms=clock)


@pytest.fixture
def starts(database: Database, clock: Clock) -> Starts:
    """Its starts."""
    return Starts(database, now_ms=clock)


def make_job(jobs: Jobs, **definition: Any) -> int:
    """The number of a job `nightly` of the project `shop`, whose sources are elsewhere."""
    jobs.sync("shop", [(decode_job("nightly", {"source": {"git": "https://x/y"}, **definition}), None)])
    return jobs.find("nightly", "shop")[0].no


# -- definitions and what is changed here


def test_sync_tells_what_became_of_each_job(jobs: Jobs) -> None:
    """And leaves what is not in the file, unless told not to; other projects' jobs are none of its business."""
    a, b, c = (Job(name=name) for name in "abc")
    assert jobs.sync("shop", [(a, None), (b, None)]).added == ("a", "b")
    jobs.sync("bank", [(c, None)])
    told = jobs.sync("shop", [(replace(a, retries=1), None)])
    assert (told.changed, told.gone, told.pruned) == (("a",), ("b",), False)
    assert [row.name for row in jobs.known("shop")] == ["a", "b"]
    assert jobs.sync("shop", [(replace(a, retries=1), None)], prune=True).same == ("a",)
    assert [(row.project, row.name) for row in jobs.known()] == [("bank", "c"), ("shop", "a")]


def test_changes_are_kept_until_the_definition_changes(jobs: Jobs, database: Database) -> None:
    """Over a server's restarts; whether the job is enabled is kept for ever."""
    no = make_job(jobs, retries=1)
    jobs.override(no, {"executions": 3, "schedule": "0 2 * * *"})
    jobs.override(no, {"priority": "high"})
    jobs.enable(no, False)
    make_job(jobs, retries=1)
    [row] = Jobs(database).find("nightly")
    assert (row.job.executions, row.job.priority, row.job.schedule, row.enabled) == (3, "high", "0 2 * * *", False)
    assert (row.defined.executions, row.defined.priority) == (None, None)
    make_job(jobs, retries=2)
    [row] = jobs.find("nightly")
    assert (row.overrides, row.job, row.enabled) == ({}, row.defined, False)


def test_changes_can_be_taken_back(jobs: Jobs) -> None:
    """One by saying what the definition says, all at once by a word."""
    no = make_job(jobs, executions=2, schedule="0 2 * * *")
    jobs.override(no, {"executions": 3, "schedule": None, "retries": 1})
    assert jobs.override(no, {"executions": 2}).overrides == {"schedule": None, "retries": 1}
    assert jobs.override(no, {"retries": 3}, reset=True).overrides == {"retries": 3}


def test_senseless_changes_change_nothing(jobs: Jobs) -> None:
    """Also those beside them that make sense."""
    no = make_job(jobs)
    senseless: list[dict[str, Any]] = [{"executions": 3, "retries": 99}, {"args": []}, {"schedule": "0 99 * * *"}]
    for changes in senseless:
        with pytest.raises(BadJob):
            jobs.override(no, changes)
    assert jobs.find("nightly")[0].overrides == {}
    with pytest.raises(UnknownJob):
        jobs.override(no + 1, {})


def test_a_schedule_holds_from_when_it_was_changed(jobs: Jobs, clock: Clock) -> None:
    """Nothing is due that lies before: a new one, another one, one that was off."""
    no = make_job(jobs, schedule="0 2 * * *")
    assert jobs.plan(no, 5, since_ms=clock.now_ms)
    for change in (
        lambda: make_job(jobs, schedule="0 3 * * *"),
        lambda: jobs.override(no, {"schedule": "0 4 * * *"}),
        lambda: (jobs.enable(no, False), jobs.enable(no, True)),
    ):
        before = clock.now_ms
        clock.now_ms += 1000
        change()
        [row] = jobs.find("nightly")
        assert (row.since_ms, row.next_ms) == (clock.now_ms, None)
        assert not jobs.plan(no, 5, since_ms=before), "what was found out of another schedule does not count"
    jobs.override(no, {"retries": 1})
    clock.now_ms += 1000
    assert jobs.find("nightly")[0].since_ms == clock.now_ms - 1000


def test_a_job_that_cannot_be_read_keeps_no_other_away(jobs: Jobs, database: Database) -> None:
    """As for a time zone that this machine does not know."""
    make_job(jobs)
    jobs.sync("bank", [(Job(name="broken"), None)])
    with database.write() as connection:
        connection.execute(text("UPDATE jobs SET definition = :wrong WHERE project = 'bank'"), {"wrong": '{"x": 1}'})
    assert [row.name for row in jobs.known()] == [row.name for row in jobs.due(1 << 50)] == ["nightly"]
    with pytest.raises(BadJob, match="no such key"):
        jobs.find("broken")


# -- starts


def test_a_moment_has_one_start(jobs: Jobs, starts: Starts, database: Database) -> None:
    """However many servers try at the same time."""
    no = make_job(jobs)
    found: list[object] = []
    barrier = threading.Barrier(4)

    def claim() -> None:
        barrier.wait()
        found.append(starts.claim(no, 1000, Occasion(trigger="schedule")))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert len([one for one in found if one is not None]) == 1
    assert len(starts.of(no)) == 1


def test_an_abandoned_start_has_one_finder(jobs: Jobs, starts: Starts, clock: Clock) -> None:
    """Of those who see it; not before its time, and not while somebody is at it."""
    made = starts.claim(make_job(jobs), 1000, MANUAL)
    assert made is not None
    clock.now_ms += ABANDONED_MS
    assert starts.abandoned() == []
    renewed = starts.take(made)
    assert renewed is not None
    clock.now_ms += 1
    assert starts.abandoned() == []
    clock.now_ms += ABANDONED_MS
    [seen] = starts.abandoned()
    taken = starts.take(seen)
    assert taken is not None
    assert starts.take(seen) is None
    assert starts.abandoned() == []
    assert not starts.settle(renewed, "failed"), "it is another's now"
    assert starts.settle(taken, "started")
    assert starts.take(starts.of(made.job_no)[0]) is None, "there is nothing left to do"


def test_old_starts_go(jobs: Jobs, starts: Starts) -> None:
    """So that a job of every minute does not fill the disk."""
    no = make_job(jobs)
    for due_ms in range(KEPT + 3):
        starts.claim(no, due_ms, Occasion(trigger="schedule"), state="skipped")
    kept = starts.of(no, limit=2 * KEPT)
    assert (len(kept), kept[-1].due_ms) == (KEPT, 3)


def test_what_goes_on_does_not_go_however_old(jobs: Jobs, starts: Starts, clock: Clock) -> None:
    """Starts that wait, and those whose runs live; what became of a run long ago is not asked for ever."""
    no = make_job(jobs)
    states: tuple[State, ...] = ("claimed", "queued", "started")
    for due_ms, state in enumerate(states):
        starts.claim(no, due_ms, Occasion(trigger="schedule"), state=state)
    for due_ms in range(3, KEPT + 3):
        starts.claim(no, due_ms, Occasion(trigger="schedule"), state="skipped")
    assert {one.state for one in starts.unfinished(no)} == {"claimed", "queued", "started"}
    clock.now_ms += 2 * DAY_MS
    assert {one.state for one in starts.unfinished(no)} == {"claimed", "queued"}


@pytest.mark.parametrize(
    ("trigger", "verdict", "attempt", "after", "is_again"),
    [
        pytest.param("schedule", "lost", 1, "skipped", True, id="lost"),
        pytest.param("schedule", "fatal", 2, "failed", True, id="second"),
        pytest.param("schedule", "lost", 3, "skipped", False, id="third"),
        pytest.param("schedule", "failed", 1, "skipped", False, id="tests failed"),
        pytest.param("schedule", "lost", 1, "queued", False, id="another one waits"),
        pytest.param("schedule", "lost", 1, "started", False, id="another one goes on"),
        pytest.param("job", "lost", 1, "started", True, id="by hand"),
    ],
)
def test_what_is_started_once_more(
    jobs: Jobs, starts: Starts, database: Database,
    trigger: str, verdict: str, attempt: int, after: State, is_again: bool,
) -> None:  # fmt: skip
    """What machinery has failed, as often as the job says, and not beside the next one of its schedule."""
    job = make_job(jobs, retries=2)
    start = starts.claim(job, 1000, Occasion(trigger=trigger, user="ada", attempt=attempt))
    assert start is not None
    starts.settle(start, "started")
    starts.claim(job, 1001, Occasion(trigger="job"), state="skipped")
    starts.claim(job, 2000, Occasion(trigger=trigger), state=after)
    with database.write() as connection:
        assert starts.again(connection, start.run, verdict) == is_again
        assert not starts.again(connection, "another run", verdict)
    found = [(one.due_ms, one.trigger, one.user) for one in starts.of(job) if one.attempt == attempt + 1]
    assert found == [(1002, trigger, "ada")] * is_again


def test_what_is_off_is_not_started_once_more(jobs: Jobs, starts: Starts, database: Database) -> None:
    """Nor what its schedule has withdrawn."""
    job = make_job(jobs, retries=2)
    withdrawn, off = (starts.claim(job, due_ms, MANUAL) for due_ms in (1, 1000))
    assert withdrawn is not None
    assert off is not None
    starts.withdraw(withdrawn, "its job has been started again")
    starts.settle(off, "started")
    jobs.enable(job, on=False)
    with database.write() as connection:
        assert not any(starts.again(connection, one.run, "lost") for one in (withdrawn, off))


@pytest.mark.parametrize(("words", "kept"), [("git: \0", "git: \N{SYMBOL FOR NULL}"), ("\udcff", "?")])
def test_words_of_others_are_kept(jobs: Jobs, starts: Starts, words: str, kept: str) -> None:
    """Whatever git or a stranger's names of files have in them."""
    start = starts.claim(make_job(jobs), 1, MANUAL)
    assert start is not None
    assert starts.settle(start, "failed", reason=words)
    assert starts.of(start.job_no)[0].reason == kept


def test_figures_are_of_recorded_runs(jobs: Jobs, starts: Starts, database: Database) -> None:
    """How many, how many not passed, how long they take; and the last start, whatever became of it."""
    no = make_job(jobs)
    ledger = Ledger(database)
    for number, outcomes in enumerate(["PP", "PF", "PP"]):
        record = make_record(number, outcomes)
        took = timedelta(seconds=10 * (number + 1))
        summary = replace(record.summary, started_at=NOON, ended_at=NOON + took)
        record = replace(record, summary=summary)
        starts.claim(no, number, replace(MANUAL, run=summary.id), state="started")
        ledger.write(record, folder="f/", delivered=True)
    starts.claim(no, 99, Occasion(trigger="schedule"), state="skipped", reason="the run before it still runs")
    figures = starts.figures([no, no + 1])
    assert figures[no + 1].runs == 0
    found = figures[no]
    assert (found.runs, found.failures, found.mean_s) == (3, 1, 20.0)
    assert found.last is not None
    assert (found.last.state, found.last.reason) == ("skipped", "the run before it still runs")
    assert [one.verdict for one in starts.of(no)] == ["", "passed", "failed", "passed"]


# -- runs of repositories


def git(directory: Path, *words: str) -> str:
    """What git says there."""
    who = ["-c", "user.name=ada", "-c", "user.email=ada@example.org", "-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", *who, *words], cwd=directory, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a project of one test."""
    path = tmp_path / "repositories" / "shop"
    path.mkdir(parents=True)
    git(path, "init", "-q", "-b", "main")
    (path / "test_it.py").write_text("def test_it(): pass\n")
    (path / "conftest.py").write_text("import pathlib\npathlib.Path('/tmp/imported').touch()\nassert 0\n")
    (path / "pytest.ini").write_text("[pytest]\nsupercheck_group = file\nsupercheck_exclude = left.txt\n")
    (path / "left.txt").write_text("x")
    git(path, "add", "-A")
    git(path, "commit", "-qm", "one")
    return path


@pytest.fixture
def allowing(settings: Settings, repository: Path, tmp_path: Path) -> Iterator[Served]:
    """A server that may fetch what is beside the repository."""
    config = tmp_path / "server.toml"
    config.write_text(f'[jobs]\ngit = ["{repository.parent.as_uri()}/"]\n')
    with serving(replace(settings, config=config)) as made:
        yield made


def add_job(served: Served, name: str = "nightly", project: str = "shop", **definition: Any) -> None:
    """Bring a job to a server."""
    file = {"jobs": [{"name": name, "definition": definition}]}
    answer = httpx.put(f"{served.url}/api/v1/jobs", params={"project": project}, json=file)
    assert answer.status_code == 200, answer.text


def start(served: Served, name: str = "nightly", run: str = "") -> dict[str, Any]:
    """Start a job and wait until it is known what became of it."""
    address = f"{served.url}/api/v1/jobs/{name}/starts"
    answer = httpx.post(address, json={"run_id": run or new_run_id()})
    assert answer.status_code == 201, answer.text

    def look() -> dict[str, Any] | None:
        found = httpx.get(address).json()["starts"]
        one: dict[str, Any] = next(one for one in found if one["run"] == answer.json()["run"])
        return None if one["state"] == "claimed" else one

    wait_for(look, "the start is settled")
    settled = look()
    assert settled is not None
    return settled


def test_a_repository_becomes_a_run(allowing: Served, repository: Path, pool: Pool) -> None:
    """Of the commit that the branch has then; with what the project's ini file says of runs."""
    (repository / "new.txt").write_text("x")
    git(repository, "checkout", "-qb", "other")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "two")
    source = {"git": repository.as_uri(), "ref": "other"}
    add_job(
        allowing, source=source, args=["-k", "it"], executions=2, labels=["gpu"], priority="low", timeout=60, group="g"
    )
    made = start(allowing)
    assert (made["state"], made["trigger"], made["user"]) == ("started", "job", "local")
    details = pool.dispatcher.details(RunId(made["run"]))
    assert details is not None
    assert (details.project, details.priority, details.want) == ("shop", "low", 2)
    assert (details.labels, details.timeout_s, details.concurrency) == (("gpu",), 60, "g")
    spec = json.loads(details.spec)
    assert (spec["args"], spec["collect"], spec["group"], spec["rootdir"]) == (["-k", "it"], "remote", "file", "/shop")
    origin = spec["origin"]
    assert origin["commit"] == git(repository, "rev-parse", "HEAD")
    assert (origin["trigger"], origin["job"], origin["branch"]) == ("job", "nightly", "other")
    assert files_of(allowing, spec["source"]["bundle"]) == ["conftest.py", "new.txt", "pytest.ini", "test_it.py"]
    assert not Path("/tmp/imported").exists(), "nothing of it runs on the server"


def test_a_job_starts_by_its_schedule(allowing: Served, repository: Path, pool: Pool) -> None:
    """Nobody asks for it; its run can be looked at and cancelled, as the schedule's overlap may want."""
    soon = datetime.now(timezone.utc) + timedelta(seconds=5)  # a moment that has gone by when it comes would be none
    add_job(allowing, source={"git": repository.as_uri()}, schedule={"at": soon.isoformat()})
    [row] = allowing.parts.jobs.known()
    starts = allowing.parts.starts
    wait_for(lambda: [one for one in starts.of(row.no) if one.state == "started"], "it starts")
    [begun] = starts.of(row.no)
    assert begun.trigger == "schedule"
    assert [(run.run, run.priority) for run in pool.dispatcher.queue().runs] == [(begun.run, "low")]  # people go first
    assert allowing.parts.starter.is_live(begun)
    allowing.parts.starter.cancel(begun, "another one takes its place")
    assert not allowing.parts.starter.is_live(begun)


def files_of(served: Served, bundle: str) -> list[str]:
    """The files of a bundle of the project `shop`."""
    from pytest_supercheck.archive import project_folder
    from pytest_supercheck.packs import bundle_key, decode_located

    file = Path(served.parts.settings.store, bundle_key(project_folder("shop"), bundle))
    return [entry.path for entry in decode_located(file.read_bytes(), bundle).manifest.entries]


def test_a_strangers_repository_leads_nowhere(
    allowing: Served, repository: Path, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No link, filter, submodule or ini file of it has the server write, run or tell anything."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.ini").write_text("[pytest]\nsecret words\n")
    other = tmp_path / "repositories" / "other"
    other.mkdir()
    git(other, "init", "-q")
    (other / "x").touch()
    git(other, "add", "-A")
    git(other, "commit", "-qm", "x")
    (tmp_path / "gitconfig").write_text(f'[filter "evil"]\nsmudge = touch {outside}/ran\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    (repository / "pytest.ini").unlink()
    (repository / "pytest.ini").symlink_to(outside / "secret.ini")
    (repository / ".supercheck").symlink_to(outside)
    (outside / "server.toml").write_text('[project]\nname = "words"\n')
    (repository / "pyproject.toml").symlink_to(outside / "server.toml")
    (repository / ".env").symlink_to(outside)
    (repository / "pytest.toml").write_text('[pytest]\nsupercheck_include = [".env/*"]\n')
    (repository / ".gitattributes").write_text("*.py filter=evil\n")
    git(repository, "submodule", "--quiet", "add", str(other), "sub")
    git(repository, "add", "-Af")
    git(repository, "commit", "-qm", "evil")
    before = sorted(one.name for one in outside.iterdir())
    add_job(allowing, source={"git": repository.as_uri()})
    made = start(allowing)
    assert made["state"] == "started", made
    assert sorted(one.name for one in outside.iterdir()) == before
    details = pool.dispatcher.details(RunId(made["run"]))
    assert details is not None
    files = files_of(allowing, json.loads(details.spec)["source"]["bundle"])
    assert not [path for path in files if path.startswith(("sub", ".supercheck", "pytest.ini", ".env", "pyproject"))]
    assert '"words"' not in details.spec


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/shop",
        "file:///etc/",
        "ssh://-oProxyCommand=touch/x",
        "file://{parent}/../other",
        "file://{parent}/%2e%2e/other",
        "file://{parent}x/shop",
    ],
)
def test_only_what_the_operator_allows_is_fetched(tmp_path: Path, url: str) -> None:
    """By the beginning of the address, to which nothing leads back."""
    repositories = Repositories(JobsSection(git=(f"{tmp_path.as_uri()}/",)), tmp_path)
    with pytest.raises(SourceTrouble, match=r"does not fetch from .* in \[jobs\] of the configuration"):
        repositories.check(url.replace("{parent}", str(tmp_path)))
    repositories.check(f"{tmp_path.as_uri()}/shop.git")


def test_a_repository_that_cannot_be_fetched_is_told(allowing: Served, repository: Path, pool: Pool) -> None:
    """In the history of the job, with git's words."""
    add_job(allowing, source={"git": f"{repository.as_uri()}-not"})
    failed = start(allowing)
    assert failed["state"] == "failed"
    assert failed["reason"].startswith("git fetch failed: ")
    add_job(allowing, source={"git": repository.as_uri(), "ref": "no-such"})
    assert "no-such" in start(allowing)["reason"]
    assert pool.dispatcher.queue().runs == ()


def test_large_repositories_are_refused(
    allowing: Served, repository: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before they are checked out."""
    monkeypatch.setattr("supercheck_server.repositories.LIMIT_BYTES", 40_000)
    (repository / "large").write_bytes(b"x" * 50_000)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "large")
    add_job(allowing, source={"git": repository.as_uri()})
    assert "is too large: 0.1 MB in 5 files" in start(allowing)["reason"]


# -- starts become runs


def test_the_same_run_is_one_start(allowing: Served, repository: Path, pool: Pool) -> None:
    """A client whose answer got lost asks again."""
    add_job(allowing, source={"git": repository.as_uri()})
    run = new_run_id()
    assert start(allowing, run=run)["no"] == start(allowing, run=run)["no"]
    assert [one.run for one in pool.dispatcher.queue().runs] == [run]
    add_job(allowing, "other", source={"git": repository.as_uri()})
    # Both are of the same project, so that the gate lets it in.
    answer = httpx.post(f"{allowing.url}/api/v1/jobs/other/starts", json={"run_id": run})
    assert (answer.status_code, "taken" in answer.text) == (409, True)


def look_later(served: Served, now_ms: int) -> None:
    """Another server looks, some time later, and does what it finds."""
    parts, clock = served.parts, Clock(now_ms)
    jobs, starts = Jobs(parts.database, now_ms=clock), Starts(parts.database, now_ms=clock)
    starter = Starter(
        jobs=jobs,
        starts=starts,
        dispatcher=parts.dispatcher,
        bundles=parts.bundles,
        repositories=Repositories(parts.configuration.jobs, parts.settings.data / "fetched"),
        workflows=Workflows(parts.github, starts),
        now_ms=clock,
    )
    with closing(Scheduler(jobs, starts, starter, now_ms=clock)) as scheduler:
        wait(scheduler.tick(), GUARD_S)


def test_what_a_dead_server_has_left_is_finished_once(
    allowing: Served, repository: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it had been submitted or not, and whoever else sees it."""
    add_job(allowing, source={"git": repository.as_uri()})
    parts = allowing.parts
    row = parts.jobs.find("nightly")[0]
    claimed = parts.starter.now(row, MANUAL)[0]
    submitted = parts.starter.now(row, MANUAL)[0]
    parts.starter.submit(submitted)
    with parts.database.write() as connection:
        connection.exec_driver_sql("UPDATE starts SET state = 'claimed'")
    fetch, fetched = Repositories.fetch, list[str]()

    def counted(self: Repositories, source: Git, *more: Any) -> str:
        fetched.append(source.git)
        return fetch(self, source, *more)

    monkeypatch.setattr(Repositories, "fetch", counted)
    now_ms = claimed.claimed_ms + ABANDONED_MS + 60_000
    with ThreadPoolExecutor(3) as servers:
        list(servers.map(lambda _: look_later(allowing, now_ms), range(3)))
    assert len(fetched) == 1
    assert sorted(one.run for one in pool.dispatcher.queue().runs) == sorted([claimed.run, submitted.run])
    assert {one.state for one in parts.starts.of(row.no)} == {"started"}


def test_who_comes_late_to_a_start_changes_nothing(allowing: Served, repository: Path, pool: Pool) -> None:
    """Another server has made its run meanwhile: also where it could not be made any more."""
    add_job(allowing, source={"git": repository.as_uri()})
    parts = allowing.parts
    seen = parts.starter.now(parts.jobs.find("nightly")[0], MANUAL)[0]
    look_later(allowing, seen.claimed_ms + ABANDONED_MS + 60_000)
    repository.rename(repository.with_name("gone"))
    assert parts.starter.submit(seen).state == "started"


def test_a_run_that_a_dead_server_has_submitted_is_not_made_again(
    allowing: Served, repository: Path, pool: Pool
) -> None:
    """Nothing is fetched for it, which could fail."""
    add_job(allowing, source={"git": repository.as_uri()})
    parts = allowing.parts
    made = parts.starter.submit(parts.starter.now(parts.jobs.find("nightly")[0], MANUAL)[0])
    with parts.database.write() as connection:
        connection.exec_driver_sql("UPDATE starts SET state = 'claimed'")
    repository.rename(repository.with_name("gone"))
    look_later(allowing, made.claimed_ms + ABANDONED_MS + 60_000)
    assert [one.state for one in parts.starts.of(made.job_no)] == ["started"]


def test_a_start_that_is_taken_on_meanwhile_is_left(
    allowing: Served, repository: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever fetches its files finds that out before submitting."""
    add_job(allowing, source={"git": repository.as_uri()})
    parts = allowing.parts
    fetch = Repositories.fetch

    def slow(self: Repositories, source: Git, tree: Path, pulse: Callable[[], None]) -> str:
        pulse()
        assert parts.starts.take(parts.starts.of(made.job_no)[0])
        return fetch(self, source, tree, pulse)

    monkeypatch.setattr(Repositories, "fetch", slow)
    made = parts.starter.now(parts.jobs.find("nightly")[0], MANUAL)[0]
    assert parts.starter.submit(made).state == "claimed"
    assert pool.dispatcher.queue().runs == ()


def test_deep_repository_leaves_nothing_behind(allowing: Served, repository: Path, pool: Pool) -> None:
    """Deeper than Python's own functions go."""
    deep = "a/" * 1500
    commit = f"commit refs/heads/deep\ncommitter a <a@x> 0 +0000\ndata 0\nM 644 inline {deep}f\ndata 1\nx\n"
    subprocess.run(["git", "fast-import", "--quiet"], cwd=repository, input=commit.encode(), check=True)
    add_job(allowing, source={"git": repository.as_uri(), "ref": "deep"})
    made = start(allowing)
    assert "fault" not in made["reason"]
    assert list((allowing.parts.settings.data / "fetched").iterdir()) == []


def test_what_a_killed_server_has_fetched_goes(allowing: Served, repository: Path, pool: Pool) -> None:
    """One day; what others are just fetching stays."""
    add_job(allowing, source={"git": repository.as_uri()})
    scratch = allowing.parts.settings.data / "fetched"
    left, others = scratch / "left", scratch / "others"
    for directory in (left, others):
        (directory / "tree").mkdir(parents=True)
    os.utime(left, (0, 0))
    assert start(allowing)["state"] == "started"
    assert list(scratch.iterdir()) == [others]


def test_server_that_ends_leaves_what_it_fetches_to_others(
    allowing: Served, repository: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for slow repositories."""
    add_job(allowing, source={"git": repository.as_uri()})
    parts = allowing.parts
    fetch, begun = Repositories.fetch, threading.Event()

    def slow(self: Repositories, source: Git, tree: Path, pulse: Callable[[], None]) -> str:
        begun.set()
        while True:
            pulse()
            time.sleep(0.01)

    monkeypatch.setattr(Repositories, "fetch", slow)
    made = parts.starter.now(parts.jobs.find("nightly")[0], MANUAL)[0]
    parts.scheduler.begin(parts.jobs.find("nightly")[0], made)
    assert begun.wait(GUARD_S)
    parts.scheduler.close()
    [left] = parts.starts.of(made.job_no)
    assert left.state == "claimed"
    monkeypatch.setattr(Repositories, "fetch", fetch)
    look_later(allowing, left.claimed_ms + ABANDONED_MS + 1)
    assert [one.state for one in parts.starts.of(made.job_no)] == ["started"]


def test_a_start_that_is_withdrawn_while_it_is_submitted(
    allowing: Served, repository: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run ends."""
    add_job(allowing, source={"git": repository.as_uri()})
    parts = allowing.parts
    submit = Dispatcher.submit

    def slow(self: Dispatcher, request: RunRequest) -> object:
        assert parts.starts.withdraw(made, "its job has been started again")
        return submit(self, request)

    monkeypatch.setattr(Dispatcher, "submit", slow)
    made = parts.starter.now(parts.jobs.find("nightly")[0], MANUAL)[0]
    assert parts.starter.submit(made).state == "skipped"
    wait_for(lambda: not parts.starter.is_live(made), "it ends")


def end(served: Served, pool: Pool, start: StartRow, outcome: str) -> None:
    """Its run ends so, and is recorded."""
    pool.dispatcher.cancel(start.run, outcome=outcome, how="kill")
    wait_for(lambda: (served.parts.starts.by_run(start.run) or start).verdict == outcome, "the run is recorded")


def test_a_run_that_machinery_failed_is_started_once_more(allowing: Served, repository: Path, pool: Pool) -> None:
    """As often as the job says, and not one that somebody has ended."""
    add_job(allowing, source={"git": repository.as_uri()}, retries=1)
    parts = allowing.parts
    row = parts.jobs.find("nightly")[0]
    made = [parts.starter.submit(parts.starter.now(row, MANUAL)[0]) for _ in range(2)]
    for start, verdict in zip(made, ("cancelled", "lost"), strict=True):
        end(allowing, pool, start, verdict)
    [again] = [one for one in parts.starts.of(row.no) if one.attempt == 2]
    assert (again.state, again.trigger, again.reason) == ("claimed", "job", f"run {made[1].run} was lost")
    look_later(allowing, again.claimed_ms + ABANDONED_MS + 1)
    assert [run.run for run in pool.dispatcher.queue().runs] == [again.run]
    end(allowing, pool, again, "lost")
    assert [one.attempt for one in parts.starts.of(row.no)].count(2) == 1
    assert len(parts.starts.of(row.no)) == 3


@pytest.mark.parametrize("state", ["failed", "withdrawn"])
def test_the_run_before_is_told_when_it_is_not_made_once_more(
    jobs: Jobs, database: Database, clock: Clock, state: str
) -> None:
    """Nobody has been told of it, because it was to be."""
    told: list[str] = []
    starts = Starts(database, now_ms=clock, note=lambda _, run: told.append(run))
    first = starts.claim(make_job(jobs, retries=3), 1000, MANUAL)
    assert first is not None
    starts.settle(first, "started")
    before = first
    for attempt in (2, 3):
        with database.write() as connection:
            assert starts.again(connection, before.run, "lost")
        [again] = [one for one in starts.of(first.job_no) if one.state == "claimed"]
        if attempt == 2:
            assert starts.settle(again, "started")
            assert told == []
            before = again
        elif state == "failed":
            assert starts.settle(again, "failed")
        else:
            assert starts.withdraw(again, "its job has been started again")
    assert told == [before.run]


def test_starts_by_hand_keep_nobody_from_the_pages(
    allowing: Served, repository: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many wait for repositories that are slow."""
    add_job(allowing, source={"git": repository.as_uri()})
    answers = threading.Event()

    def slow(*_: object) -> str:
        assert answers.wait(GUARD_S)
        raise SourceTrouble("it does not answer")

    monkeypatch.setattr(Repositories, "fetch", slow)
    try:
        for _ in range(50):  # more than there are threads for requests
            answer = httpx.post(f"{allowing.url}/api/v1/jobs/nightly/starts", json={"run_id": new_run_id()})
            assert answer.json()["state"] == "claimed"
        assert httpx.get(f"{allowing.url}/api/v1/jobs").status_code == 200
    finally:
        answers.set()
    starts, [job] = allowing.parts.starts, allowing.parts.jobs.known()
    wait_for(lambda: {one.state for one in starts.of(job.no)} == {"failed"}, "all are settled")


def test_a_full_queue_is_told_to_who_waits(allowing: Served, repository: Path, pool: Pool) -> None:
    """And a start of the schedule is tried again, for a while."""
    add_job(allowing, source={"git": repository.as_uri()})
    pool.dispatcher.limits(running=1, queued=0)
    pool.submit("r1")
    parts = allowing.parts
    row = parts.jobs.find("nightly")[0]
    failed = start(allowing)
    assert (failed["state"], "queue is full" in failed["reason"]) == ("refused", True)
    scheduled = parts.starts.claim(row.no, 1 << 50, Occasion(trigger="schedule"))
    assert scheduled is not None
    scheduled = parts.starter.submit(scheduled)
    assert scheduled.state == "claimed"
    pool.dispatcher.limits(running=1, queued=5)
    assert parts.starter.submit(scheduled).state == "started"
    assert parts.starter.is_live(scheduled)
    parts.starter.cancel(scheduled, "another one begins")
    wait_for(lambda: not parts.starter.is_live(scheduled), "it ends")


# -- bundles, over the command line


@dataclass
class Checkout:
    """A project here, and the command line there."""

    path: Path
    url: str

    def run(self, *words: str, code: int = 0, **environ: str) -> Result:
        """A command of `supercheck jobs`."""
        before = os.getcwd()
        os.chdir(self.path)
        try:
            done = CliRunner(env={"SUPERCHECK_URL": self.url, **environ}).invoke(main, ["jobs", *words])
        finally:
            os.chdir(before)
        assert done.exit_code == code, done.output
        return done

    def write(self, text: str) -> None:
        """The file of jobs."""
        (self.path / "supercheck.toml").write_text(text)


@pytest.fixture
def checkout(tmp_path: Path, served: Served) -> Checkout:
    """A project with two jobs."""
    path = tmp_path / "shop"
    path.mkdir()
    (path / "test_it.py").write_text("def test_it(): pass\n")
    made = Checkout(path, served.url)
    made.write("[jobs.nightly]\nschedule = '0 2 * * *'\n[jobs.smoke]\nargs = ['-k', 'smoke']\n")
    return made


def test_commands_bring_show_and_change_jobs(checkout: Checkout, pool: Pool, served: Served) -> None:
    """The whole way, as a person goes it."""
    assert checkout.run("check").output == "2 jobs: nightly, smoke\n"
    assert checkout.run("sync").output == "added   shop/nightly\nadded   shop/smoke\n"
    assert "shop/nightly  on  0 2 * * * (UTC), next 20" in checkout.run("list").output
    assert "shop/smoke  on  by hand; never started" in checkout.run("list").output
    run = checkout.run("run", "smoke").output.strip()
    details = pool.dispatcher.details(RunId(run))
    assert details is not None
    assert json.loads(details.spec)["args"] == ["-k", "smoke"]
    assert run in checkout.run("history", "smoke").output
    assert checkout.run("disable", "nightly").output == "shop/nightly  off  0 2 * * * (UTC)\n"
    httpx.patch(f"{served.url}/api/v1/jobs/nightly", json={"overrides": {"executions": 3}})
    shown = checkout.run("show", "nightly").output
    assert "shop/nightly, disabled\n" in shown
    assert "executions: 3 (changed here)" in shown
    checkout.write("[jobs.nightly]\nschedule = '0 3 * * *'\n")
    assert checkout.run("sync").output == (
        "changed shop/nightly\ngone    shop/smoke: not in the file; --prune removes it\n"
    )
    assert "shop/nightly, disabled\n" in checkout.run("show", "nightly").output
    assert "executions" not in checkout.run("show", "nightly").output
    assert checkout.run("enable", "nightly").output.startswith("shop/nightly  on  0 3 * * * (UTC), next 20")
    assert "gone    shop/smoke: removed" in checkout.run("sync", "--prune").output
    assert "There is no such job. 'supercheck jobs list' lists" in checkout.run("show", "smoke", code=2).output


def test_who_cannot_be_told_is_said_when_it_is_synced(checkout: Checkout, pool: Pool) -> None:
    """The server alone knows whom it can tell; the job is there all the same."""
    checkout.write("[jobs.nightly]\nnotify = [{to = 'teem', on = 'failure'}]\n")
    done = checkout.run("sync")
    assert done.stdout == "added   shop/nightly\n"
    assert done.stderr == "shop: nobody is told as 'teem': the server has no [notify.teem]\n"


def test_who_may_bring_what_the_file_names_alone(checkout: Checkout, pool: Pool, served: Served) -> None:
    """The directory's own project is asked for nothing where no job is of it."""
    _, secret = served.parts.access.create("ci", project="bank")
    checkout.write("[jobs.nightly]\nproject = 'bank'\n")
    assert checkout.run("sync", "--prune", SUPERCHECK_TOKEN=secret).output == "added   bank/nightly\n"
    checkout.write("[jobs]\n")
    assert "shop" in checkout.run("sync", "--prune", SUPERCHECK_TOKEN=secret, code=69).output


def test_what_is_wrong_in_the_file_is_told_before_anything_is_sent(checkout: Checkout) -> None:
    """With its line; the same by both commands."""
    checkout.write("[jobs.nightly]\nargz = []\n")
    for command in ("check", "sync"):
        assert "supercheck.toml:2: jobs.nightly.argz: there is no such key; is it args?" in (
            checkout.run(command, code=2).output
        )
    assert checkout.run("list").output == ""


def test_a_bundle_stays_as_long_as_a_job_has_it(checkout: Checkout, pool: Pool, served: Served) -> None:
    """However long ago it was brought; it goes with the job."""
    checkout.run("sync")
    parts = served.parts
    [bundle] = parts.jobs.bundles()
    now_ms = 2_000_000_000_000 + 100 * DAY_MS
    parts.bundles.sweep(now_ms)
    assert parts.bundles.ask("shop", bundle, b"")[0] == "ready"
    checkout.write("")
    checkout.run("sync", "--prune")
    parts.bundles.sweep(now_ms)
    assert parts.bundles.ask("shop", bundle, b"")[0] == "unknown"


def test_a_full_queue_is_75_wherever_the_files_are(
    checkout: Checkout, repository: Path, allowing: Served, pool: Pool
) -> None:
    """Also where the start is answered before it is submitted; what else goes wrong is 70."""
    checkout.url = allowing.url
    checkout.run("sync")
    add_job(allowing, "fetched", source={"git": repository.as_uri()})
    add_job(allowing, "absent", source={"git": f"{repository.as_uri()}-absent"})
    pool.dispatcher.limits(running=1, queued=0)
    pool.submit("r1")
    for name in ("smoke", "fetched"):
        for words in ([name], [name, "--wait"]):
            assert "queue is full" in checkout.run("run", *words, code=75).output
        assert "refused" in checkout.run("history", name).output
    assert "absent was not started (failed)" in checkout.run("run", "absent", code=70).output


def test_a_workflow_is_no_run(
    checkout: Checkout, settings: Settings, tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is waited for, and no run is named that nobody has; its page is, once GitHub has told it."""
    monkeypatch.setenv("SUPERCHECK_GITHUB_TOKEN", TOKEN)
    config = tmp_path / "server.toml"
    with played_github() as played:
        config.write_text(f'[github]\napi = "{played.url}"\nrepositories = {{shop = ["acme/shop"]}}\n')
        with serving(replace(settings, config=config)) as served:
            checkout.url = served.url
            add_job(served, dispatch={"repository": "acme/shop", "workflow": "x.yml"})
            assert "is a workflow of GitHub" in checkout.run("run", "nightly", "--wait", code=2).output
            assert played.runs == []
            done = checkout.run("run", "nightly")
            [start] = served.parts.starts.of(served.parts.jobs.find("nightly")[0].no)
            assert (done.stdout, start.state) == ("", "started")
            assert "GitHub has not said where nightly runs" in done.stderr
            history = checkout.run("history", "nightly").output
            assert ("no page known" in history, start.run in history) == (True, False)
            url = played.runs[0]["html_url"]
            served.parts.starts.note_page(start.no, url)
            assert url in checkout.run("history", "nightly").output


def test_a_job_without_its_bundle_says_so(checkout: Checkout, pool: Pool, served: Served) -> None:
    """As when somebody has emptied the store."""
    checkout.run("sync")
    with served.parts.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM bundles")
    assert "sync it once more" in checkout.run("run", "smoke", code=70).output


def test_definitions_from_the_net_are_checked(served: Served, pool: Pool) -> None:
    """As those from a file: nothing of it is kept when one makes no sense."""
    good = {"name": "a", "definition": {"source": {"git": "https://x/y"}}}
    senseless: Sequence[tuple[Any, str]] = [
        ({"name": "b", "definition": {"argz": []}}, "is it args"),
        ({"name": "../b", "definition": {}}, "a job's name has"),
        ({"name": "b", "definition": {}}, "needs the spec"),
        ({"name": "b", "definition": {}, "spec": {"source": "x"}}, "needs the spec"),
        ({"name": "b", "definition": {"project": "bank"}}, "of the project 'bank'"),
        (
            {
                "name": "b",
                "definition": {},
                "spec": {"argv": [], "origin": {}, "source": {"bundle": "0" * 64, "root": "/"}},
            },
            "bring its bundle first",
        ),
        ({"name": "b", "definition": {"args": ["x" * 10_000] * 100}}, "too much of it"),
        (good, "same name"),
    ]
    for one, words in senseless:
        answer = httpx.put(f"{served.url}/api/v1/jobs", params={"project": "shop"}, json={"jobs": [good, one]})
        assert (answer.status_code, words in answer.text) == (400, True), answer.text
    assert served.parts.jobs.known() == []


def test_text_that_no_answer_can_have_is_refused(served: Served, pool: Pool) -> None:
    """So that the others' jobs can still be listed."""
    file = '{"jobs": [{"name": "a", "definition": {"source": {"git": "https://x/y"}, "args": ["\\ud800"]}}]}'
    headers = {"Content-Type": "application/json"}
    answer = httpx.put(f"{served.url}/api/v1/jobs", params={"project": "shop"}, content=file, headers=headers)
    assert (answer.status_code, "it must be text" in answer.text) == (400, True)
    assert httpx.get(f"{served.url}/api/v1/jobs").json() == {"jobs": []}


def test_a_name_of_several_projects_needs_one(served: Served, pool: Pool) -> None:
    """Which one is meant; a token that is for one project has no such trouble."""
    for project in ("shop", "bank"):
        add_job(served, project=project, source={"git": "https://x/y"})
    answer = httpx.get(f"{served.url}/api/v1/jobs/nightly")
    assert (answer.status_code, "bank, shop" in answer.text) == (409, True)
    assert httpx.get(f"{served.url}/api/v1/jobs/nightly?project=bank").json()["project"] == "bank"
    _, secret = served.parts.access.create("shop", project="shop")
    headers = {"Authorization": f"Bearer {secret}"}
    assert httpx.get(f"{served.url}/api/v1/jobs/nightly", headers=headers).json()["project"] == "shop"
    assert httpx.get(f"{served.url}/api/v1/jobs/nightly?project=bank", headers=headers).status_code == 404


def test_forms_of_a_page_start_and_change_a_job(served: Served, checkout: Checkout, pool: Pool) -> None:
    """What is not changed in them stays; who presses twice starts once."""
    checkout.write("[jobs.nightly]\nschedule = {cron = '0 2 * * *', overlap = 'queue'}\nexecutions = 2\n")
    checkout.run("sync")
    with httpx.Client(base_url=served.url, follow_redirects=True) as browser:

        def press(form: str, **changes: str) -> httpx.Response:
            page = browser.get("/jobs/nightly?project=shop").text
            token = re.search(r'name="form-token" content="([^"]+)"', page)
            assert token
            shown = dict(
                re.findall(r'name="(schedule|timezone|executions|timeout|retries)"[^>]* value="([^"]*)"', page)
            )
            fields = {"form_token": token[1], "priority": "", **shown, **changes}
            return browser.post(f"/jobs/nightly/{form}?project=shop", data=fields)

        def job() -> Job:
            return served.parts.jobs.find("nightly")[0].job

        before = job()
        assert press("overrides").status_code == 200
        assert (job(), served.parts.jobs.find("nightly")[0].overrides) == (before, {})
        press("overrides", schedule="15 min", executions="", retries="2")
        assert (job().schedule, job().executions, job().retries) == ({"every": "15 min", "overlap": "queue"}, None, 2)
        press("overrides", schedule="30 4 * * 1", timezone="Asia/Tokyo")
        changed = {"cron": "30 4 * * 1", "overlap": "queue", "timezone": "Asia/Tokyo"}
        assert job().schedule == changed
        for wrong in (
            {"schedule": "0 99 * * *"},
            {"executions": "many"},
            {"priority": "x"},
            {"timezone": "Mars/Crater"},
        ):
            assert press("overrides", **wrong).status_code == 400, wrong
        assert job().schedule == changed
        assert "30 4 * * 1 (Asia/Tokyo)" in browser.get("/jobs").text
        press("overrides", reset="true")
        assert job() == before
        press("enabled", on="false")
        assert not served.parts.jobs.find("nightly")[0].enabled
        run = new_run_id()
        for _ in range(2):
            assert run in press("starts", run_id=run).text
        assert [(one.run, one.priority) for one in pool.dispatcher.queue().runs] == [(run, "normal")]
        pool.dispatcher.limits(running=1, queued=0)
        assert press("starts", run_id=new_run_id()).status_code == 429
        assert browser.post("/jobs/nightly/starts?project=shop", data={"run_id": "x"}).status_code == 403


def test_configuration_says_what_may_be_fetched(tmp_path: Path) -> None:
    """Addresses that end where a name ends."""
    file = tmp_path / "server.toml"
    file.write_text('[jobs]\ngit = ["https://github.com/acme/"]\ngit-config = "/etc/supercheck/git"\n')
    section = read_configuration(file).jobs
    assert (section.git, section.git_config) == (("https://github.com/acme/",), Path("/etc/supercheck/git"))
    for wrong in ("https://github.com/acme", "http://github.com/acme/", "ext::x/"):
        file.write_text(f'[jobs]\ngit = ["{wrong}"]\n')
        with pytest.raises(ValueError, match=r"jobs\.git\.0"):
            read_configuration(file)


# -- the shop, by hand


@pytest.fixture
def worker(served: Served, valkey_server: Valkey, tmp_path: Path, pool: Pool) -> Iterator[None]:
    """A worker that knows nothing of any project."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SUPERCHECK_")}
    environ |= {"SUPERCHECK_CACHE": str(tmp_path / "cache"), "SUPERCHECK_STORE": served.parts.settings.store}
    words = ["-m", "pytest_supercheck.cli", "worker", "--url", valkey_server.url, "-c", "2"]
    process = subprocess.Popen([sys.executable, *words], cwd=tmp_path, env=environ)
    yield
    process.terminate()
    process.wait(GUARD_S)


@pytest.mark.slow
def test_a_job_of_the_shop_runs_from_its_sync_to_its_record(served: Served, worker: None, tmp_path: Path) -> None:
    """`run --wait` ends as pytest does; the history tells of it."""
    shop = Checkout(tmp_path / "shop", served.url)
    shutil.copytree(Path("examples/shop"), shop.path, ignore=shutil.ignore_patterns(".supercheck", "__pycache__"))
    assert shop.run("sync").stdout == "added   shop/nightly\nadded   shop/catalogue\n"
    words = ["jobs", "run", "catalogue", "--wait", "--", "-p", "no:cacheprovider"]
    environ = {**os.environ, "SUPERCHECK_URL": served.url, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    # The plugin of anyio, which the client of servers brings along, is in everybody's environment.
    command = [sys.executable, "-m", "pytest_supercheck.cli", *words, "-p", "supercheck", "-p", "anyio"]
    done = subprocess.run(command, cwd=shop.path, env=environ, capture_output=True, text=True, timeout=2 * GUARD_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed, \d+ deselected in ", done.stdout), done.stdout

    def recorded() -> bool:
        return served.parts.starts.of(served.parts.jobs.find("catalogue")[0].no)[0].verdict == "passed"

    wait_for(recorded, "the run is recorded")
    assert re.search(r"last .* passed; 1 run, 0 failed, ", shop.run("list").output)
    [row] = served.parts.history.runs(RunFilter())
    assert (row.trigger, row.user, row.project) == ("job", "local", "shop")
