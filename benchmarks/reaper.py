"""
A process between a benchmark and a command: runs the command until everything that it started has ended, and says what
that cost.

Daemons leave their parents, and with them the usual accounting of children.  On Linux this process adopts every orphan
among its descendants (PR_SET_CHILD_SUBREAPER), so it reaps them all, each with what it used and what the children used
that it had reaped itself.  When the benchmark goes, in whatever way, everything is killed.  Stdlib only: it runs by its
path, in an isolated interpreter.

Usage: ``reaper.py OUTPUT COMMAND...`` with a pipe as stdin, at whose end everything is killed; the cost comes as a line
of JSON on stdout.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Final

#: prctl's number for it (linux/prctl.h).
PR_SET_CHILD_SUBREAPER: Final = 36

#: Seconds that what a command leaves behind has to end by itself, before it is killed.
STRAGGLE_S: Final = 15.0


def adopt_orphans() -> None:
    """Become the parent of all descendants that lose theirs, where the system can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def parents() -> dict[int, int]:
    """Every process on this machine and its parent."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        told = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=True)
        return {int(pid): int(parent) for pid, parent in (row.split() for row in told.stdout.splitlines())}
    found = {}
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                found[pid] = int(stat.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue  # it has just ended
    return found


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    children: dict[int, list[int]] = {}
    for child, parent in parents().items():
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, []))
    for known in found:  # grows while it is walked
        found += children.get(known, [])
    return found


class Reaper:
    """
    One command and all that it starts.

    Args:
        command: Program and arguments.
        output: A file that gets what it prints.
    """

    def __init__(self, command: list[str], output: str) -> None:
        self.cpu_s = 0.0
        self.wall_s = 0.0
        self.status: int | None = None
        self.killed = 0
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        actions = [(os.POSIX_SPAWN_DUP2, fd, target) for fd, target in ((null, 0), (log, 1), (log, 2))]
        self._started = time.monotonic()
        self._pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
        os.close(null)
        os.close(log)

    def reap(self) -> bool:
        """
        Account for what has ended.

        Returns:
            Whether anything is still alive.
        """
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            self.cpu_s += usage.ru_utime + usage.ru_stime
            if pid == self._pid:
                self.wall_s = time.monotonic() - self._started
                self.status = os.waitstatus_to_exitcode(status)

    def overdue(self) -> bool:
        """Whether the command has ended so long ago that the rest should have ended too."""
        return self.status is not None and time.monotonic() > self._started + self.wall_s + STRAGGLE_S

    def kill_all(self) -> None:
        """Kill everything; repeated until nothing is left, because what is killed may just have started something."""
        while self.reap():
            for pid in descendants(os.getpid()):
                try:
                    os.kill(pid, signal.SIGKILL)
                    self.killed += 1
                except (ProcessLookupError, PermissionError):
                    pass
            time.sleep(0.005)


def main(output: str, *command: str) -> int:
    """Run the command to the end of everything that it started, or until stdin ends."""
    adopt_orphans()
    woken, wake = os.pipe()
    for fd in (woken, wake):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reaper = Reaper(list(command), output)
    while reaper.reap():
        ready, _, _ = select.select([0, woken], [], [], 1.0)
        if woken in ready:
            os.read(woken, 512)
        if 0 in ready or reaper.overdue():
            reaper.kill_all()
    cost = {"status": reaper.status, "wall_s": reaper.wall_s, "cpu_s": reaper.cpu_s, "killed": reaper.killed}
    try:
        os.write(1, json.dumps(cost).encode())
    except BrokenPipeError:
        pass  # nobody wants to know
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
