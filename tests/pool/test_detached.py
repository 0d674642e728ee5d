"""
Runs that go on without the session that has started them, and sessions that follow them later.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_supercheck.events import End

from .conftest import GUARD_S, Pool, counts, wait_for

SUITE = """
    import os, pathlib, time, warnings, pytest

    warnings.warn("while collecting")

    @pytest.mark.parametrize("n", range(6))
    def test_it(n):
        while not pathlib.Path(__file__).with_name("go").exists():
            time.sleep(0.02)
        print("output of", n)
        assert n != 4
    """


def detached(pool: Pool, root: Path, *args: str) -> str:
    """Start a run and leave it; returns its id."""
    session = pool.pytest(root, "--supercheck-detach", "-k", "not 3", *args)
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 0, output
    found = re.search(r"supercheck attach (\S+)", output)
    assert found, output
    return found[1]


def attach(pool: Pool, run: str, *args: str) -> subprocess.Popen[str]:
    """Follow a run, from somewhere else."""
    elsewhere = pool.directory / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pytest_supercheck.cli", "attach", "--url", pool.url, run, *args]
    session = subprocess.Popen(command, cwd=elsewhere, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    pool.started.append(session)
    return session


def outcomes(pool: Pool, run: str) -> list[str]:
    """How a run has ended; empty while it has not."""
    return [event.outcome for event in pool.events(run) if isinstance(event, End)]


@pytest.mark.parametrize("collect", ["local", "remote"])
def test_run_goes_on_and_can_be_followed(pool: Pool, collect: str) -> None:
    """Before its end, and again after it: the same results, output and exit code, from anywhere."""
    pool.worker(2)
    root = pool.suite("suite", SUITE)
    run = detached(pool, root, f"--supercheck-collect={collect}")
    first = attach(pool, run, "-rA", "-p", "supercheck")
    (root / "go").touch()
    output, _ = first.communicate(timeout=GUARD_S)
    assert first.returncode == 1, output
    assert counts(output) == {"failed": 1, "passed": 4}, output
    assert "collected 6 items / 1 deselected / 5 selected" in output
    assert "UserWarning: while collecting" in output
    assert "FAILED test_it.py::test_it[4] - assert 4 != 4" in output
    assert output.count("output of 4") == 1
    wait_for(lambda: outcomes(pool, run), "it ends")
    again = attach(pool, run, "-q", "-p", "supercheck")
    output, _ = again.communicate(timeout=GUARD_S)
    assert (again.returncode, counts(output)) == (1, {"failed": 1, "passed": 4}), output


def test_nobody_is_needed_after_the_start(pool: Pool) -> None:
    """The run waits for a worker, gets one, and ends well."""
    root = pool.suite("suite", SUITE)
    (root / "go").touch()
    run = detached(pool, root)
    pool.worker(1)
    wait_for(lambda: outcomes(pool, run), "it ends")
    assert outcomes(pool, run) == ["finished"]


def test_ctrl_c_leaves_the_run_alone(pool: Pool) -> None:
    """Who follows a run that goes on by itself is told how to end it."""
    pool.worker(1)
    root = pool.suite("suite", SUITE)
    run = detached(pool, root)
    session = attach(pool, run, "-p", "supercheck")
    assert session.stdout is not None
    for line in session.stdout:
        if "collected" in line:
            break
    session.send_signal(signal.SIGINT)
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 2, output
    assert f"'supercheck queue cancel {run}' ends it" in output
    (root / "go").touch()
    wait_for(lambda: outcomes(pool, run), "it ends")
    assert outcomes(pool, run) == ["finished"]


def test_collection_that_fails_ends_the_run(pool: Pool) -> None:
    """Nobody is there to see it: the run says why, and so does who follows it later."""
    pool.worker(1)
    root = pool.suite("suite", "import a_module_that_is_not_there")
    session = pool.pytest(root, "--supercheck-detach", "--supercheck-collect=remote")
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 0, output
    wait_for(pool.runs, "it begins")
    [run] = pool.runs()
    wait_for(lambda: outcomes(pool, run), "it ends")
    assert outcomes(pool, run) == ["fatal"]
    follower = attach(pool, run, "-p", "supercheck")
    output, _ = follower.communicate(timeout=GUARD_S)
    assert follower.returncode == 2, output
    assert "No module named 'a_module_that_is_not_there'" in output
    assert "goes on" not in output


def test_tests_beside_errors_of_collection(pool: Pool) -> None:
    """They run if that was asked for, and whoever follows the run later sees what plain pytest would have shown."""
    pool.worker(1)
    root = pool.suite("suite", "def test_it(): pass")
    (root / "test_bad.py").write_text("import a_module_that_is_not_there\n")
    session = pool.pytest(root, "--supercheck-detach", "--continue-on-collection-errors")
    output, _ = session.communicate(timeout=GUARD_S)
    assert session.returncode == 0, output
    [run] = pool.runs()
    follower = attach(pool, run, "-p", "supercheck")
    output, _ = follower.communicate(timeout=GUARD_S)
    assert follower.returncode == 1, output
    assert "1 passed, 1 error" in output


def test_unknown_run(pool: Pool) -> None:
    """One that never was, or is no more."""
    follower = attach(pool, "0190-nobody", "-p", "supercheck")
    output, _ = follower.communicate(timeout=GUARD_S)
    assert follower.returncode == 2, output
    assert "does not know run 0190-nobody" in output


def test_without_a_pool_there_is_nothing_to_follow(tmp_path: Path) -> None:
    """It is told at once."""
    command = [sys.executable, "-m", "pytest_supercheck.cli", "attach", "0190-nobody", "-p", "supercheck"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=GUARD_S)
    assert done.returncode == 4
    assert "no pool given, where the run would be: use --url, or set SUPERCHECK_URL" in done.stderr


def test_embedded_runs_end_with_their_session(tmp_path: Path) -> None:
    """So they cannot be left."""
    command = [sys.executable, "-m", "pytest", "--supercheck", "--supercheck-detach", "-p", "supercheck"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=GUARD_S)
    assert done.returncode == 4
    assert "an embedded stack ends with its session" in done.stderr
