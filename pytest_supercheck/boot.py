"""
How a process of this package starts another one: by fork or by a new interpreter, with a socket between the two.

Stdlib only: processes that have imported nothing yet begin here.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Final, NoReturn

from pytest_supercheck.keeper import kill_group

#: The descriptor at which a started process finds the socket to the one that started it.
CONTROL_FD: Final = 3


def boot(module: str) -> list[str]:
    """
    Interpreter arguments that call ``main(CONTROL_FD)`` of a module of this package.

    Not ``-m``, which would put the working directory in front of `sys.path`, where a project's modules shadow others.
    """
    code = (
        f"import sys; sys.path[:1] == [''] and sys.path.pop(0); from {module} import main; sys.exit(main({CONTROL_FD}))"
    )
    return ["-c", code]


def start(module: str, control: socket.socket, log: int) -> int:
    """
    Start a process that calls ``main(fd)`` of a module, in a session of its own.

    A fork, where that is safe, has imported already most of what it needs.

    Args:
        module: Dotted name.
        control: The end of a socket that the process gets; still the caller's to close.
        log: Where it prints.

    Returns:
        Its process id; it is the caller's to reap.
    """
    if sys.platform == "darwin" or threading.active_count() > 1:
        null = os.open(os.devnull, os.O_RDONLY)
        fds = ((null, 0), (log, 1), (log, 2), (control.fileno(), CONTROL_FD))
        actions = [(os.POSIX_SPAWN_DUP2, old, new) for old, new in fds]
        pid = os.posix_spawn(
            sys.executable, [sys.executable, *boot(module)], os.environ, file_actions=actions, setsid=True
        )
        os.close(null)
        return pid
    pid = os.fork()
    if pid == 0:
        become(lambda: _detach(control.fileno(), log), lambda: importlib.import_module(module).main(control.detach()))
    return pid


def become(*steps: Callable[[], object]) -> NoReturn:
    """Be another process after a fork: nothing that goes wrong must reach what was forked."""
    try:
        for step in steps:
            step()
        os._exit(0)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        os._exit(1)


def keep_descriptors() -> None:
    """Let no descriptor that this process was started with, but the first three, be inherited by what it starts."""
    for name in os.listdir("/dev/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the directory's own
                os.set_inheritable(int(name), False)


def reaped(pid: int) -> bool:
    """Whether a child has ended, also when somebody else has waited for it; does not wait."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def end(pid: int, within_s: float) -> None:
    """Wait for a child that has been told to end, and kill it with its group when it has not in so many seconds."""
    deadline = time.monotonic() + within_s
    while not reaped(pid):
        if time.monotonic() > deadline:
            kill_group(pid)
        time.sleep(0.001)


def _detach(control: int, log: int) -> None:
    """Leave the forked process's terminal, streams, signal handlers and warning filters behind."""
    if sys.path[:1] in ([""], [os.getcwd()]):
        del sys.path[0]  # as in `boot`
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in {int(name) for name in os.listdir("/dev/fd")} - {control, log, null}:
        # Not closed: their numbers may be somebody's, who would close them again. Among them are the copies of stdout
        # that pytest's capture holds: a pipe that reads our output ends with the session, not with us.
        with contextlib.suppress(OSError):
            os.dup2(null, fd, inheritable=fd < 3)
    for fd in (1, 2):
        os.dup2(log, fd)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", buffering=1, closefd=False) for fd in (1, 2))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
