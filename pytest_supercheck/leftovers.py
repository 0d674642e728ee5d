"""
The files that a test has left behind.

Inside the test process, beside the recorder; opened here, with the test's own rights, for whoever holds the store
(`artifacts`).  Runs inside the user's environment: stdlib, pytest and this package's wire format only.
"""

from __future__ import annotations

import errno
import glob
import os
import stat
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import pytest

from pytest_supercheck.events import FILES_LIMIT

#: Linux marks files with the time of its last tick, a few ms ago: by this clock (CLOCK_REALTIME_COARSE in <time.h>).
_TICKS: Final = 5

#: The fixture of pytest-playwright that says where it puts a test's traces, videos and screenshots.
_PLAYWRIGHT: Final = "output_path"


class Leftovers:
    """
    Those of the running test.

    Args:
        rootdir: The root directory, to which patterns are relative.
        wanted: ``of``, the tests of which they are named: ``failed``, ``all`` or ``none``; ``globs``, the patterns of
            files that are named where they were written since the test began.
    """

    def __init__(self, rootdir: str, wanted: dict[str, Any]) -> None:
        self._rootdir = rootdir
        self._of: str = wanted["of"]
        self._globs: list[str] = wanted["globs"] if self._of != "none" else []
        self._item: pytest.Item | None = None
        self._began_ns = 0
        self._wanted = False
        self._directory = ""

    def begin(self, item: pytest.Item) -> None:
        """A test begins."""
        self._item = item
        self._wanted, self._directory = self._of == "all", ""
        if self._globs:
            self._began_ns = time.clock_gettime_ns(_TICKS) if sys.platform == "linux" else time.time_ns()

    def look(self, *, failed: bool) -> None:
        """It has reported: look, while its fixtures are there, where its files will be."""
        self._wanted = self._wanted or (failed and self._of == "failed")
        if self._wanted and not self._directory:
            self._directory = _playwright_directory(self._item)

    def named(self) -> list[tuple[str, str]]:
        """The test has ended: its files as directory and name in it, one more than are kept, if there are."""
        return list(islice(self._find(), FILES_LIMIT + 1)) if self._wanted else []

    def _find(self) -> Iterator[tuple[str, str]]:
        seen = set()
        for directory, _, names in sorted(os.walk(self._directory)) if self._directory else ():
            for name in sorted(names):
                path = os.path.join(directory, name)
                seen.add(path)
                yield self._directory, os.path.relpath(path, self._directory)
        for pattern in self._globs:
            for name in sorted(glob.iglob(pattern, root_dir=self._rootdir, recursive=True)):
                path = os.path.normpath(os.path.join(self._rootdir, name))
                if path not in seen and self._is_new(path):
                    seen.add(path)
                    yield self._rootdir, name

    def _is_new(self, path: str) -> bool:
        try:
            found = os.lstat(path)
        except OSError:
            return False
        return not stat.S_ISDIR(found.st_mode) and found.st_mtime_ns >= self._began_ns


def open_file(directory: str, name: str) -> tuple[int, str]:
    """
    Open a file of a test, that is no symbolic link.

    Returns:
        A descriptor, -1 where it cannot be; and then why.
    """
    try:
        # Neither waits for who writes into a pipe, nor becomes a terminal's.
        return os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY), ""
    except OSError as exc:
        return -1, "it is a symbolic link" if exc.errno == errno.ELOOP else exc.strerror or str(exc)
    except ValueError as exc:  # a NUL in its name
        return -1, str(exc)


def _playwright_directory(item: Any) -> str:
    """What the fixture `output_path` gave a test; empty without pytest-playwright."""
    path = (getattr(item, "funcargs", None) or {}).get(_PLAYWRIGHT)
    if path is None:  # where a set-up has failed only the request knows the fixtures that were there by then
        definitions = getattr(getattr(item, "_request", None), "_fixture_defs", {})
        cached = getattr(definitions.get(_PLAYWRIGHT), "cached_result", None)
        path = cached[0] if cached else None
    return os.path.abspath(path) if isinstance(path, (str, os.PathLike)) else ""
