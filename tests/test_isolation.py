"""
Cells: what is started in one is bounded from its first instruction on.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Iterator

import pytest

from pytest_supercheck.errors import Fatal
from pytest_supercheck.isolation import Walls
from pytest_supercheck.operators import IsolationSettings
from pytest_supercheck.sandbox import Sandbox
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
    found = re.findall(r"^Max (core file size|processes|file size) +(\d+) +(\d+)", told.stdout, re.MULTILINE)
    assert sorted(found) == [
        ("core file size", "0", "0"), ("file size", "1048576", "1048576"), ("processes", "77", "77"),
    ], told.stderr  # fmt: skip


def test_builds_are_not_somebody() -> None:
    """An id of a user of this machine is left alone."""
    somebody = max(entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid < 60_000)
    sandbox = Sandbox("/usr/bin/bwrap", [], IsolationSettings.from_env({}))
    with pytest.raises(Fatal, match="has the user id of builds: set SUPERCHECK_ISOLATE_UIDS"):
        Walls(Users(somebody - 1, somebody + 1), sandbox, {}).confine(["/bin/true"], [], [])
