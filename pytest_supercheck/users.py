"""
Unprivileged users of a host, one for the processes of each run: taken, given files, and swept when they are done with.

Beneath `isolation`; for a worker that runs as root, on Linux.  Knows user ids, processes and files, no pytest.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pwd
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_supercheck.boot import become
from pytest_supercheck.errors import CannotIsolate

logger = logging.getLogger(__name__)

#: Whoever holds the lock on a user's file here has that user; all workers of a host share them.
LOCKS: Final = Path("/run/pytest-supercheck")

#: Where anybody may leave files.
COMMON: Final = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock")

#: Seconds that killed processes have to be gone.
GONE_S: Final = 10.0

#: Paths that one command removes: well below what the kernel takes, however long they are.
_AT_ONCE: Final = 200

#: Tables of the kernel's shared memory, semaphores and queues, and the option of ipcrm for each.
_IPC: Final = {"shm": "-m", "sem": "-s", "msg": "-q"}


@dataclass(eq=False)
class User:
    """A user that this process has, alone on this host."""

    #: Its user and group id.
    uid: int
    #: The open file that holds the lock.
    lock: int
    #: Directories that were given to it, to be taken back.
    trees: list[str] = field(default_factory=list)
    #: One that was made for it, to be removed; empty for none.
    home: str = ""


class Users:
    """
    Those of a range of ids.

    Args:
        first: The first id. It runs nothing: as it processes of the others are killed. The next one is the builder's.
        last: The last one.

    Raises:
        CannotIsolate: One of these two is somebody's, whose processes would be killed, or who would have the caches.
    """

    def __init__(self, first: int, last: int) -> None:
        if taken := [uid for uid in (first, first + 1) if _is_somebody(uid)]:
            raise CannotIsolate(
                f"the user id {taken[0]} is {pwd.getpwuid(taken[0]).pw_name}'s: set SUPERCHECK_ISOLATE_UIDS to others"
            )
        self._reaper = first
        #: Who builds what runs share: no run's user, and not the reaper, whom it could kill.
        self.builder = first + 1
        self._range = range(first + 2, last + 1)
        self._sweeping: dict[int, User] = {}

    def take(self) -> User | None:
        """A user of whom no process and no file is left, or None when all are taken."""
        LOCKS.mkdir(mode=0o700, exist_ok=True)
        for uid in self._range:
            user = _lock(uid)
            if user is None:
                continue
            if os.fstat(user.lock).st_size == 0:
                os.write(user.lock, b"taken")
                return user
            self._sweep(user)  # whoever had it was killed; another one meanwhile
        return None

    def release(self, user: User) -> None:
        """Kill all that is left of a user, remove its files, and then let others have it; does not wait."""
        for tree in user.trees:
            with contextlib.suppress(OSError):
                # What is below is the next one's, who must not get there.
                os.chown(tree, 0, 0, follow_symlinks=False)
        self._sweep(user)

    def tidy(self) -> None:
        """Let others have the users that have been swept by now."""
        for pid, user in list(self._sweeping.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            del self._sweeping[pid]
            if status:
                logger.warning("what a run has left does not go away", extra={"uid": user.uid})
                continue  # nobody gets it for as long as this process lives
            os.ftruncate(user.lock, 0)
            fcntl.flock(user.lock, fcntl.LOCK_UN)  # forked processes hold copies
            os.close(user.lock)

    def close(self) -> None:
        """Wait until all that has been released is swept."""
        give_up_at = time.monotonic() + GONE_S
        while self._sweeping and time.monotonic() < give_up_at:
            self.tidy()
            time.sleep(0.002)

    def _sweep(self, user: User) -> None:
        pid = os.fork()
        if pid == 0:
            become(lambda: _end_all_of(user.uid, self._reaper), lambda: _remove_all_of(user))
        self._sweeping[pid] = user


def give(tree: str, user: User) -> None:
    """Make a directory and what is in it a user's own; others do not get in."""
    own(tree, user.uid)
    os.chmod(tree, 0o700)
    user.trees.append(tree)


def own(tree: str | Path, uid: int) -> None:
    """
    Make a directory and what is in it somebody's own.

    Files that have several names stay as they are: the others may be somebody else's.
    """
    for _, _, files, at in os.fwalk(tree):
        os.fchown(at, uid, uid)
        for name in files:
            if os.stat(name, dir_fd=at, follow_symlinks=False).st_nlink == 1:
                os.chown(name, uid, uid, dir_fd=at, follow_symlinks=False)


def is_closed_to(user: User, directory: str, *, above: bool) -> bool:
    """
    Whether a user cannot enter and list a directory, by trying it.

    Args:
        above: Whether those above it count, too.
    """
    at = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(user.uid, user.uid, user.uid)
            os.setresuid(user.uid, user.uid, user.uid)
            is_open = os.access(directory if above else ".", os.R_OK | os.X_OK, dir_fd=None if above else at)
            os._exit(not is_open)
        finally:
            os._exit(1)
    os.close(at)
    return os.waitpid(pid, 0)[1] != 0


def _is_somebody(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _lock(uid: int) -> User | None:
    """A user of this host whom nobody has and who is nobody, or None."""
    if _is_somebody(uid):
        return None
    lock = os.open(LOCKS / str(uid), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return User(uid, lock)


def _end_all_of(uid: int, reaper: int) -> None:
    give_up_at = time.monotonic() + GONE_S
    while uid in _living():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"processes of user {uid} do not die")
        pid = os.fork()
        if pid == 0:
            become(lambda: _kill_all_of(uid, reaper))
        os.waitpid(pid, 0)
        time.sleep(0.002)


def _kill_all_of(uid: int, reaper: int) -> None:
    """
    Kill every process of a user at once, also those that fork all the time.

    Who sends a signal is told by the effective user id; who may be sent one by the others, which are not this user's.
    """
    os.setgroups([])
    os.setresgid(reaper, reaper, reaper)
    os.setresuid(reaper, uid, reaper)
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def _living() -> Iterator[int]:
    """The user of each process that is not a zombie."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(row.split(":", 1) for row in status.read_text("utf-8", "replace").splitlines())
        except (OSError, ValueError):
            continue
        if fields["State"].split()[0] not in ("Z", "X"):
            yield int(fields["Uid"].split()[0])


def _remove_all_of(user: User) -> None:
    """What a user, of whom no process is left, has left in its home and in common places."""
    for table, option in _IPC.items():
        for number in _ipc(table, user.uid):
            subprocess.run(["ipcrm", option, number], check=False)
    # A worker that was killed has not told where it made a home.
    places = [place for place in {*COMMON, tempfile.gettempdir()} if os.path.isdir(place)]
    left = [entry.path for place in places for entry in os.scandir(place) if _is_of(entry, user.uid)]
    left += [user.home] if user.home else []
    # Not shutil: however deep a test's directories are. Not at once: however many they are.
    for begin in range(0, len(left), _AT_ONCE):
        subprocess.run(["rm", "-rf", "--one-file-system", "--", *left[begin : begin + _AT_ONCE]], check=True)


def _is_of(entry: os.DirEntry[str], uid: int) -> bool:
    try:
        return entry.stat(follow_symlinks=False).st_uid == uid
    except OSError:
        return False


def _ipc(table: str, uid: int) -> list[str]:
    """The ids of a user's entries in a table of /proc/sysvipc."""
    try:
        head, *rows = [row.split() for row in Path("/proc/sysvipc", table).read_text().splitlines()]
    except (OSError, ValueError):
        return []
    return [row[1] for row in rows if str(uid) in (row[head.index("uid")], row[head.index("cuid")])]
