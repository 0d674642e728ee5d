"""
Files → the sha256 of their pieces, with a memory of those that have not changed since the last time.

Beside `gathering`, on the client.  A file counts as unchanged as long as its size, its inode and both of its times are
what they were, as with git; what was written within a second of being looked at is read again, since a clock's tick
may hide a second change.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pytest_supercheck.bundle import PIECE_BYTES
from pytest_supercheck.descent import Descent

#: Version of the memory's file.
_VERSION: Final = 1

#: A file that was written this many nanoseconds before it was looked at, or later, may change unseen.
_TICK_NS: Final = 1_000_000_000

#: How often a file is read that changes meanwhile.
_TRIES: Final = 3


class Digests:
    """
    The memory.

    Args:
        file: Where it is kept; it need not be there, and may be damaged.
        descent: To its files: what was remembered of another root is forgotten.
    """

    def __init__(self, file: Path, descent: Descent) -> None:
        self._file = file
        self._descent = descent
        self._began_ns = time.time_ns()
        self._known = _load(file, descent.root)
        self._now: dict[str, list[Any]] = {}
        self._changed = False

    def content(self, path: str, found: os.stat_result) -> tuple[int, str] | None:
        """
        How long a file is, and the sha256 of its pieces in a row.

        Args:
            path: Below the root.
            found: What `Descent.look` says of it.

        Returns:
            None when it changes whenever it is read.

        Raises:
            OSError: It cannot be read.
        """
        key = _key(found)
        row = self._known.get(path)
        if not isinstance(row, list) or row[:-1] != key:
            read = self._read(path)
            if read is None:
                return None
            found, content = read
            row = [*(key := _key(found)), content]
            self._changed = True
        if max(found.st_mtime_ns, found.st_ctime_ns) < self._began_ns - _TICK_NS:
            self._now[path] = row
        return found.st_size, row[-1]

    def save(self) -> None:
        """Remember; where that cannot be written, files are read again next time."""
        if not self._changed and len(self._now) == len(self._known):
            return
        row = {"version": _VERSION, "root": self._descent.root, "files": self._now}
        with contextlib.suppress(OSError):
            write_whole(self._file, json.dumps(row, separators=(",", ":")).encode())

    def _read(self, path: str) -> tuple[os.stat_result, str] | None:
        fd = self._descent.open(path)
        try:
            for _ in range(_TRIES):
                before = os.fstat(fd)
                content = "".join(hashlib.sha256(piece).hexdigest() for piece in pieces(fd, before.st_size))
                if _key(os.fstat(fd)) == _key(before):
                    return before, content
        finally:
            os.close(fd)
        return None


def write_whole(file: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    beside = file.with_name(f".{file.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        beside.write_bytes(content)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def pieces(fd: int, size_bytes: int) -> Iterator[bytes]:
    """The pieces of an open file, no more than it had; the last ones are shorter if it has less now."""
    for start in range(0, size_bytes, PIECE_BYTES):
        wanted = min(PIECE_BYTES, size_bytes - start)
        yield os.pread(fd, wanted, start)


def _key(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _load(file: Path, root: str) -> dict[str, list[Any]]:
    try:
        row = json.loads(file.read_bytes())
        if row["version"] == _VERSION and row["root"] == root:
            return dict(row["files"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}
