"""
Cells: what is started in one is bounded from its first instruction on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_supercheck import users
from pytest_supercheck.isolation import Walls, choose
from pytest_supercheck.operators import IsolationSettings
from pytest_supercheck.sandbox import Places, Sandbox
from pytest_supercheck.users import LOCKS, Users

#: Not the default range: a worker may be running here.
FIRST = 62_510


@pytest.fixture
def walls() -> Iterator[Walls]:
    """Users for cells, and limits."""
    if os.geteuid() != 0:
        pytest.skip("CANNOT BE TRIED: changing users takes root")
    made = Walls(Users(FIRST, FIRST + 2), None, {"core": 0, "nproc": 77, "fsize": 1 << 20})
    yield made
    made.close()
    for uid in range(FIRST, FIRST + 3):
        (LOCKS / str(uid)).unlink(missing_ok=True)


def test_limits_hold_before_anything_of_a_project_is_loaded(walls: Walls) -> None:
    """A program that is no Python is bounded, too: nothing of ours or of the project's has to set limits."""
    cell = walls.cell()
    try:
        command, environ = cell.command(["/bin/cat", "/proc/self/limits"], {}, None)
        told = subprocess.run(command, env=environ, capture_output=True, text=True)
    finally:
        cell.release()
    assert limits(told.stdout) == LIMITED, told.stderr


#: Those of `walls`, as the kernel tells them.
LIMITED = [("core file size", "0", "0"), ("file size", "1048576", "1048576"), ("processes", "77", "77")]


def limits(told: str) -> list[tuple[str, ...]]:
    """What a file of limits below /proc says of them."""
    return sorted(re.findall(r"^Max (core file size|processes|file size) +(\d+) +(\d+)", told, re.MULTILINE))


def test_limits_hold_for_builds(walls: Walls) -> None:
    """They are the code of projects, too."""
    program = shutil.which("bwrap")
    if program is None:
        pytest.skip("CANNOT BE TRIED: bubblewrap is not installed")
    walls.sandbox = Sandbox(program, [], IsolationSettings.from_env({}))
    command = walls.confine(["/bin/cat", "/proc/self/limits"], [], [])
    told = subprocess.run(command, env={}, capture_output=True, text=True)
    assert limits(told.stdout) == LIMITED, told.stderr


def test_what_puts_up_the_walls_heeds_nothing_that_came_with_a_run(walls: Walls, tmp_path: Path) -> None:
    """The loader of a program that root starts would load what LD_PRELOAD names; the run's own processes may."""
    came = {
        "LD_PRELOAD": "/nothing.so",
        "GCONV_PATH": "/tmp",
        "PYTHONHOME": "/nowhere",
        "with.dots": "1",
        "TEXT": "\n'",
    }
    places = Places.of({"interpreter": sys.executable, "workspace": str(tmp_path)})
    cell = walls.cell()
    try:
        command, environ = cell.command([sys.executable, "-c", "pass"], came, places)
        given = {**came, "TMPDIR": cell.temporary}
    finally:
        cell.release()
    assert not [name for name in environ if not name.startswith("_SUPERCHECK_")]
    assert "/nothing.so" not in command, "command lines are open to everybody"
    shown = [*command[command.index("--") + 1 : -2], "-c", "import os, json; print(json.dumps(dict(os.environ)))"]
    told = subprocess.run(shown, env={**environ, "PWD": "/"}, capture_output=True, text=True)
    assert "No module named 'encodings'" in told.stderr, "that Python looks for its library in PYTHONHOME"
    del environ["_SUPERCHECK_PYTHONHOME"], given["PYTHONHOME"]
    told = subprocess.run(shown, env={**environ, "PWD": "/"}, capture_output=True, text=True)
    assert "/nothing.so" in told.stderr
    found = json.loads(told.stdout)
    found.pop("LC_CTYPE", None)  # of that Python itself
    assert found == given


def test_a_cell_that_cannot_be_made_keeps_no_user(walls: Walls, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no room for its home; later there is."""
    with monkeypatch.context() as context:
        context.setattr(tempfile, "tempdir", "/nothing")
        with pytest.raises(OSError, match="nothing"):
            walls.cell()
    walls.close()
    walls.cell().release()


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="changing users takes root, on Linux")
def test_auto_takes_another_where_users_cannot_be_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where /run is read-only."""
    monkeypatch.setattr(users, "LOCKS", Path("/proc/nothing"))
    found, words = choose(IsolationSettings.from_env({"SUPERCHECK_ISOLATE": "auto"}), [], {})
    assert found.name == "none"
    assert "not user: isolation 'user' does not work here: [Errno 2]" in words
