"""
Directories that are built once on a host and used by many: environments, and projects installed into them.

Knows locks and directories, not what is in them.  What is there is whole: it is built aside and renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Seconds between two attempts to get a lock.
_RETRY_S: Final = 0.1

_LOCK: Final = ".lock"
_BUILDING: Final = ".building"
_GONE: Final = ".gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A built directory that stays for as long as somebody holds it."""

    #: Where it is. Not to be changed.
    path: Path
    #: The descriptor of its lock.
    lock: int

    def close(self) -> None:
        """Let go of it, once; the end of the process does the same."""
        os.close(self.lock)


class BuildCache:
    """
    One kind of such directories.

    Args:
        directory: Where they are; made when needed.
        kept: How many are kept, from 1: those used last, and all that are held.
        pulse: Called several times a second while somebody else builds; what it raises ends the wait.
    """

    def __init__(self, directory: Path, *, kept: int, pulse: Callable[[], None]) -> None:
        self._directory = directory
        self._kept = kept
        self._pulse = pulse

    def obtain(self, key: str, build: Callable[[Path, int], None], waits: Callable[[], None]) -> Held:
        """
        Hold a directory, built now if it is not there.

        Args:
            key: Its name; equal keys mean equal contents.
            build: Fills the empty directory that it is given, whose final name is another; the descriptor is a lock
                which processes that it starts are to have, too. What it raises leaves nothing behind.
            waits: Called once if somebody else is building it.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / key
        while True:
            lock = self._lock(path, fcntl.LOCK_SH, waits)
            if path.is_dir():
                os.utime(path)
                return Held(path=path, lock=lock)
            os.close(lock)
            lock = self._lock(path, fcntl.LOCK_EX, waits)
            try:
                if not path.is_dir():
                    self._build(path, build, lock)
            finally:
                os.close(lock)

    def shrink(self, most_bytes: int, size: Callable[[Path], int]) -> None:
        """Remove what was used longest ago, until the others have that many bytes at most; never what is held."""
        total_bytes = 0
        for entry in self._whole():
            self._pulse()
            total_bytes += size(entry)
            if total_bytes > most_bytes:
                self._discard(entry, entry)

    def _whole(self) -> list[Path]:
        """What is built, those first that were used last."""
        used: list[tuple[float, Path]] = []
        for entry in self._directory.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process makes room, too
                if not entry.suffix and entry.is_dir():
                    used.append((entry.stat().st_mtime, entry))
        return [entry for _, entry in sorted(used, reverse=True)]

    def _build(self, path: Path, build: Callable[[Path, int], None], lock: int) -> None:
        self._make_room(path)
        aside = path.with_name(path.name + _BUILDING)
        remove(aside)  # of a build that was killed: whoever builds has the lock
        aside.mkdir()
        try:
            build(aside, lock)
            aside.rename(path)
        finally:
            remove(aside)

    def _lock(self, path: Path, how: int, waits: Callable[[], None]) -> int:
        """A lock of that path, whose file is still the one that others will find."""
        told = False
        while True:
            lock = os.open(path.with_name(path.name + _LOCK), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                while not _try_lock(lock, how):
                    if not told:
                        told = True
                        waits()
                    self._pulse()
                    time.sleep(_RETRY_S)
                if _is_current(lock, path):
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    def _make_room(self, wanted: Path) -> None:
        """Remove what was used longest ago, and what killed builds have left; never what is held."""
        for entry in self._whole()[self._kept - 1 :]:  # `wanted` is not there
            self._discard(entry, entry)
        for entry in self._directory.glob(f"*{_GONE}"):
            remove(entry)
        for lock in self._directory.glob(f"*{_LOCK}"):
            owner = lock.with_suffix("")
            if owner != wanted and not owner.is_dir():
                self._discard(owner, owner.with_name(owner.name + _BUILDING))

    def _discard(self, owner: Path, entry: Path) -> None:
        """Remove what is there of a key, and its lock, unless somebody has that."""
        path = owner.with_name(owner.name + _LOCK)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if _try_lock(lock, fcntl.LOCK_EX) and _is_current(lock, owner) and (entry != owner or owner.is_dir()):
                gone = owner.with_name(owner.name + _GONE)
                remove(gone)
                with contextlib.suppress(FileNotFoundError):
                    entry.rename(gone)
                path.unlink()
                remove(gone)
        finally:
            os.close(lock)


def remove(directory: Path) -> None:
    """
    Remove a directory, however deep, also one that has been made read-only; it may be gone, or be a link by now.

    Best effort.  Safe also while those to whom it belongs still change it: `rm` follows no link, whenever it comes.
    """
    rm = ["rm", "-rf", "--", str(directory)]
    failed = subprocess.run(rm, check=False, capture_output=True).returncode
    if failed and os.geteuid() != 0 and not directory.is_symlink():
        # Only what is ours can be in there: for others' files we would need to be root, who needs no permission.
        subprocess.run(["chmod", "-R", "u+rwx", "--", str(directory)], check=False, capture_output=True)
        subprocess.run(rm, check=False, capture_output=True)


def _try_lock(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_current(lock: int, path: Path) -> bool:
    try:
        there, ours = os.stat(path.with_name(path.name + _LOCK)), os.fstat(lock)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
