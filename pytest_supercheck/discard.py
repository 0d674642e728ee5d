"""
Where a host has the workspaces of its runs, and how they go when nobody uses them any more.

Between a host and the supervisors beside it, which hold a workspace's lock for as long as they need it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import uuid
from pathlib import Path
from typing import Final

from pytest_supercheck.build_cache import remove
from pytest_supercheck.errors import Infrastructure
from pytest_supercheck.valkey import cache_dir

#: Locks of this process, which end with it.
_HELD: Final[list[int]] = []

#: Where a worker keeps what runs share, if it runs as root: other users, whom it starts test processes as, get there.
SYSTEM_CACHE: Final = Path("/var/cache/pytest-supercheck")


def worker_cache() -> Path:
    """Where a worker keeps what its runs share: below `SUPERCHECK_CACHE`, else in the system's or the user's cache."""
    if os.geteuid() == 0 and not os.environ.get("SUPERCHECK_CACHE"):
        return SYSTEM_CACHE
    return cache_dir() / "worker"


def make_workspaces(cache: Path) -> Path:
    """
    Make a directory for the workspaces of this process's runs, and remove those of processes that are no more.

    Whose process lives holds a lock: a cache may be shared with machines that do not see each other's processes.

    Raises:
        Infrastructure: It cannot be made.
    """
    place = cache / "workspaces"
    try:
        place.mkdir(mode=0o711, parents=True, exist_ok=True)
        for lock in place.glob("*.host"):
            _remove_deserted(lock)
        made = place / f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        _HELD.append(os.open(f"{made}.host", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        fcntl.flock(_HELD[-1], fcntl.LOCK_EX)
        made.mkdir()
        for directory in (place, made):
            if directory.stat().st_uid == os.geteuid():  # whatever we were started with: tests may be somebody else
                directory.chmod(0o711)
    except OSError as exc:
        raise Infrastructure(f"The worker's directory cannot be made: {exc}. Set SUPERCHECK_CACHE to another.") from exc
    return made


def _remove_deserted(lock: Path) -> None:
    """Best effort: whatever tests have left there, a worker starts."""
    with contextlib.suppress(OSError):  # another worker removes it, too
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else its process lives
            made = lock.with_suffix("")
            remove(made)
            if not made.exists():
                lock.unlink()
        finally:
            os.close(fd)


def end_workspaces(made: Path) -> None:
    """Remove the directory that `make_workspaces` has made; its lock ends with this process and its children."""
    remove(made)
    Path(f"{made}.host").unlink(missing_ok=True)


def lock_of(workspace: str | Path) -> Path:
    """The file that whoever uses a workspace holds shared, and who makes or removes it alone."""
    return Path(f"{workspace}.lock")


def link_to(workspace: str | Path, links: Path) -> Path:
    """A short name among links for a workspace's directory of temporary files, and for no other's."""
    return links / hashlib.sha256(os.fsencode(workspace)).hexdigest()[:12]


def discard(workspace: str, links: Path) -> bool:
    """
    Remove a workspace unless somebody uses it; the files go in a thread of their own.

    Args:
        links: Where it has a short name.

    Returns:
        Whether there was nobody.
    """
    lock = lock_of(workspace)
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        aside = f"{workspace}.{uuid.uuid4().hex[:12]}"
        os.rename(workspace, aside)
        lock.unlink()
        link_to(workspace, links).unlink(missing_ok=True)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    finally:
        os.close(fd)
    threading.Thread(target=remove, args=(Path(aside),), daemon=True).start()
    return True
