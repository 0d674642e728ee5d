"""
Where a measurement takes place: a temporary directory, a clean environment, and commands that run in them.

Between the figures, which say what to run, and `reaper`, which runs it. Knows neither pytest nor what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import reaper

#: Seconds after which a command is taken to hang.
LIMIT_S: Final = 600.0

#: Variables of ours that say where things are, not how they run; the rest of ours would change what is measured.
_KEPT: Final = ("SUPERCHECK_CACHE", "SUPERCHECK_VALKEY")
_DROPPED_PREFIXES: Final = ("SUPERCHECK_", "PYTEST_", "COV_CORE_", "COVERAGE_")
#: Without the first of these bytecode is kept, as on most machines.
_DROPPED: Final = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUNBUFFERED", "CI")


class BenchError(Exception):
    """A measurement could not be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a command took."""

    #: Seconds from its start to its end.
    wall_s: float
    #: Seconds of CPU of it and of everything that it started, to the end of the last of them.
    cpu_s: float
    #: Its exit status, negative for a signal.
    status: int
    #: What it printed.
    output: str


class Running:
    """
    A command that runs under a reaper.

    Args:
        command: Program and arguments.
        directory: Where it runs.
        environ: Its environment.
        log: A new file for what it prints.
        temporary: Its directory for temporary files: what pytest keeps of one session slows the next.
    """

    def __init__(
        self, command: list[str], directory: Path, environ: Mapping[str, str], log: Path, temporary: Path
    ) -> None:
        self._command = command
        self._log = log
        self._temporary = temporary
        # Its own session: Ctrl-C reaches this process only, which ends the others in order.
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, str(log), *command],
            cwd=directory,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def output(self) -> str:
        """What it has printed so far."""
        try:
            return self._log.read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def processes(self) -> list[int]:
        """The command's process and everything below it."""
        return reaper.descendants(self._reaper.pid)

    def alive(self) -> bool:
        """Whether anything of it still runs."""
        return self._reaper.poll() is None

    def wait_for(self, text: str, limit_s: float = 30.0) -> None:
        """
        Wait until the command has printed something.

        Raises:
            BenchError: It ended before, or took longer.
        """
        give_up_at = time.monotonic() + limit_s
        while text not in self.output:
            if not self.alive() or time.monotonic() > give_up_at:
                raise self.failed(f"did not print {text!r}")
            time.sleep(0.01)

    def finish(self, limit_s: float = LIMIT_S) -> Cost:
        """
        Wait for the end of everything that the command started.

        Raises:
            BenchError: It hung, or left processes behind that did not end by themselves.
        """
        assert self._reaper.stdout is not None
        try:
            # Not communicate(), which would close stdin, at whose end everything is killed.
            self._reaper.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.close()
            raise self.failed(f"hung for {limit_s:g} s") from None
        facts: dict[str, Any] = json.loads(self._reaper.stdout.read() or b"{}")
        self.close()
        if not facts:
            raise self.failed("lost its reaper")
        if facts["killed"]:
            raise self.failed(f"left {facts['killed']} processes running")
        return Cost(wall_s=facts["wall_s"], cpu_s=facts["cpu_s"], status=facts["status"], output=self.output)

    def close(self) -> None:
        """Kill what is left; safe to repeat."""
        for pipe in (self._reaper.stdin, self._reaper.stdout):
            if pipe is not None:
                pipe.close()
        self._reaper.wait()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def failed(self, how: str) -> BenchError:
        """An error that shows what the command was and what it printed last."""
        return BenchError(f"{' '.join(self._command)!r} {how}; it printed:\n{self.output[-3000:]}")


class Bench:
    """A temporary directory, the environment that commands get, and what runs there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started = 0
        self._running: list[Running] = []
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in _KEPT or not (name in _DROPPED or name.startswith(_DROPPED_PREFIXES))
        }
        self.environ: dict[str, str] = kept

    def folder(self, name: str) -> Path:
        """Make a folder in the temporary directory."""
        path = self.directory / name
        path.mkdir()
        return path

    def start(self, command: list[str], where: Path) -> Running:
        """Start a command in a folder; it ends with this bench at the latest."""
        self._started += 1
        temporary = self.folder(f"tmp{self._started}")
        environ = {**self.environ, "TMPDIR": str(temporary)}
        running = Running(command, where, environ, self.directory / f"output{self._started}", temporary)
        self._running.append(running)
        return running

    def run(self, command: list[str], where: Path, *, expect: str = "", status: int = 0) -> Cost:
        """
        Run a command to the end of everything that it started.

        Args:
            expect: What it must print, so that a figure never comes from a run that did not do its work.
            status: The exit status that it must have.

        Raises:
            BenchError: It did not.
        """
        running = self.start(command, where)
        cost = running.finish()
        self._running.remove(running)
        if cost.status != status or expect not in cost.output:
            raise running.failed(f"ended with {cost.status} and without {expect!r}")
        return cost

    def close(self) -> None:
        """Kill everything that still runs."""
        for running in self._running:
            running.close()


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A bench; nothing is left of it, neither processes nor files."""
    directory = Path(tempfile.mkdtemp(prefix="scb-"))
    try:
        made = Bench(directory)
        try:
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


#: Burns CPU in a process that has left its parents, and writes how much.
_DAEMON: Final = """
import os, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
while time.process_time() < float(sys.argv[1]):
    pass
with open(sys.argv[2], "w") as file:
    file.write(str(time.process_time()))
"""


def check_accounting(bench: Bench, burn_s: float = 0.3) -> bool:
    """
    Check that the CPU of daemons is counted, with a load that is known.

    Returns:
        False where the system cannot adopt orphans: then figures of CPU have no meaning.

    Raises:
        BenchError: The accounting differs from the load.
    """
    if sys.platform != "linux":
        return False
    told = bench.directory / "burnt"
    bare = bench.run([sys.executable, "-I", "-S", "-c", "pass"], bench.directory)
    cost = bench.run([sys.executable, "-I", "-S", "-c", _DAEMON, str(burn_s), str(told)], bench.directory)
    burnt_s = float(told.read_text()) + bare.cpu_s
    if not 0.9 * burnt_s - 0.02 < cost.cpu_s < 1.1 * burnt_s + 0.02:
        raise BenchError(f"a daemon used {burnt_s:.2f} s of CPU, and {cost.cpu_s:.2f} s were counted")
    return True
