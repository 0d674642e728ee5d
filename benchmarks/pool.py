"""
A pool for measurements: a Valkey server of its own, and the workers that ``supercheck worker`` starts.

Knows how the package's own parts start them; not what is measured.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks import reaper
from benchmarks.bench import Bench, BenchError, Running
from pytest_supercheck import valkey

_WORKER: Final = "from pytest_supercheck.cli import main; main()"
_RUNNER: Final = "pytest_supercheck.runner"

#: Seconds without change after which processes are taken to be idle: a pool gets ready for its next run a while after
#: the last one, and that must not fall into the next measurement.
QUIET_S: Final = 2.0

#: Seconds of CPU that idle processes may use in that time.
IDLE_CPU_S: Final = 0.03


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A server on a unix socket, with nothing in it; yields its URL."""
    directory = valkey.make_directory()
    try:
        started = valkey.start_server(valkey.find_server(), directory)
        try:
            valkey.wait_ready(started.socket_path, 10, started)
            yield started.url
        finally:
            started.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def workers(bench: Bench, url: str, count: int) -> Iterator[Running]:
    """Workers of that server, ready for their first execution."""
    command = [sys.executable, "-c", _WORKER, "worker", "--url", url, "-c", str(count)]
    running = bench.start(command, bench.directory)
    try:
        running.wait_for("Ctrl-C stops")
        settle(running)
        yield running
    finally:
        running.close()


def settle(running: Running, limit_s: float = 30.0) -> None:
    """
    Wait until a command and what it has started do nothing.

    Raises:
        BenchError: They go on and on.
    """
    give_up_at = time.monotonic() + limit_s
    since, before = time.monotonic(), _activity(running)
    while time.monotonic() < since + QUIET_S:
        time.sleep(0.1)
        now = _activity(running)
        if now[0] != before[0] or now[1] > before[1] + IDLE_CPU_S:
            since, before = time.monotonic(), now
        if time.monotonic() > give_up_at:
            raise running.failed("does not get idle")


def _activity(running: Running) -> tuple[list[int], float]:
    """The processes, and the CPU that they have used, where the system tells."""
    pids = sorted(running.processes())
    return pids, sum(cpu_s(pid) for pid in pids)


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used; 0 when it has gone, or where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def work_horse(running: Running, limit_s: float = 20.0) -> int:
    """
    Find the process that serves an execution: the child that an RQ worker has forked.

    Raises:
        BenchError: There is none.
    """
    give_up_at = time.monotonic() + limit_s
    while time.monotonic() < give_up_at:
        above = reaper.parents()
        for pid in running.processes():
            # Forks all the way: the host, its RQ worker, the work-horse. The host's other children are runners.
            worker = above.get(pid, 0)
            host = _command_line(above.get(worker, 0))
            if _WORKER in host and reaper.__file__ not in host and _RUNNER not in _command_line(worker):
                return pid
        time.sleep(0.02)
    raise BenchError("no work-horse to be found")


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        pass
    return subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
