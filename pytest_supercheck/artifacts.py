"""
Files that tests have left behind → the store.

Beside the supervisor, on the side that has the store's credentials.  Test processes open their files themselves and
send them (`leftovers`), so nothing is opened here by a name: whatever a test may not read, it cannot have kept.  A file
is taken within bounds; whatever goes wrong is told in the event that names the files, and costs no result.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pytest_supercheck import events
from pytest_supercheck.archive import escaped, run_folder
from pytest_supercheck.errors import StoreTrouble
from pytest_supercheck.operators import StoreSettings
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

#: Characters of a directory that is told, at most.
_PLACE: Final = 4096

#: Characters of a segment of a key, at most; a longer one ends with a hash and its suffix.
_SEGMENT: Final = 150
_SUFFIX: Final = 16


class _NotKept(Exception):
    """The file is not one to keep; the message says why."""


@dataclass
class _Test:
    """A test whose files come."""

    index: int
    keys: Keys
    give_up_at: float
    kept: list[tuple[str, str, int]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    more: bool = False


class Artifacts:
    """
    What the tests of one execution leave behind.

    Args:
        project: Whose run it is.
        run: The run.
        n: Number of the execution.
        store: Where the files go.
    """

    def __init__(self, project: str, run: str, n: int, store: StoreSettings) -> None:
        self._folder = run_folder(project, run)
        self._n = n
        self._settings = store
        self._test: _Test | None = None
        self._store: Store | None = None
        self._trouble = "" if store.url else "the worker has no store: SUPERCHECK_STORE is not set"
        self._again_at = 0.0 if store.url else float("inf")

    def keep(self, index: int, place: str | None, name: str, fd: int, wait: Callable[[int], bool]) -> None:
        """
        Bring a file of a test into the store.

        Args:
            index: Of the test; its files come one after the other.
            place: The directory that the name is relative to, itself relative to the run's root; None to tell none.
            name: The file's.
            fd: The file, open for reading at its beginning; it is closed.
            wait: Called until all is done, with a descriptor that is readable then; waits for that for some seconds at
                most, and returns False when there is no more time.
        """
        if (test := self._next(index)) is None or time.monotonic() < self._again_at:
            os.close(fd)
            if test:
                test.left.append((name[:_TEXT], self._trouble))
            return
        key = test.keys.of(name)
        delivery = _Delivery(self, key, fd)
        try:
            while not delivery.over and wait(delivery.fd):
                if time.monotonic() > test.give_up_at:
                    self._leave_alone("the store takes too long")
                    break
        finally:  # waiting ends also when the slot is lost
            os.close(delivery.fd)
        outcome = delivery.outcome
        if isinstance(outcome, str):
            test.left.append((name[:_TEXT], outcome[:_TEXT]))
            return
        test.kept.append((name[:_TEXT], key, outcome))
        if place is not None:
            test.places.append(place[:_PLACE])

    def leave(self, index: int, name: str, why: str) -> None:
        """A file of a test cannot be kept."""
        if test := self._next(index):
            test.left.append((name[:_TEXT], why[:_TEXT]))

    def tell(self, index: int) -> bytes | None:
        """The event that tells which files of a test are kept, and why others are not; None when it has left none."""
        test, self._test = self._test, None
        return self._event(test) if test and test.index == index else None

    def put(self, key: str, fd: int) -> int:
        """
        Bring one file into the store.

        Args:
            key: In the run's folder.
            fd: The file; it is closed.

        Returns:
            How many bytes it had.

        Raises:
            _NotKept: It is none to keep.
            StoreTrouble: The store cannot be used; it is left alone for a while.
        """
        try:
            size_bytes = _size(fd)
        except BaseException:
            os.close(fd)
            raise
        content = Slice(os.fdopen(fd, "rb"), size_bytes)  # no more than it had: it may be growing
        with io.BufferedReader(content) as file:
            try:
                self._store = self._store or open_store(self._settings.url or "", endpoint=self._settings.s3_endpoint)
                self._store.put(check_key(self._folder + key), file)
            except BadKey:
                raise _NotKept("its name is too long") from None
            except StoreTrouble as exc:
                self._leave_alone(str(exc))
                raise
            return size_bytes - content.left

    def _next(self, index: int) -> _Test | None:
        """The test of which a file has come; None where it has left too many."""
        if self._test is None or self._test.index != index:
            self._test = _Test(index, Keys(index), time.monotonic() + PATIENCE_S)
        test = self._test
        test.more = len(test.kept) + len(test.left) >= events.FILES_LIMIT
        return None if test.more else test

    def _leave_alone(self, trouble: str) -> None:
        self._trouble, self._again_at = trouble, time.monotonic() + TROUBLE_S

    def _event(self, test: _Test) -> bytes:
        left = test.left
        if test.more:
            left = [*left, ("", f"more files: there are more than {events.FILES_LIMIT:,}")]
        if len(left) > _TOLD:
            left = [*left[:_TOLD], ("", f"{len(left) - _TOLD} more files")]
        return events.encode_files(test.index, self._n, test.kept, left, test.places)


class _Delivery(threading.Thread):
    """Beside the supervisor, which has a lease to renew: one file."""

    def __init__(self, artifacts: Artifacts, key: str, file: int) -> None:
        super().__init__(daemon=True, name="supercheck-artifacts")
        self._artifacts = artifacts
        self._key = key
        self._file = file
        #: Its length, or why it is not kept.
        self.outcome: int | str = "there was no time left for it"
        self.over = False
        self.fd, self._told = os.pipe()
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self._artifacts.put(self._key, self._file)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it must not cost the result
            self.outcome = str(exc) or type(exc).__name__
        self.over = True
        os.close(self._told)


class Keys:
    """
    Where in the run's folder the files of a test are kept.

    Args:
        index: Of the test.
    """

    def __init__(self, index: int) -> None:
        self._folder = f"artifacts/{index}"
        self._taken: set[str] = set()

    def of(self, name: str) -> str:
        """A key for its next file, which no other has: of names that nothing tells apart, later ones get a folder."""
        segments = "/".join(_segment(part) for part in name.split("/") if part) or "~"
        key = f"{self._folder}/{segments}"
        if key in self._taken:
            key = f"{self._folder}/~{len(self._taken)}/{segments}"
        self._taken.add(key)
        return key


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
