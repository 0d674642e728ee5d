"""
Jobs as a file defines them: what is read, and where is told what is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_supercheck.errors import BadJob
from pytest_supercheck.job_file import find_jobs, read_jobs
from pytest_supercheck.jobs import Dispatch, Git, Job, Subscription, decode_job

WHOLE = """\
[jobs.nightly]
project = "shop"
source = {git = "https://github.com/acme/shop", ref = "main"}
args = [
    "tests/browser",
    "-x",
]
executions = 4
labels = ["gpu"]
priority = "low"
timeout = 600
retries = 2
group = "browser"
group-limit = 2
cancel-in-progress = true
schedule = {cron = "0 2 * * *", timezone = "Europe/Berlin", overlap = "queue", catch-up = 3600}
notify = [{to = "team"}, {to = "boss", on = "first-failure"}]
env = "inherit"
python = "3.12"

[jobs.release]
dispatch = {repository = "acme/shop", workflow = "release.yml", inputs = {dry-run = "yes"}}
"""


def read(directory: Path, text: str, name: str = "supercheck.toml") -> list[Job]:
    """The jobs of a file with that text."""
    file = directory / name
    file.write_text(text)
    return read_jobs(file)


def test_every_key_is_read(tmp_path: Path) -> None:
    """As what it means."""
    nightly, release = read(tmp_path, WHOLE)
    assert nightly == Job(
        name="nightly",
        project="shop",
        source=Git(git="https://github.com/acme/shop", ref="main"),
        args=("tests/browser", "-x"),
        executions=4,
        labels=("gpu",),
        priority="low",
        timeout=600,
        retries=2,
        group="browser",
        group_limit=2,
        cancel_in_progress=True,
        schedule={"cron": "0 2 * * *", "timezone": "Europe/Berlin", "overlap": "queue", "catch-up": 3600},
        notify=(Subscription(to="team"), Subscription(to="boss", on="first-failure")),
        env="inherit",
        python="3.12",
    )
    assert release.dispatch == Dispatch(repository="acme/shop", workflow="release.yml", inputs={"dry-run": "yes"})


def test_a_job_is_the_same_after_its_way_as_json(tmp_path: Path) -> None:
    """And what is not said is not sent."""
    for job in read(tmp_path, WHOLE):
        assert decode_job(job.name, job.encode()) == job
    assert Job(name="a").encode() == {}


def test_pyproject_has_jobs_too(tmp_path: Path) -> None:
    """In a table of its own; a file of ours wins."""
    text = '[project]\nname = "shop"\n[tool.supercheck.jobs.smoke]\nargs = ["-k", "smoke"]\n'
    assert [job.name for job in read(tmp_path, text, "pyproject.toml")] == ["smoke"]
    assert find_jobs(tmp_path).name == "pyproject.toml"
    read(tmp_path, "")
    assert find_jobs(tmp_path).name == "supercheck.toml"


def test_a_directory_without_jobs_is_told_so(tmp_path: Path) -> None:
    """Also one whose pyproject.toml is about other things."""
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\n")
    with pytest.raises(BadJob, match="has no jobs"):
        find_jobs(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[jobs.a]\n\nargz = []", "supercheck.toml:3: jobs.a.argz: there is no such key; is it args?"),
        ("[job.a]", "supercheck.toml:1: job: there is no such key; is it jobs?"),
        ("[jobs.a]\nargs = [\n  'x',\n  3,\n]", "supercheck.toml:2: jobs.a.args.1: it must be text of 1 to 10000"),
        ("[jobs.a]\n# why\n\nexecutions = 0\n", "supercheck.toml:4: jobs.a.executions: it must be a whole number"),
        ("[jobs.a]\nexecutions = true", "supercheck.toml:2: jobs.a.executions: it must be a whole number"),
        ("[jobs.a]\ntimeout = nan", "supercheck.toml:2: jobs.a.timeout: it must be a whole number"),
        ("[jobs.a]\n[jobs.b.source]\nref = 'x'", "supercheck.toml:2: jobs.b.source: git is missing"),
        ("[jobs.a]\nsource.git='ext::sh -c x'", "supercheck.toml:2: jobs.a.source.git: 'ext::sh -c x' is no address"),
        ("[jobs.a]\nsource={git='https://x/y',ref='-o'}", "supercheck.toml:2: jobs.a.source.ref: '-o' is no branch"),
        ("[jobs.a]\nsource={git='https://x/y',ref='a..b'}", "supercheck.toml:2: jobs.a.source.ref: 'a..b' is no"),
        ("[jobs.a]\n[[jobs.a.notify]]\nto='x'\non='never'", "supercheck.toml:4: jobs.a.notify.0.on: it must be one of"),
        ("[jobs.a]\nargs = ['--supercheck-env=uv']", "supercheck.toml:2: jobs.a.args: --supercheck-env=uv: a job has"),
        (
            "[jobs.a]\nnotify='x'",
            "supercheck.toml:2: jobs.a.notify: it must be a list of at most 20 tables such as {to = ",
        ),
        ("[jobs.a]\ncancel-in-progress = true", "supercheck.toml:1: jobs.a: group is missing"),
        ("[jobs.'-a']", "supercheck.toml:1: jobs.-a: a job's name has"),
        ("jobs = 3", "supercheck.toml:1: jobs: it must be a table of jobs"),
        ("[jobs]\na = 3", "supercheck.toml:2: jobs.a: it must be a table"),
        ("[jobs.a]\nb =", "supercheck.toml:2: this is no TOML"),
        ("[jobs.a]\nschedule = {timezone = 'UTC'}", "supercheck.toml:2: jobs.a.schedule: it must have one of cron"),
        ("[jobs.a.schedule]\ncron = '0 99 * * *'", "supercheck.toml:2: jobs.a.schedule.cron: "),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    """Where its statement begins, and with the keys that lead to it."""
    with pytest.raises(BadJob) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    "definition",
    [
        {"args": ["\ud800"]},
        {"notify": [{"to": "a\udfff"}]},
        {"source": {"git": "https://x/\ud800"}},
        {"dispatch": {"repository": "a/b", "workflow": "x", "inputs": {"\ud800": "x"}}},
        {"source": {"\ud800": 1}},
    ],
)
def test_what_no_answer_can_have_is_refused(definition: dict[str, Any]) -> None:
    """Though JSON can; in words that can be answered."""
    with pytest.raises(BadJob) as caught:
        decode_job("a", definition)
    assert str(caught.value).encode()


@pytest.mark.parametrize("more", [{"args": ["x"]}, {"notify": [{"to": "team"}]}, {"retries": 1}, {"priority": "low"}])
def test_a_workflow_has_nothing_of_a_run(more: dict[str, Any]) -> None:
    """It would do nothing."""
    workflow = {"dispatch": {"repository": "a/b", "workflow": "x"}, "schedule": "0 2 * * *", "project": "shop"}
    assert decode_job("a", workflow | {"retries": 0, "env": "uv"}) == decode_job("a", workflow)
    with pytest.raises(BadJob, match=f"has no {next(iter(more))}, as a run has"):
        decode_job("a", workflow | more)


def test_everything_that_is_wrong_is_told(tmp_path: Path) -> None:
    """A line for each job that makes no sense."""
    with pytest.raises(BadJob) as caught:
        read(tmp_path, '[jobs.a]\nretries = -1\n[jobs.b]\n[jobs.c]\nenv = "con da"\n')
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == [
        "supercheck.toml:2:",
        "supercheck.toml:5:",
    ]


def test_the_checksum_is_of_what_a_job_means() -> None:
    """Not of the order in which it is written."""
    one = decode_job("a", {"args": ["x"], "retries": 1, "env": "uv"})
    assert one.checksum == decode_job("a", {"retries": 1, "args": ["x"]}).checksum
    assert one.checksum != decode_job("a", {"retries": 2, "args": ["x"]}).checksum


@pytest.mark.parametrize(
    ("overrides", "words"),
    [({"args": ["x"]}, "args cannot be changed here"), ({"retries": 99}, "job a: retries: it must be a whole number")],
)
def test_only_some_values_can_be_overridden(overrides: dict[str, Any], words: str) -> None:
    """And they are checked as those of a file."""
    job = Job(name="a", schedule="0 2 * * *")
    assert job.changed({"schedule": None, "executions": 3}) == Job(name="a", executions=3)
    with pytest.raises(BadJob, match=words):
        job.changed(overrides)
