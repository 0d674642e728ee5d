"""
The example workflows and this repository's own, run by act: what a job is told of a run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from supercheck_server.history import RunFilter
from tests.action.conftest import ROOT, Act
from tests.action.github import TOKEN, GitHub
from tests.server.conftest import Served, wait_for

EXAMPLES: Final = ROOT / "examples" / "workflows"

FAILING: Final = """
    def test_good():
        pass

    def test_old():
        assert 1 + 1 == 3

    def test_new():
        assert "a" == "b", "<b>100%</b>"
    """


def pull_request(repository: str = "acme/shop") -> dict[str, Any]:
    """The payload of a pull request from that repository."""
    head = {"ref": "feature", "sha": "0" * 40, "repo": {"full_name": repository, "fork": repository != "acme/shop"}}
    return {"pull_request": {"number": 7, "head": head, "base": {"ref": "main", "sha": "1" * 40}}}


def recorded(served: Served) -> list[str]:
    """The verdicts of the runs in the history."""
    return [run.verdict for run in served.parts.history.runs(RunFilter()) if run.verdict != "live"]


def test_passing_run(act: Act, worker: None, served: Served, client: httpx.Client) -> None:
    """Its outputs, its summary with a link to its page, and a step that succeeds."""
    job = act.run(EXAMPLES / "tests.yml")
    assert job.status == 0, job.output
    counts = {"total": "1", "passed": "1", "failed": "0", "skipped": "0", "flaky": "0"}
    assert {**job.outputs, "state": "passed", **counts} == job.outputs
    assert job.outputs["report-url"] == f"{served.url}/runs/{job.outputs['run-id']}"
    assert float(job.outputs["duration"]) > 0
    assert client.get(job.outputs["report-url"]).status_code == 200
    assert "## Tests: 1 passed" in job.summary
    assert f"({job.outputs['report-url']})" in job.summary
    assert not job.annotations


def test_failures_of_a_pull_request_are_told_apart(act: Act, worker: None, served: Served, github: GitHub) -> None:
    """What fails on main already is a warning, what is new an error on its line; the comment is written anew."""
    act.write(test_shop__py=FAILING.replace('assert "a" == "b"', "assert True"))
    assert act.run(EXAMPLES / "tests.yml").outputs["state"] == "failed"
    wait_for(lambda: recorded(served) == ["failed"], "the run on main is recorded")
    act.write(test_shop__py=FAILING)
    act.environ["GITHUB_RUN_ID"] = "2"
    act.environ["GITHUB_API_URL"] = github.url
    act.secrets["GITHUB_TOKEN"] = TOKEN
    assert act.run(EXAMPLES / "tests.yml", "pull_request", pull_request()).exit_status == 1
    job = act.run(EXAMPLES / "tests.yml", "pull_request", pull_request())
    assert job.exit_status == 1
    assert (job.outputs["state"], job.outputs["failed"], job.outputs["passed"]) == ("failed", "2", "1")
    [(new, where, words), (old, there, _)] = sorted(job.annotations)
    assert (new, where["file"], where["line"], where["title"]) == (
        "error", "test_shop.py", "9", "test_shop.py::test_new",
    )  # fmt: skip
    assert words.startswith("AssertionError: <b>100%</b>")
    assert (old, there["file"], there["line"]) == ("warning", "test_shop.py", "6")
    assert job.summary.index("### New failures") < job.summary.index("test&#95;new")
    assert job.summary.index("### Failing on the base branch already") < job.summary.index("test&#95;old")
    assert "<b>" not in job.summary
    [text] = github.texts()
    assert "### New failures" in text
    assert github.asked[-1].startswith("PATCH")


def test_full_queue(act: Act, worker: None, served: Served) -> None:
    """75 and words; nothing is recorded as a run that failed."""
    served.parts.dispatcher.limits(running=0, queued=0)
    job = act.run(EXAMPLES / "tests.yml")
    assert (job.outputs["state"], job.outputs["run-id"], job.outputs["report-url"]) == ("refused", "", "")
    assert "The queue is full" in job.annotations[0][2]
    assert job.exit_status == 75
    assert not recorded(served)


def test_cancelled_run(act: Act, worker: None, served: Served, client: httpx.Client) -> None:
    """Somebody ends it on the server: the step says so, and that no test failed."""
    act.write(test_shop__py="import time\n\ndef test_long():\n    time.sleep(600)\n")
    process = act.start(EXAMPLES / "tests.yml")
    wait_for(lambda: client.get("/api/v1/queue").json()["executions"], "the run begins")
    [run] = client.get("/api/v1/queue").json()["runs"]
    wait_for(lambda: client.get(f"/api/v1/runs/{run['run']}").json()["held"], "it runs")
    assert client.post(f"/api/v1/runs/{run['run']}/cancel", json={"now": True}).status_code == 200
    job = act.read(process)
    assert (job.outputs["state"], job.outputs["run-id"], job.outputs["failed"]) == ("cancelled", run["run"], "0")
    assert "cancelled through the server by local" in job.annotations[0][2]
    assert job.exit_status == 2


def test_server_that_is_down(act: Act, unused_port: int) -> None:
    """69, and which address does not answer."""
    act.variables["SUPERCHECK_URL"] = f"http://127.0.0.1:{unused_port}"
    job = act.run(EXAMPLES / "tests.yml")
    assert (job.outputs["state"], job.outputs["total"]) == ("unreachable", "0")
    assert f"127.0.0.1:{unused_port} does not answer" in job.annotations[0][2]
    assert "**Unreachable**" in job.summary
    assert job.exit_status == 69


def test_forks_run_without_a_pool(act: Act) -> None:
    """On the runner itself: tests reach neither inputs nor GitHub's token, and what they print is text."""
    act.secrets["GITHUB_TOKEN"] = TOKEN
    act.write(
        test_shop__py="""
        import os

        def test_surroundings():
            print("\\n::error::from a test")
            assert not [name for name in os.environ if name.startswith("INPUT_")]
            assert "ghs_0123456789" not in os.environ.values()
            assert 0
        """
    )
    job = act.run(EXAMPLES / "tests.yml", "pull_request", pull_request("eve/shop"))
    assert job.exit_status == 1
    assert (job.outputs["state"], job.outputs["report-url"]) == ("failed", "")
    assert "::error::from a test" in job.log
    [(kind, where, words)] = job.annotations
    assert (kind, where["line"], words) == ("error", "8", "assert 0")
    assert "### Failures" in job.summary


