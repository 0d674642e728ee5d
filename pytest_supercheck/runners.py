"""
What a host knows of its runners and of those who ask for them, and what a runner gets to know of a run.

Beneath `host`; data and words, no loop.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_supercheck.isolation import Cell
from pytest_supercheck.keeper import encode, say
from pytest_supercheck.variables import SECRETS


@dataclass(eq=False)
class Request:
    """A supervisor that waits for a test process, or has one."""

    #: ``n``, ``job``, ``workerinput``, ``basetemp``, ``artifacts``, ``collects``, ``group``: what the test process gets
    #: to know.
    execute: dict[str, Any]
    #: Its end of the connection, and the leash.
    fds: list[int]
    #: The runner that is asked.
    runner: RunnerProcess
    #: Our copy of the leash, by which we know for how long it is served.
    leash: int = -1

    def close(self) -> None:
        """Close our copies of the descriptors."""
        _close(self.fds)


class Outbox:
    """
    Messages to a process that may take its time to read them, or never do: it runs user code, so nobody waits for it.

    Args:
        connection: The socket to it; reads and writes do not block any more.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.setblocking(False)
        self._waiting: deque[tuple[bytes, list[int]]] = deque()

    @property
    def waits(self) -> bool:
        """Whether something is on its way yet."""
        return bool(self._waiting)

    def put(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        """Add one, as `send` does."""
        self._waiting.append((encode(message, len(fds)), [os.dup(fd) for fd in fds]))

    def push(self) -> None:
        """
        Send as much as is taken now.

        Raises:
            OSError: The other side has gone.
        """
        with contextlib.suppress(BlockingIOError):
            while self._waiting:
                data, fds = self._waiting[0]
                sent = socket.send_fds(self._connection, [data], fds) if fds else self._connection.send(data)
                self._waiting[0] = data[sent:], []
                _close(fds)
                if sent == len(data):
                    self._waiting.popleft()

    def close(self) -> None:
        """Forget what has not been sent."""
        while self._waiting:
            _close(self._waiting.popleft()[1])


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


@dataclass
class RunnerProcess:
    """A runner and what waits for it."""

    #: Its process id.
    pid: int
    #: The socket to it.
    control: socket.socket
    #: What it prints outside of pytest's capture.
    output: int
    #: What its run is shut in by.
    cell: Cell
    #: What it is told.
    outbox: Outbox
    #: The socket to its parent, where that is a warden.
    warden: socket.socket | None = None
    #: Write end of a pipe at whose end the kernel kills it, which does not listen while it collects; or -1.
    leash: int = -1
    #: Whether it is, or was, a test process itself.
    became: bool = False
    #: The run's specification once it has one.
    spec: dict[str, Any] = field(default_factory=dict)
    #: The execution whose identity it collects with, 0 when it can be none any more.
    configured_for: int = 0
    #: Empty while it collects, then ``fork`` or ``spawn``.
    mode: str = ""
    #: Why it does not fork.
    unforkable: str = ""
    #: Supervisors that wait.
    waiting: list[Request] = field(default_factory=list)
    #: All who have asked it and have not let go: those that wait, and those that it serves.
    served: list[Request] = field(default_factory=list)
    #: When a supervisor asked it or let go of it, the last time; 0 when none has asked yet.
    used_at: float = 0.0
    #: Whether its run hands out no more work.
    over: bool = False


def fail(fds: list[int], message: str) -> None:
    """Tell a supervisor, at its end of the connection, that there is no test process to be had, ever; close its fds."""
    with socket.socket(fileno=fds[0]) as connection:
        say(connection, b"F", {"message": message})
    os.close(fds[1])


def test_environment(environ: Mapping[str, str], withheld: frozenset[str]) -> dict[str, str]:
    """The environment of test processes: this one without what belongs to the service, or is withheld besides."""
    return {name: value for name, value in environ.items() if name not in SECRETS | withheld}


def node_input(spec: dict[str, Any], n: int) -> dict[str, Any]:
    """Xdist's workerinput of execution `n`: what the controller and its plugins put there, and the worker's own id."""
    nodes: list[dict[str, Any]] = spec["nodes"]
    return {**nodes[min(n, len(nodes)) - 1], "workerid": worker_id(n)}


def xdist_environment(spec: dict[str, Any], n: int) -> dict[str, str]:
    """Xdist's variables for execution `n`; its remote.py sets them before anything of the project is imported."""
    return {
        "PYTEST_XDIST_WORKER": worker_id(n),
        "PYTEST_XDIST_WORKER_COUNT": str(spec["count"]),
        "PYTEST_XDIST_TESTRUNUID": spec["uid"],
    }


def worker_id(n: int) -> str:
    """The execution's name as plugins know it from xdist."""
    return f"gw{n - 1}"
