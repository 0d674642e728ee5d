"""
The stack of a session that has no pool: Valkey, workers and a runner on this machine, for as long as the session lives.

Two halves: `EmbeddedStack` in the controller, which only starts a process and talks to it over a socket, and `main`,
that process.  When the controller goes, in whatever way, the socket ends, and the process ends everything it started.
"""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_supercheck import boot, connector, valkey
from pytest_supercheck.keeper import Lines, send

if TYPE_CHECKING:
    from pytest_supercheck.host import Host

#: Seconds that the stack has to end before it is killed.
STOP_S: Final = 5.0


class EmbeddedStack:
    """
    The controller's handle on its stack.

    Args:
        notify: Shows a line to the user, such as that Valkey is being fetched.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._binary = valkey.find_server(notify=notify)
        self.directory = valkey.make_directory()
        self.url = f"unix://{self.directory}/valkey.sock"
        self._control: socket.socket | None = None
        self._pid = 0

    def start(self, run: str, spec: dict[str, Any], workers: int) -> None:
        """Start it, with a runner for `spec` that begins at once."""
        self._control, theirs = socket.socketpair()
        log = os.open(self.directory / "stack.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        with theirs:
            self._pid = boot.start("pytest_supercheck.embedded", theirs, log)
        os.close(log)
        start_with = {"binary": str(self._binary), "directory": str(self.directory), "run": run, "spec": spec}
        send(self._control, {"start": {**start_with, "workers": workers}})

    def connect(self, connector: socket.socket) -> int:
        """Let it fork a connector, which is nobody's else to wait for, on a socket."""
        assert self._control is not None
        send(self._control, {"connector": {}}, [connector.fileno()])
        return 0

    def configure(self, workerinput: dict[str, Any]) -> None:
        """Let the runner go on to collect."""
        if self._control:
            try:
                send(self._control, {"configure": workerinput})
            except OSError:
                pass  # it has died; the connection to its Valkey will tell

    def fault(self) -> str:
        """Why it has died, an empty string while it lives."""
        if not self._pid or not boot.reaped(self._pid):
            return ""
        self._pid = 0
        try:
            said = (self.directory / "stack.log").read_text("utf-8", "replace").strip()[-2000:]
        except OSError:
            said = ""
        return f"the embedded stack ended by itself{': ' if said else ''}{said}"

    def release(self) -> None:
        """Let it end by itself, while this process does something else."""
        if self._control:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)  # a process that a plugin has forked may hold a copy
            self._control.close()
            self._control = None

    def stop(self) -> None:
        """End it and all that it started; safe to repeat."""
        self.release()
        if self._pid:
            boot.end(self._pid, STOP_S)
        self._pid = 0
        shutil.rmtree(self.directory, ignore_errors=True)


class _Controller:
    """The stack's side of the socket to the controller."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._lines = Lines(connection)
        self._pending: list[tuple[dict[str, Any], list[int]]] = []
        self.gone = False

    def receive(self, name: str) -> tuple[Any, list[int]]:
        """Block until a message of that name has come, with its descriptors; None when the controller has gone."""
        while not self.gone:
            for position, (message, fds) in enumerate(self._pending):
                if name in message:
                    del self._pending[position]
                    return message[name], fds
            self.read()
        return None, []

    def read(self) -> None:
        """Read what has come."""
        messages = self._lines.receive()
        self.gone = messages is None
        self._pending += messages or []


def main(fd: int) -> int:
    """Be the stack of the controller at socket `fd` until it goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    controller = _Controller(socket.socket(fileno=fd))
    start, _ = controller.receive("start")
    if start is None:
        return 0
    directory = Path(start["directory"])
    from pytest_supercheck.host import Host

    host = Host(directory, spare=False)
    host.prepare(start["run"], start["spec"])  # first of all: it has the longest way to go
    server = valkey.start_server(Path(start["binary"]), directory)
    try:
        _serve(controller, start, server, host)
    finally:
        server.stop()
        if controller.gone:  # else it reads in the log why we ended, and removes the directory itself
            shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)  # nothing is left that a longer goodbye could do


def _serve(controller: _Controller, start: dict[str, Any], server: valkey.Server, host: Host) -> None:
    from pytest_supercheck.pool import Pool

    def configure() -> None:
        workerinput, _ = controller.receive("configure")
        if workerinput is not None:
            host.configure(start["run"], workerinput)

    # The runner need not wait for our imports.
    forward = threading.Thread(target=configure)
    forward.start()
    from pytest_supercheck import worker
    from pytest_supercheck.footprint import store_directory
    from pytest_supercheck.operators import PoolSettings, StoreSettings
    from pytest_supercheck.redis_gateway import RedisGateway
    from pytest_supercheck.workplace import Workplace

    valkey.wait_ready(server.socket_path, 10, server)
    gateway = RedisGateway.connect(server.url)
    gateway.dispatcher.limits(running=start["workers"], queued=1)

    # No limit of ours unless asked for: plain pytest has none either.
    limit_s = PoolSettings.from_env().execution_timeout_s if "SUPERCHECK_TEST_EXECUTION_TIMEOUT_MS" in os.environ else 0
    store = StoreSettings(url=str(store_directory(Path(start["spec"]["rootdir"]))), s3_endpoint=None)
    place = Workplace(
        url=server.url, token=None, host_socket=host.socket_path, execution_timeout_s=limit_s, store=store
    )
    forward.join()  # no fork beside a thread
    _fork_connector(controller)
    pool = Pool(host, start["workers"], functools.partial(worker.work, place), gateway.dispatcher)
    try:
        pool.start()
        host.selector.register(controller.connection, selectors.EVENT_READ, controller.read)
        while not controller.gone:
            pool.step()
    finally:
        host.close()
        pool.kill()


def _fork_connector(controller: _Controller) -> None:
    """The controller's connector: all that it needs is imported here already."""
    _, fds = controller.receive("connector")
    if fds and os.fork() == 0:
        boot.become(lambda: connector.main(fds[0]))
    for fd in fds:
        os.close(fd)