def test_working_directory_and_another_annotator(act: Act, tmp_path: Path) -> None:
    """Paths are those of the repository, and a failure is told once whoever else would tell it."""
    (act.project / "backend").mkdir()
    (act.project / "test_shop.py").rename(act.project / "backend" / "test_shop.py")
    (act.project / "backend" / "conftest.py").write_text(
        'class Errors:\n    def pytest_runtest_logreport(self, report):\n        print("::error::twice")\n\n'
        'def pytest_configure(config):\n    config.pluginmanager.register(Errors(), "annotate_errors")\n'
    )
    (act.project / "backend" / "test_shop.py").write_text("def test_bad():\n    assert 0\n")
    workflow = tmp_path / "workflow.yml"
    hostile = "--junitxml='$(touch made).xml'"
    steps = [
        {"uses": "actions/checkout@v1"},
        {"uses": "OWNER/pytest-supercheck@main", "with": {"working-directory": "backend", "args": hostile}},
        {"run": "printf '%s\\n' backend/*", "if": "always()"},
    ]
    workflow.write_text(
        json.dumps({"on": "push", "jobs": {"a": {"runs-on": "ubuntu-latest", "steps": steps}}}, indent=1)
    )
    job = act.run(workflow)
    assert job.exit_status == 1
    [(_, where, _)] = job.annotations
    assert (where["file"], where["line"]) == ("backend/test_shop.py", "2")
    assert "twice" not in job.log
    assert "backend/$(touch made).xml\n" in job.output
    assert "backend/made\n" not in job.output


@pytest.mark.parametrize(
    ("example", "event", "inputs"),
    [
        ("scheduled", "schedule", {}),
        ("manual", "workflow_dispatch", {"args": "-k good", "executions": "1", "priority": "low"}),
        ("matrix", "push", {}),
    ],
)  # fmt: skip
def test_other_examples(act: Act, worker: None, example: str, event: str, inputs: dict[str, str]) -> None:
    """Each runs the tests, with the inputs that it takes."""
    job = act.run(EXAMPLES / f"{example}.yml", event, **inputs)
    assert job.status == 0, job.output
    assert job.output.count("1 passed") == (2 if example == "matrix" else 1)
    if example == "manual":
        assert f"The run has passed, see {job.outputs['report-url']}" in job.output


def test_own_workflow_runs_what_contributors_run(act: Act, tmp_path: Path) -> None:
    """With the releases of pytest and Python that it names."""
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text('#!/bin/sh\necho "make $* with pytest $PYTEST and $ARGS"\n')
    make.chmod(0o755)
    act.path = f"{make.parent}{os.pathsep}{act.path}"
    job = act.run(ROOT / ".github" / "workflows" / "ci.yml")
    assert job.status == 0, job.output
    assert "make lint" in job.output
    assert job.output.count("make test with pytest 9") == 6
    assert job.output.count("make test with pytest 8") == 2
