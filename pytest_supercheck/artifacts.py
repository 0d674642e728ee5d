"""
Files that tests have left behind → the store.

Beside the supervisor, on the side that has the store's credentials.  Test processes only name files (`leftovers`), and
are not believed: a file is taken below the directories of its run alone, through no symbolic link, and within bounds.
Whatever goes wrong is told in the event that names the files, and costs no result.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pytest_supercheck import events
from pytest_supercheck.archive import escaped, run_folder
from pytest_supercheck.errors import StoreTrouble
from pytest_supercheck.operators import StoreSettings
from pytest_supercheck.sandbox import is_below
from pytest_supercheck.store import BadKey, Slice, Store, check_key
from pytest_supercheck.stores import open_store

#: Bytes of one file, at most.
FILE_BYTES: Final = 200_000_000

#: Seconds that the files of one test may take on their way, and for which a store is left alone that could not be used.
PATIENCE_S: Final = 120.0
TROUBLE_S: Final = 30.0

#: How many files are named that were not kept, and characters of such a name and of the reason.
_TOLD: Final = 100
_TEXT: Final = 500

#: Characters of a segment of a key, at most; a longer one ends with a hash and its suffix.
_SEGMENT: Final = 150
_SUFFIX: Final = 16


class _NotKept(Exception):
    """The file is not one to keep; the message says why."""


class Artifacts:
    """
    What the tests of one execution leave behind.

    Args:
        project: Whose run it is.
        run: The run.
        n: Number of the execution.
        places: The directories below which files are taken.
        store: Where they go.
        hidden: Directories of the service, of which none is taken.
    """

    def __init__(
        self, project: str, run: str, n: int, places: Sequence[str], store: StoreSettings, hidden: Sequence[str] = ()
    ) -> None:
        self._folder = run_folder(project, run)
        self._n = n
        # A place may be named through a symbolic link, and its files without it.
        both = (path for place in places for path in (os.path.normpath(place), os.path.realpath(place)))
        self._places = sorted(set(both), key=len, reverse=True)
        self._settings = store
        self._hidden = tuple(os.path.realpath(path) for path in hidden)
        self._store: Store | None = None
        self._trouble = "" if store.url else "the worker has no store: SUPERCHECK_STORE is not set"
        self._again_at = 0.0 if store.url else float("inf")

    def keep(
        self, index: int, named: Sequence[tuple[str, str]], wait: Callable[[int], bool], *, root: str = ""
    ) -> bytes:
        """
        Bring a test's files into the store.

        Args:
            index: Of the test.
            named: Its files, as directory and name in it.
            wait: Called until all is done, with a descriptor that is readable then; waits for that for some seconds at
                most, and returns False when there is no more time.
            root: The run's root directory, from which is told where they were; empty to tell nothing of that.

        Returns:
            The event that tells which files are kept, and why others are not.
        """
        if time.monotonic() < self._again_at:
            left = [(name, self._trouble) for _, name in named]
            return self._event(index, [], left, [])
        delivery = _Delivery(self, index, named[: events.FILES_LIMIT])
        give_up_at = time.monotonic() + PATIENCE_S
        try:
            while not delivery.over and wait(delivery.fd):
                if time.monotonic() > give_up_at:
                    self._leave_alone("the store takes too long")
                    break
        finally:  # waiting ends also when the slot is lost
            delivery.abandoned = True
            os.close(delivery.fd)
        done = list(delivery.done)
        kept = [(name, key, size) for name, key, size in done if isinstance(size, int)]
        there = [place for (place, _), (_, _, size) in zip(named, done, strict=False) if isinstance(size, int)]
        places = [os.path.relpath(os.path.realpath(place), os.path.realpath(root)) for place in there if root]
        left = [(name, why) for name, _, why in done if isinstance(why, str)]
        left += [(name, "there was no time left for it") for _, name in named[len(done) : events.FILES_LIMIT]]
        if len(named) > events.FILES_LIMIT:
            left.append(("", f"more files: there are more than {events.FILES_LIMIT:,}"))
        return self._event(index, kept, left, places)

    def put(self, key: str, directory: str, name: str) -> int:
        """
        Bring one file into the store.

        Args:
            key: In the run's folder.

        Returns:
            How many bytes it had.

        Raises:
            _NotKept: It is none to keep.
            StoreTrouble: The store cannot be used; it is left alone for a while.
        """
        if time.monotonic() < self._again_at:
            raise StoreTrouble(self._trouble)
        fd = self._open(os.path.normpath(os.path.join(directory, name)))
        try:
            size_bytes = _size(fd)
        except _NotKept:
            os.close(fd)
            raise
        with os.fdopen(fd, "rb") as file:
            content = io.BufferedReader(Slice(file, size_bytes))  # no more than it had: it may be growing
            try:
                self._store = self._store or open_store(self._settings.url or "", endpoint=self._settings.s3_endpoint)
                self._store.put(check_key(self._folder + key), content)
            except BadKey:
                raise _NotKept("its name is too long") from None
            except StoreTrouble as exc:
                self._leave_alone(str(exc))
                raise
            return file.tell()

    def _leave_alone(self, trouble: str) -> None:
        self._trouble, self._again_at = trouble, time.monotonic() + TROUBLE_S

    def _open(self, path: str) -> int:
        """Open a file below one of the places, step by step, so that nothing on the way can be exchanged for a link."""
        place = next((place for place in self._places if path.startswith(os.path.join(place, ""))), None)
        if place is None:
            raise _NotKept("it is outside of the root directory and of the directory in which pytest was started")
        if any(is_below(os.path.realpath(place) + path[len(place) :], above) for above in self._hidden):
            raise _NotKept("it is not the project's")
        *folders, last = path[len(os.path.join(place, "")) :].split("/")
        try:
            at = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            for folder in folders:
                at = _step(at, folder, os.O_DIRECTORY)
            return _step(at, last, os.O_NONBLOCK)
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENOTDIR):
                raise _NotKept("it is a symbolic link, or behind one") from exc
            raise _NotKept(exc.strerror or str(exc)) from exc
        except ValueError as exc:  # a NUL in its name
            raise _NotKept(str(exc)) from exc

    def _event(
        self, index: int, kept: list[tuple[str, str, int]], left: list[tuple[str, str]], places: list[str]
    ) -> bytes:
        if len(left) > _TOLD:
            left = [*left[:_TOLD], ("", f"{len(left) - _TOLD} more files")]
        told = [(name[:_TEXT], why[:_TEXT]) for name, why in left]
        return events.encode_files(
            index, self._n, [(name[:_TEXT], key, size) for name, key, size in kept], told, places
        )


class _Delivery(threading.Thread):
    """Beside the supervisor, which has a lease to renew: the files of one test, one after the other."""

    def __init__(self, artifacts: Artifacts, index: int, named: Sequence[tuple[str, str]]) -> None:
        super().__init__(daemon=True, name="supercheck-artifacts")
        self._artifacts = artifacts
        self._keys = keys(index, [name for _, name in named])
        self._named = named
        #: Of each file that has had its turn: its name, its key, and its length or why it is not kept.
        self.done: list[tuple[str, str, int | str]] = []
        self.over = self.abandoned = False
        self.fd, self._told = os.pipe()
        self.start()

    def run(self) -> None:
        for (directory, name), key in zip(self._named, self._keys, strict=True):
            if self.abandoned:
                break
            outcome: int | str
            try:
                outcome = self._artifacts.put(key, directory, name)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it must not cost the result
                outcome = str(exc) or type(exc).__name__
            self.done.append((name, key, outcome))
        self.over = True
        os.close(self._told)


def keys(index: int, names: Sequence[str]) -> Iterator[str]:
    """
    Where in the run's folder the files of a test are kept.

    Args:
        index: Of the test.
        names: Theirs, in an order that stays.

    Returns:
        A key for each, no two the same: of names that are told apart by nothing, a later one is in a folder of its own.
    """
    taken: set[str] = set()
    for number, name in enumerate(names):
        segments = "/".join(_segment(part) for part in name.split("/") if part)
        key = f"artifacts/{index}/{segments or '~'}"
        if key in taken:
            key = f"artifacts/{index}/~{number}/{segments or '~'}"
        taken.add(key)
        yield key


def _segment(name: str) -> str:
    raw = name.encode("utf-8", "surrogatepass")
    segment = escaped(raw)
    if len(segment) <= _SEGMENT:
        return segment
    suffix = segment[-_SUFFIX:].partition(".")[1:]
    return f"{segment[: _SEGMENT - 40]}~~{hashlib.sha256(raw).hexdigest()[:16]}{''.join(suffix)}"


def _size(fd: int) -> int:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise _NotKept("it is no regular file")
    if found.st_size > FILE_BYTES:
        raise _NotKept(f"it is larger than {FILE_BYTES // 1_000_000} MB")
    return found.st_size


def _step(at: int, name: str, how: int) -> int:
    """Open what is in an open directory, which is closed."""
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | how, dir_fd=at)
    finally:
        os.close(at)
