"""
The parent of a runner in a process space of its own, where nobody outside can signal test processes or wait for them.

Started by a host in place of the runner (`boot`), which it forks; does for one that must not fork what the host does
elsewhere.  When it ends, so does all of its space.  Runs inside the user's environment: stdlib and `keeper` only.

Messages from the host: ``keep`` (the runner becomes the test process of an execution, with its connection, leash and
marks), ``interrupt`` (the test process of one).
"""

from __future__ import annotations

import importlib
import os
import selectors
import socket
from typing import Final, NoReturn

from pytest_supercheck.keeper import Child, Keeper, Lines, Marks, readable

#: The descriptor at which a warden finds the socket to the host, beside the runner's own.
WARDEN_FD: Final = 4


def main(fd: int) -> int:
    """Fork the runner that has socket `fd`, and be its parent; returns in the runner, with its exit code."""
    runner = os.fork()
    if runner:
        os.close(fd)
        _watch(socket.socket(fileno=WARDEN_FD), runner)
    os.close(WARDEN_FD)
    os.setsid()
    return int(importlib.import_module("pytest_supercheck.runner").main(fd))


def _watch(host: socket.socket, runner: int) -> NoReturn:
    selector = selectors.DefaultSelector()
    keeper = Keeper(selector, lambda _child: os._exit(0))
    lines = Lines(host)
    ended = os.pidfd_open(runner)

    def receive() -> None:
        messages = lines.receive()
        if messages is None:
            os._exit(0)  # the host has gone, or has no more use for us
        for message, fds in messages:
            if "keep" in message:
                selector.unregister(ended)
                connection, leash, page = fds
                process = Child(runner, socket.socket(fileno=connection), leash, Marks(page))
                process.outputs, process.job = {"process": os.dup(1)}, message["keep"]
                keeper.adopt(process)
            elif "interrupt" in message:
                keeper.interrupt(message["interrupt"])

    def on_end() -> None:
        while readable(host.fileno()):
            receive()  # it may have been a test process already
        if not keeper.children:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1]) & 0xFF)

    selector.register(host, selectors.EVENT_READ, receive)
    selector.register(ended, selectors.EVENT_READ, on_end)
    while True:
        for key, _ in selector.select():
            key.data()
