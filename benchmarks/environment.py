"""An environment that uv made, warm: from an execution's start to its first test, above the worker's own."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.bench import BenchError, bench
from benchmarks.table import Row, Scale, alone, alternate, seconds, value_row
from pytest_supercheck.boot import CONTROL_FD, boot
from pytest_supercheck.environment import Environments
from pytest_supercheck.keeper import Lines, send
from pytest_supercheck.valkey import cache_dir
from pytest_supercheck.wish import EnvironmentWish

TARGET = 1.5

#: A project with a build system and some dependencies; what they are is fetched once.
_PROJECT: Final = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "shop"
version = "1"
dependencies = ["flask", "sqlalchemy", "httpx"]
[project.optional-dependencies]
test = ["pytest", "pytest-timeout", "hypothesis"]
"""


def measure(scale: Scale) -> list[Row]:
    """Measure it."""
    with bench() as place:
        project = place.folder("project")
        (project / "src" / "shop").mkdir(parents=True)
        (project / "pyproject.toml").write_text(_PROJECT)
        (project / "src" / "shop" / "__init__.py").touch()
        (project / "test_shop.py").write_text("import shop\n\n\ndef test_shop():\n    pass\n")
        worker = _Worker(place.folder("worker"), project)
        pairs = alternate(worker.made, worker.inherited, scale.pairs(9))
    row = value_row("uv environment, warm: to the first test, above inherit", TARGET, [a - b for a, b in pairs], "s")
    ours, peers = sorted(ours for ours, _ in pairs), sorted(peer for _, peer in pairs)
    return [replace(row, ours=seconds(ours[len(ours) // 2]), peer=seconds(peers[len(peers) // 2]))]


class _Worker:
    """A worker with a warm cache."""

    def __init__(self, directory: Path, project: Path) -> None:
        self._directory = directory
        self._project = project
        self._runs = 0
        cache = directory / "cache"
        cache.mkdir()
        fetched = cache_dir() / "tests-uv"
        fetched.mkdir(parents=True, exist_ok=True)
        (cache / "uv").symlink_to(fetched)
        self._environments = Environments(cache, os.environ)

    def _prepare(self) -> tuple[float, Path, Path]:
        """When it began, the run's tree, and the interpreter for it."""
        self._runs += 1
        tree = self._directory / f"run-{self._runs}" / "tree"
        shutil.copytree(self._project, tree)
        wish = EnvironmentWish(kind="uv", client_python=sys.version.split()[0])
        started_at = time.perf_counter()
        environment = self._environments.prepare(tree, tree, tree.parent / "venv", wish, lambda _text, _detail: None)
        environment.close()
        return started_at, tree, environment.interpreter

    def made(self) -> float:
        """Seconds with an environment that is made for the run, and a runner that begins with it."""
        started_at, tree, interpreter = self._prepare()
        with _runner(interpreter) as (control, _):
            _collect(control, tree)
            return time.perf_counter() - started_at

    def inherited(self) -> float:
        """Seconds with the same packages as if they were the worker's own, which has a runner ready."""
        _, tree, interpreter = self._prepare()
        with _runner(interpreter) as (control, process):
            _wait_until_idle(process)
            started_at = time.perf_counter()
            _collect(control, tree)
            return time.perf_counter() - started_at


@contextmanager
def _runner(interpreter: Path) -> Iterator[tuple[socket.socket, psutil.Process]]:
    ours, theirs = socket.socketpair()
    command = [str(interpreter), *boot("pytest_supercheck.runner")]
    action = (os.POSIX_SPAWN_DUP2, theirs.fileno(), CONTROL_FD)
    pid = os.posix_spawn(interpreter, command, {"PATH": os.environ["PATH"]}, file_actions=[action], setsid=True)
    theirs.close()
    try:
        yield ours, psutil.Process(pid)
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _wait_until_idle(process: psutil.Process) -> None:
    """Until it has imported what it can, and waits for a run."""
    used = None
    while used != (used := process.cpu_times()) or process.status() != psutil.STATUS_SLEEPING:
        time.sleep(0.5)


def _collect(control: socket.socket, tree: Path) -> None:
    """Let a runner collect, as its host does."""
    spec: dict[str, Any] = {
        "path": [],
        "before": [],
        "argv": ["pytest"],
        "cwd": str(tree),
        "args": [],
        "start": "auto",
        "collect": "local",
    }
    send(control, {"spec": {**spec, "markup": False, "width": 80, "environ": {}}})
    send(control, {"configure": {"workerid": "gw0"}})
    answer = Lines(control).receive()
    if not answer or "ready" not in answer[0][0]:
        raise BenchError(f"the runner did not collect: {answer}")


if __name__ == "__main__":
    sys.exit(alone(measure))
