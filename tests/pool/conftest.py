"""
Fixtures for tests of a shared pool: a real Valkey, real `supercheck worker` processes, real pytest sessions.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from pytest_supercheck import events
from pytest_supercheck.dispatch import Dispatcher

#: Seconds after which something hangs.
GUARD_S = 240.0


def wait_for(condition: Callable[[], object], what: str, within_s: float = GUARD_S) -> None:
    """Wait until a condition holds; fail with `what` when it never does."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The process ids of a process's children."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in task.read_text().split()]
        except OSError:
            continue
    return found


@dataclass
class Worker:
    """A `supercheck worker` process."""

    #: The process.
    process: subprocess.Popen[str]
    #: What it printed.
    log: Path

    def rq_workers(self) -> list[int]:
        """The RQ worker processes; runners, its other children, have another command line."""
        return [pid for pid in children(self.process.pid) if b"runner" not in command_line(pid)]

    def supervisors(self) -> list[int]:
        """The work-horses."""
        return [horse for worker in self.rq_workers() for horse in children(worker)]

    def test_processes(self) -> list[int]:
        """The children of its runners."""
        runners = [pid for pid in children(self.process.pid) if b"runner" in command_line(pid)]
        return [child for runner in runners for child in children(runner)]

    def stop(self) -> None:
        """End it at once."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def command_line(pid: int) -> bytes:
    """A process's command line, empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@dataclass
class Pool:
    """A Valkey and what uses it."""

    #: Where it is.
    url: str
    #: A client.
    client: Any
    #: Where suites and logs go.
    directory: Path
    #: What was started.
    started: list[Worker | subprocess.Popen[str]] = field(default_factory=list)

    def worker(self, concurrency: int, **environ: str) -> Worker:
        """Start a worker and wait until it serves."""
        log = self.directory / f"worker-{len(self.started)}.log"
        command = [sys.executable, "-m", "pytest_supercheck.cli", "worker", "--url", self.url, "-c", str(concurrency)]
        with log.open("w") as out:
            process = subprocess.Popen(command, env={**os.environ, **environ}, stdout=out, stderr=out, text=True)
        worker = Worker(process, log)
        self.started.append(worker)
        wait_for(lambda: "at a time on" in log.read_text() or process.poll() is not None, "the worker serves")
        assert process.poll() is None, log.read_text()
        return worker

    def suite(self, name: str, source: str) -> Path:
        """Write a project of one test file."""
        root = self.directory / name
        root.mkdir()
        (root / "pytest.ini").write_text("[pytest]\n")
        (root / "test_it.py").write_text(textwrap.dedent(source))
        return root

    def pytest(self, root: Path, *args: str) -> subprocess.Popen[str]:
        """Start a session on this pool."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--supercheck",
            f"--supercheck-url={self.url}",
            *("-p", "supercheck", "-p", "no:cacheprovider"),
        ]
        process = subprocess.Popen(
            [*command, *args], cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.started.append(process)
        return process

    def command(self, *args: str) -> str:
        """Run a ``supercheck`` command; returns what it printed."""
        command = [sys.executable, "-m", "pytest_supercheck.cli", *args]
        return subprocess.run(command, text=True, check=True, capture_output=True).stdout

    def runs(self) -> list[str]:
        """The ids of all runs there are records of, oldest first."""
        keys = self.client.scan_iter("sc:run:*:results")
        return sorted(key.decode().split(":")[2] for key in keys)

    def events(self, run: str) -> list[events.Event]:
        """All events of a run so far."""
        dispatcher, after = Dispatcher(self.client), "0"
        found: list[events.Event] = []
        while True:
            batches, after = dispatcher.events(run, after=after, wait_s=0.001)  # type: ignore[arg-type]
            if not batches:
                return found
            found += [events.decode(line) for batch in batches for line in batch.split(b"\n")]


@pytest.fixture(autouse=True)
def lean(few_plugins: None) -> None:
    """All sessions here, and their runners."""


@pytest.fixture
def pool(valkey_server: object, valkey: redis.Redis, tmp_path: Path) -> Iterator[Pool]:
    """An empty pool without workers; everything it started is gone after the test."""
    made = Pool(valkey_server.url, valkey, tmp_path)  # type: ignore[attr-defined]
    yield made
    for started in made.started:
        process = started.process if isinstance(started, Worker) else started
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


def counts(output: str) -> dict[str, int]:
    """The counts of pytest's closing line."""
    return {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?|xfailed)", output)}
