"""
A whole pool on this machine for as long as one command runs: Valkey, the server and workers.

Starts processes and waits for the first of them to end, or for Ctrl-C; knows nothing of what they do.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import click

from pytest_supercheck import valkey
from pytest_supercheck.errors import Infrastructure
from supercheck_server.settings import make_private

#: Seconds that workers have to finish their current tests, and the server to record what has ended.
WORKERS_S: Final = 30.0
SERVER_S: Final = 15.0

_PR_SET_PDEATHSIG: Final = 1


def up(
    *, data: Path, host: str, port: int, workers: int | None, isolate: Sequence[str], private: Collection[str]
) -> None:
    """
    Run a pool until SIGTERM or Ctrl-C; a second one ends everything at once.

    Args:
        data: Directory of the history and the records; made when there is none.
        workers: Executions at a time; None for the worker's own default.
        isolate: The worker's options that say how it shuts runs in.
        private: Environment variables that workers do not get.

    Raises:
        EmbeddedMissing: There is no Valkey to be had.
        Infrastructure: A part ended by itself.
    """
    make_private(data)
    binary = valkey.find_server(notify=click.echo)
    directory = valkey.make_directory()
    pool = valkey.start_server(binary, directory)
    try:
        valkey.wait_ready(pool.socket_path, 10, pool)
        store = os.environ.get("SUPERCHECK_STORE") or str(data.absolute() / "store")
        environ = {**os.environ, "SUPERCHECK_REDIS_URL": pool.url, "SUPERCHECK_DATA": str(data),
                   "SUPERCHECK_STORE": store}  # fmt: skip
        many = ["-c", str(workers)] if workers else []
        shared = {name: value for name, value in environ.items() if name not in private}
        commands = {
            "server": (["server", "--host", host, "--port", str(port)], environ),
            "worker": (["worker", *many, *isolate], shared),
        }
        _Parts(commands).run(pool.url)
    finally:
        pool.stop()
        for name in directory.iterdir():
            name.unlink(missing_ok=True)
        directory.rmdir()


class _Parts:
    """The server and the workers, each a process of its own that goes with this one."""

    def __init__(self, commands: dict[str, tuple[list[str], dict[str, str]]]) -> None:
        self._commands = commands
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stops = 0

    def run(self, url: str) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._on_signal)
        try:
            for name, (words, environ) in self._commands.items():
                self._processes[name] = self._start(words, environ)
            click.echo(f"supercheck up: pytest --supercheck --supercheck-url {url}")
            while not self._stops:
                self._require_all()
                time.sleep(0.1)
            click.echo("supercheck up: the current tests are finished; once more stops at once")
            self._end("worker", WORKERS_S)
            self._end("server", SERVER_S)
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()

    def _start(self, words: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pytest_supercheck.cli", *words]
        # Sessions of their own: Ctrl-C reaches this process alone, which tells them in order.
        return subprocess.Popen(
            command,
            env=environ,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has no threads
        )

    def _require_all(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise Infrastructure(f"The {name} ended by itself, with {process.returncode}. What it said is above.")

    def _end(self, name: str, patience_s: float) -> None:
        process = self._processes[name]
        process.terminate()
        give_up_at = time.monotonic() + patience_s
        while process.poll() is None and time.monotonic() < give_up_at and self._stops < 2:
            time.sleep(0.05)

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        self._stops += 1


def _die_with_parent() -> None:
    # Runs between fork and exec. Elsewhere than on Linux a part outlives this process when that is killed with -9.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
