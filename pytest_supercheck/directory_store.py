"""
The store in a directory: one file per object, its key the path.

An adapter.  Objects are written beside and moved into place, so that who is killed leaves an old or a new one, never
half of one.  It guards against the death of processes, not of the machine: nothing is synced to the disk.

    ROOT/projects/...    the objects
    ROOT/.tmp/           what is being written; no key begins with a dot
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO, Final

from pytest_supercheck.errors import NotStored, StoreTrouble
from pytest_supercheck.store import Entry, Slice, check_folder, check_key

#: Seconds after which what is being written has been forgotten by who wrote it.
_FORGOTTEN_S: Final = 24 * 3600

#: What opening an object fails with that is not there.
_ABSENT: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class DirectoryStore:
    """
    A `store.Store`.

    Args:
        root: Its directory; made when something is put.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._unfinished = self.root / ".tmp"
        self._swept = False

    def __str__(self) -> str:
        return str(self.root)

    def put(self, key: str, content: bytes | BinaryIO, *, replace: bool = True) -> bool:
        """As in `store.Store`."""
        path = self._path(key)
        with self._translated():
            if not replace and path.exists():
                return False
            self._sweep()
            beside = self._unfinished / f"{os.getpid()}-{secrets.token_hex(8)}"
            try:
                with beside.open("xb") as file:
                    if isinstance(content, bytes):
                        file.write(content)
                    else:
                        shutil.copyfileobj(content, file)
                return _move(beside, path, replace=replace)
            finally:
                beside.unlink(missing_ok=True)

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> BinaryIO:
        """As in `store.Store`."""
        path = self._path(key)
        with self._translated():
            try:
                file = path.open("rb")
            except _ABSENT as exc:
                raise NotStored(f"{self} has no {key}") from exc
            file.seek(start)
            return file if length is None else io.BufferedReader(Slice(file, length))

    def head(self, key: str) -> Entry | None:
        """As in `store.Store`."""
        path = self._path(key)
        with self._translated():
            try:
                found = path.stat()
            except _ABSENT:
                return None
            return _entry(key, found) if path.is_file() else None

    def list(self, folder: str = "", *, deep: bool = True) -> Iterator[Entry]:
        """As in `store.Store`."""
        check_folder(folder)
        with self._translated():
            for name in self._names(folder):
                key = folder + name
                if not name.endswith("/"):
                    with contextlib.suppress(FileNotFoundError):
                        yield _entry(key, (self.root / key).stat())
                elif deep:
                    yield from self.list(key)
                else:
                    yield Entry(key=key)

    def _names(self, folder: str) -> Iterable[str]:
        """What is in a folder, in the order of the keys: a folder's name has its slash."""
        try:
            found = [
                f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
                for entry in os.scandir(self.root / folder)
                if folder or not entry.name.startswith(".")
            ]
        except _ABSENT:
            return []
        return sorted(found)

    def delete(self, keys: Iterable[str]) -> None:
        """As in `store.Store`."""
        with self._translated():
            for path in [self._path(key) for key in keys]:
                with contextlib.suppress(*_ABSENT):
                    path.unlink()
                with contextlib.suppress(OSError):  # up to the first one that is not empty
                    for parent in path.relative_to(self.root).parents:
                        (self.root / parent).rmdir()

    def url(self, key: str, *, ttl_s: float = 3600, download: bool = False) -> str:  # noqa: ARG002 - it says neither
        """As in `store.Store`: the address of the file."""
        return self._path(key).as_uri()

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _sweep(self) -> None:
        """Make the place for what is being written, and remove what others have left there."""
        if self._swept:
            return
        self._unfinished.mkdir(parents=True, exist_ok=True)
        for left in os.scandir(self._unfinished):
            with contextlib.suppress(FileNotFoundError):
                if left.stat().st_mtime < time.time() - _FORGOTTEN_S:
                    os.unlink(left)
        self._swept = True

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise StoreTrouble(f"the store {self} cannot be used: {exc.strerror or exc}") from exc


def _move(beside: Path, path: Path, *, replace: bool) -> bool:
    """Move a finished file into place, whose directory may be removed by a deleter at any moment."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if replace:
                beside.replace(path)
            else:
                os.link(beside, path)
            return True
        except FileExistsError:
            return False
        except FileNotFoundError:
            if not beside.exists():
                raise


def _entry(key: str, found: os.stat_result) -> Entry:
    return Entry(key=key, size_bytes=found.st_size, written_at=datetime.fromtimestamp(found.st_mtime, timezone.utc))
