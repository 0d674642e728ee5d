"""
The step by itself, as `action.yml` starts it.
"""

from __future__ import annotations

import html
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.action.conftest import ROOT, program
from tests.server.conftest import GUARD_S, wait_for


@pytest.fixture
def environ(tmp_path: Path, few_plugins: None) -> dict[str, str]:
    """The variables of a step that runs tests on this machine."""
    files = {"GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    inputs = {"INPUT_ARGS": "-p supercheck -p no:cacheprovider", "INPUT_EXECUTIONS": "1"}
    return {**os.environ, **files, **inputs, "RUNNER_TEMP": str(tmp_path), "GITHUB_ACTIONS": "true"}


def outputs(environ: dict[str, str]) -> dict[str, str]:
    """What the step has told."""
    lines = Path(environ["GITHUB_OUTPUT"]).read_text().splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def start(environ: dict[str, str], project: Path) -> subprocess.Popen[str]:
    """Start it."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "action")], cwd=project, env=environ, text=True, stdout=subprocess.PIPE
    )


def test_cancelled_job_ends_its_session(tmp_path: Path, environ: dict[str, str]) -> None:
    """The runner's signal reaches the step's process alone; what there is of results is told."""
    source = "import time\ndef test_a(): pass\ndef test_b():\n    open('begun', 'w').close()\n    time.sleep(600)\n"
    (tmp_path / "test_it.py").write_text(source)
    process = start(environ, tmp_path)
    wait_for(lambda: (tmp_path / "begun").exists() or process.poll() is not None, "the second test begins")
    process.send_signal(signal.SIGINT)
    log, _ = process.communicate(timeout=GUARD_S)
    assert process.returncode == 2, log
    assert (outputs(environ)["state"], outputs(environ)["passed"]) == ("cancelled", "1"), log


def test_run_on_this_machine_needs_nothing_of_http(tmp_path: Path, environ: dict[str, str]) -> None:
    """Only what pytest-supercheck has without extras."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "httpx.py").write_text("raise ImportError\n")
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    log, _ = start({**environ, "PYTHONPATH": str(tmp_path / "broken")}, tmp_path).communicate(timeout=GUARD_S)
    assert outputs(environ)["state"] == "passed", log


def test_files_that_cannot_be_collected_are_failures(tmp_path: Path, environ: dict[str, str]) -> None:
    """On their line; nothing was cancelled, although pytest says interrupted."""
    (tmp_path / "test_it.py").write_text("\nimport nowhere_to_be_found\n")
    log, _ = start(environ, tmp_path).communicate(timeout=GUARD_S)
    told = outputs(environ)
    assert (told["state"], told["failed"], told["run-id"] != "") == ("failed", "1", True), log
    assert "::error file=test_it.py,line=2,title=test_it.py::ModuleNotFoundError" in log


def test_test_is_counted_as_what_it_is_whatever_its_subtests_are(tmp_path: Path, environ: dict[str, str]) -> None:
    """One that passes has passed although a subtest was skipped."""
    if not hasattr(pytest, "Subtests"):
        pytest.skip("pytest has no subtests before 9")
    source = "import pytest\ndef test_it(subtests):\n    with subtests.test():\n        pytest.skip('not here')\n"
    (tmp_path / "test_it.py").write_text(source)
    log, _ = start(environ, tmp_path).communicate(timeout=GUARD_S)
    told = outputs(environ)
    assert (told["total"], told["passed"], told["skipped"]) == ("1", "1", "0"), log


def test_secrets_of_the_session_are_masked_and_other_commands_are_text(tmp_path: Path, environ: dict[str, str]) -> None:
    """Commands are stopped but for a moment, by words that nobody can know."""
    (tmp_path / "test_it.py").write_text("def test_it():\n    print('\\n::add-mask::secret\\n::error::no')\n")
    log, _ = start({**environ, "INPUT_ARGS": environ["INPUT_ARGS"] + " -s"}, tmp_path).communicate(timeout=GUARD_S)
    acted, stopped = [], ""
    for line in log.splitlines():
        if stopped:
            stopped = "" if line == f"::{stopped}::" else stopped
        elif found := re.fullmatch("::stop-commands::([0-9a-f]{32})", line):
            stopped = found[1]
        elif line.startswith("::"):
            acted.append(line)
    assert acted == ["::add-mask::secret"]
    assert "::error::no" in log
    assert not stopped


def test_another_session_than_told_of_is_an_error(tmp_path: Path, environ: dict[str, str]) -> None:
    """A senseless input, and a session that dies: each has words."""
    log, _ = start({**environ, "INPUT_FAIL_ON": "all"}, tmp_path).communicate(timeout=GUARD_S)
    assert "::error title=supercheck::fail-on: 'all' is none of any, new, never" in log
    assert outputs(environ)["state"] == "error"
    assert "none of any, new, never" in html.unescape(Path(environ["GITHUB_STEP_SUMMARY"]).read_text())
    (tmp_path / "conftest.py").write_text("import os\nos._exit(1)\n")
    process = start(environ, tmp_path)
    log, _ = process.communicate(timeout=GUARD_S)
    assert process.returncode == 70, log
    assert outputs(environ)["state"] == "broken"
    assert "the session ended before it could tell of its results" in log


@pytest.mark.slow
def test_action_installs_itself_beside_the_project(tmp_path: Path, environ: dict[str, str]) -> None:
    """Into an environment of its own where the tests are collected elsewhere; the job's Python stays as it is."""
    python = tmp_path / "job" / "bin" / "python"
    subprocess.run([program("uv"), "venv", "--quiet", "--python", sys.executable, str(tmp_path / "job")], check=True)
    code = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "from action.inputs import Inputs\n"
        "from action.installation import python_for\n"
        "inputs = Inputs.take({'INPUT_URL': 'http://127.0.0.1'})\n"
        "print(python_for(inputs, pathlib.Path(sys.argv[2])))\n"
    )
    project = tmp_path / "project"
    for module in ("venv", "pip", "subprocess"):
        (project / module).mkdir(parents=True)
        (project / module / "__init__.py").write_text("raise SystemExit('the project is not asked')")
    (project / "uv.toml").write_text("no-index = true")
    (tmp_path / "ask.py").write_text(code)
    command = [str(python), str(tmp_path / "ask.py"), str(ROOT), str(tmp_path)]
    made = subprocess.run(command, cwd=project, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    assert made.startswith(str(tmp_path / "supercheck-environment"))
    subprocess.run([made, "-c", "import pytest_supercheck.plugin, httpx, pathspec"], cwd=tmp_path, check=True)
    assert subprocess.run([str(python), "-c", "import httpx"], capture_output=True).returncode
