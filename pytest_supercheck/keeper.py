"""
The parent of test processes: it ends them with their supervisor and tells the supervisor how they ended.

Runs in the runner (for the children that it forked) and in the host (for runners that must not fork).  Knows processes
and descriptors, neither pytest nor Redis.  Stdlib only, because the runner lives in the user's environment.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import resource
import select
import selectors
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

#: Characters of a dead process's last output that are kept.
TAIL: Final = 4000

#: Seconds between looks at the children where the kernel has no pidfd.
POLL_S: Final = 0.02

#: What a frame ends with that nobody has finished: in JSON it can be nowhere.
CUT: Final = b"\x18"

_MARK: Final = struct.Struct("<qq")


class Marks:
    """
    A page shared with a test process in which it notes what it is doing, at no cost, for the case that it dies.
    """

    def __init__(self, fd: int = -1) -> None:
        """
        Map the page.

        Args:
            fd: A file that the other side maps too, empty when nobody has yet, to be closed here; without one the page
                is shared with processes forked later.
        """
        self._fd = fd
        if fd >= 0 and os.fstat(fd).st_size < _MARK.size:
            os.pwrite(fd, _MARK.pack(-1, 0), 0)  # not by way of the page: where a disk is full that would be our end
        self._page = mmap.mmap(fd, _MARK.size)
        if fd < 0:
            self.set(-1, 0)

    def set(self, index: int, phase: int) -> None:
        """Note the test that runs (its index, -1 for none) and its phase (0 setup, 1 call, 2 teardown)."""
        _MARK.pack_into(self._page, 0, index, phase)

    def get(self) -> tuple[int, int]:
        """The test and the phase noted last; -1 where that is not to be had."""
        # How long a file is says whoever has it, too: to look at a page beyond its end would be our end.
        noted = os.pread(self._fd, _MARK.size, 0) if self._fd >= 0 else self._page[:]
        index, phase = _MARK.unpack(noted) if len(noted) == _MARK.size else (-1, 0)
        return index, phase

    def close(self) -> None:
        """Forget them."""
        self._page.close()
        if self._fd >= 0:
            os.close(self._fd)


@dataclass
class Child:
    """A test process and what ties it to its supervisor."""

    #: Its process id; it leads a process group of its own.
    pid: int
    #: The connection that it shares with its supervisor; how it ended is written here.
    connection: socket.socket
    #: Read end of a pipe whose write end only the supervisor holds; at its end the process group is killed.
    leash: int
    #: What it was doing.
    marks: Marks | None = None
    #: Files that hold its output, by name.
    outputs: dict[str, int] = field(default_factory=dict)
    #: The execution that it serves.
    job: str = ""
    #: Write end of a pipe at whose end the kernel kills it (`tie`): it does not outlive who holds this; -1 for none.
    bond: int = -1
    #: Whether its end was asked for.
    killed: bool = False
    #: The kernel's handle on it, -1 where there is none.
    pidfd: int = -1


def oom_kills() -> int:
    """How many processes this kernel has killed for want of memory, 0 where it does not tell."""
    try:
        with open("/proc/vmstat", "rb") as stat:
            for row in stat:
                if row.startswith(b"oom_kill "):
                    return int(row.split()[1])
    except OSError:
        pass
    return 0


def tail(fd: int, size: int = TAIL) -> str:
    """The last `size` bytes of a file, as text."""
    length = os.fstat(fd).st_size
    return os.pread(fd, size, max(0, length - size)).decode("utf-8", "replace")


def tie(leash: int) -> None:
    """
    Let the kernel kill this process's group at the end of a leash, even when nobody watches it any more.

    Linux only; elsewhere the keeper's watch has to do.  The descriptor must stay open.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(leash, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(leash, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(leash, fcntl.F_SETFL, fcntl.fcntl(leash, fcntl.F_GETFL) | os.O_ASYNC)


def out_of_reach(fd: int) -> int:
    """A copy of a descriptor with a high number, where tests that close the low ones do not reach it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = 512 if soft == resource.RLIM_INFINITY else max(3, min(512, soft - 32))
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def kill_group(pid: int) -> None:
    """Kill a process and all that is left of its group."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


