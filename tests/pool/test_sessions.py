"""
What a session leaves behind, and what it keeps to itself, however it ends.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_supercheck.events import End

from .conftest import GUARD_S, Pool, children, counts, wait_for

MANY = "import pytest\n@pytest.mark.parametrize('n', range(600))\ndef test_many(n): pass\n"


def ended(pool: Pool) -> str:
    """The outcome of the only run, an empty string before its end."""
    found = [event.outcome for run in pool.runs() for event in pool.events(run) if isinstance(event, End)]
    return found[0] if found else ""


def test_ctrl_c_loses_nothing_that_had_come(pool: Pool) -> None:
    """A plugin holds the replay up until all has run: after Ctrl-C all is replayed but what it was interrupted in."""
    pool.worker(1)
    root = pool.suite("many", MANY)
    (root / "conftest.py").write_text(
        "import time\n"
        "held = []\n"
        "def pytest_configure(config): held.extend(['worker'] * hasattr(config, 'workerinput'))\n"
        "def pytest_runtest_logreport(report):\n"
        "    if not held:\n"
        "        held.append(report)\n"
        "        time.sleep(600)\n"
    )
    session = pool.pytest(root, "-q", "--supercheck-executions=1")
    wait_for(lambda: ended(pool), "all tests have run")
    session.send_signal(signal.SIGINT)
    output, _ = session.communicate(timeout=GUARD_S)
    assert (session.returncode, ended(pool)) == (2, "finished"), output[-3000:]
    assert counts(output) == {"passed": 599}, output[-500:]


def test_the_pools_password_is_not_among_what_tests_see(pool: Pool) -> None:
    """Neither in the command line that they find nor in their environment."""
    pool.worker(1)
    secret = "open-sesame"
    pool.client.config_set("requirepass", "")
    pool.client.acl_setuser(
        "guest", enabled=True, passwords=[f"+{secret}"], commands=["+@all"], keys=["*"], channels=["*"]
    )
    path = pool.url.removeprefix("unix://")
    root = pool.suite(
        "curious",
        f"""
        import os, sys
        def test_look(pytestconfig):
            places = [sys.argv, pytestconfig.invocation_params.args, vars(pytestconfig.option), dict(os.environ)]
            assert {secret[:6]!r} + {secret[6:]!r} not in repr(places)
        """,
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "supercheck",
        "--supercheck",
        f"--supercheck-url=unix://guest:{secret}@{path}",
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=GUARD_S)
    pool.client.acl_deluser("guest")
    assert done.returncode == 0, done.stdout
    assert counts(done.stdout) == {"passed": 1}


def test_a_missing_client_of_servers_is_told_with_its_remedy(tmp_path: Path) -> None:
    """Whatever else the session has asked for meanwhile."""
    (tmp_path / "httpx.py").write_text("raise ImportError('gone', name='httpx')")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "supercheck",
        "--supercheck",
        "--supercheck-url=http://127.0.0.1:1",
    ]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, text=True, capture_output=True, timeout=GUARD_S)
    assert done.returncode == 69, done.stdout
    assert "A server's address needs httpx: pip install 'pytest-supercheck[http]'" in done.stdout


@pytest.mark.parametrize("args", [("--no-such-option",), ("no_such_file.py",)], ids=str)
def test_usage_errors_leave_no_process(tmp_path: Path, args: tuple[str, ...]) -> None:
    """Also where the session goes on as a process, and where it never was configured."""
    script = f"import pytest; print('code', pytest.main(['--supercheck', *{args!r}])); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    code = next(line for line in iter(process.stdout.readline, "") if line.startswith("code"))
    assert re.search(r"\b4\b|USAGE_ERROR", code)
    assert children(process.pid) == []
    process.communicate("\n", timeout=GUARD_S)


def test_a_process_that_a_plugin_has_forked_does_not_hold_the_end_up(pool: Pool) -> None:
    """It has copies of the session's sockets; the connector hears of the end all the same, and is not killed."""
    pool.worker(1)
    root = pool.suite("forks", "def test_one(): pass")
    pid_file = pool.directory / "pid"
    (root / "conftest.py").write_text(
        "import os, time\n"
        "def pytest_configure(config):\n"
        "    if not hasattr(config, 'workerinput'):\n"
        "        pid = os.fork()\n"
        "        if pid == 0:\n"
        "            os.close(1), os.close(2), time.sleep(600), os._exit(0)\n"
        f"        open({str(pid_file)!r}, 'w').write(str(pid))\n"
        "def pytest_collection_modifyitems(items): items.clear()\n"
    )
    session = pool.pytest(root, "-q")
    assert session.wait(GUARD_S) == 5  # its output goes on: the other process holds it
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    wait_for(lambda: pool.runs() == [], "the run was withdrawn, by a connector that was not killed")


def test_a_session_killed_while_it_is_answered_ends_its_run(pool: Pool) -> None:
    """The connector cannot say that the offer was taken, and lets go of the run all the same."""
    pool.worker(1)
    with pool.client.monitor() as heard:  # whoever looked now and then could miss it
        session = pool.pytest(pool.suite("many", MANY.replace("600", "20000")), "-q")
        next(one for one in heard.listen() if re.search(r" sc:run:\S+:offer:", one["command"]))
        session.kill()
    wait_for(lambda: not pool.runs() or ended(pool), "the run has ended")
    assert ended(pool) in ("", "cancelled")


def test_a_projects_module_does_not_shadow_the_client(pool: Pool) -> None:
    """`python -m pytest` puts the project first on the path; what is ours does not look there."""
    pool.worker(1)
    root = pool.suite("shadows", "import redis\ndef test_own(): assert redis.OWN")
    (root / "redis.py").write_text("OWN = True\n")
    session = pool.pytest(root, "-q")
    output, _ = session.communicate(timeout=GUARD_S)
    assert counts(output) == {"passed": 1}, output