class Keeper:
    """
    Watches test processes from a selector that its owner runs.

    Args:
        selector: The owner's; descriptors are registered with a callable as data.
        on_exit: Called with a child after it has been reaped and its end reported.
    """

    def __init__(self, selector: selectors.BaseSelector, on_exit: Callable[[Child], None]) -> None:
        self._selector = selector
        self._on_exit = on_exit
        self._ooms = oom_kills()
        self.children: dict[int, Child] = {}

    @property
    def poll_s(self) -> float | None:
        """Longest time the owner may wait in its selector, None for any."""
        return POLL_S if any(child.pidfd < 0 for child in self.children.values()) else None

    def adopt(self, child: Child) -> None:
        """
        Take charge of a process that has just been started.

        Raises:
            OSError: There is no descriptor to watch it with; nothing was taken charge of.
        """
        if hasattr(os, "pidfd_open"):
            child.pidfd = os.pidfd_open(child.pid)
            self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._reap(child))
        self._selector.register(child.leash, selectors.EVENT_READ, lambda: self.kill(child))
        self.children[child.pid] = child

    def kill(self, child: Child) -> None:
        """Kill a child with its process group; its end is reported when it has come."""
        self._selector.unregister(child.leash)
        os.close(child.leash)
        child.leash, child.killed = -1, True
        kill_group(child.pid)

    def interrupt(self, job: str) -> None:
        """Send SIGINT to the child that serves an execution, not to what its tests have started."""
        for child in self.children.values():
            if child.job == job:
                os.kill(child.pid, signal.SIGINT)

    def look(self) -> None:
        """Reap what has ended, where the kernel does not tell."""
        for child in [child for child in self.children.values() if child.pidfd < 0]:
            self._reap(child)

    def abandon(self) -> None:
        """Close everything, in a forked child that must not touch its siblings."""
        for child in self.children.values():
            child.connection.close()
            for fd in (child.leash, child.pidfd, child.bond, *child.outputs.values()):
                if fd >= 0:
                    os.close(fd)
        self.children.clear()

    def kill_all(self) -> None:
        """Kill every child and its group, at once."""
        for child in self.children.values():
            kill_group(child.pid)

    def _reap(self, child: Child) -> None:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid == 0:
            return
        kill_group(pid)  # what it left behind in its group
        self._report(child, status, usage.ru_maxrss)
        for fd in (child.leash, child.pidfd):
            if fd >= 0:
                self._selector.unregister(fd)
                os.close(fd)
        for fd in (child.bond, *child.outputs.values()):
            if fd >= 0:
                os.close(fd)
        if child.marks:
            child.marks.close()
        child.connection.close()
        del self.children[child.pid]
        self._on_exit(child)

    def _report(self, child: Child, status: int, max_rss_kb: int) -> None:
        index, phase = child.marks.get() if child.marks else (-1, 0)
        ended: dict[str, Any] = {"i": index, "phase": phase, "host": socket.gethostname(), "max_rss_kb": max_rss_kb}
        code = os.waitstatus_to_exitcode(status)
        ended.update({"signal": -code} if code < 0 else {"exit_code": code})
        if child.killed:
            ended["killed"] = True
        elif code == -signal.SIGKILL and oom_kills() > self._ooms:
            ended["oom"] = True
        if code:
            ended["output"] = {name: text for name, fd in child.outputs.items() if (text := tail(fd))}
        say(child.connection, b"X", ended)


def say(connection: socket.socket, kind: bytes, value: object) -> None:
    """
    Write one line to a supervisor, best effort: it may have gone.

    What is in front ends whatever line a process that was killed had begun, so that nobody takes it for a whole one.
    """
    try:
        connection.sendall(CUT + b"\n" + kind + b" " + json.dumps(value).encode("ascii") + b"\n")
    except OSError:
        pass


class Frames:
    """
    Frames that end with a newline each, and descriptors that come with them, from a stream socket.

    Args:
        connection: The socket.
        fds: How many descriptors may come in one read; the kernel closes those beyond.
        limit: Bytes of a frame, at most; 0 for any.
        read: Bytes of one read, at most.
    """

    def __init__(self, connection: socket.socket, *, fds: int = 16, limit: int = 0, read: int = 1 << 16) -> None:
        self.connection = connection
        #: Descriptors that have come and that nobody has taken, in the order of their frames.
        self.fds: list[int] = []
        self._most = fds
        self._limit = limit
        self._read = read
        self._rest = bytearray()

    def read(self) -> list[bytes] | None:
        """
        Read once, blocking until there is something.

        Returns:
            The frames that are complete now; None when the other side has gone.

        Raises:
            ValueError: A frame is too long. It is forgotten up to here.
        """
        try:
            chunk, fds, _, _ = socket.recv_fds(self.connection, self._read, self._most)
        except ConnectionError:
            return None
        for fd in fds:
            os.set_inheritable(fd, False)  # recvmsg leaves them open over exec
        self.fds += fds
        if not chunk:
            return None
        self._rest += chunk
        frames: list[bytes] = []
        if b"\n" in chunk:  # else what is there is not looked at again and again
            *frames, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
        if self._limit and len(self._rest) > self._limit:
            self._rest.clear()
            raise ValueError("a message is too long")
        return frames


class Lines(Frames):
    """JSON messages as frames, each with as many descriptors as its ``fds`` says."""

    def receive(self) -> list[tuple[dict[str, Any], list[int]]] | None:
        """
        Read once, blocking until there is something.

        Returns:
            The messages that are complete now, with their descriptors; None when the other side has gone.

        Raises:
            ValueError: A message is no JSON, or too long.
        """
        frames = self.read()
        if frames is None:
            return None
        messages = []
        for raw in frames:
            message = json.loads(raw)
            count = message.get("fds", 0)
            messages.append((message, self.fds[:count]))
            del self.fds[:count]
        return messages


def encode(message: dict[str, Any], fds: int) -> bytes:
    """A message as `Lines` reads it, which so many descriptors come with."""
    return json.dumps({**message, "fds": fds} if fds else message).encode("ascii") + b"\n"


def send(connection: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    """Send one message as `Lines` reads it. Descriptors are duplicated on the way; the caller closes its own."""
    data = encode(message, len(fds or ()))
    if fds:
        sent = socket.send_fds(connection, [data], fds)
        data = data[sent:]
    if data:  # even an empty send fails when the other side has what it wanted and closed
        connection.sendall(data)


def readable(fd: int, within_s: float = 0.0) -> bool:
    """Whether a read would not block, now or soon."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(within_s * 1000))
