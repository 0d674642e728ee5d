"""
Files below a directory, reached without a link on the way.

Beside `gathering`, which opens and looks at a project's files through it alone.  Each step of a path is taken from a
directory that is open, so whoever exchanges one for a link meanwhile leads nobody out.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: How systems say that a directory is a link.
_LINK: Final = (errno.ELOOP, errno.EMLINK, errno.ENOTDIR)


class Descent:
    """
    The way down, for one thread; to be closed.

    The directory of the last path stays open: paths that are sorted by directory take each step about once.  Methods
    raise NotADirectoryError where a parent of its path is a link, and OSError where something else is wrong.

    Args:
        root: The directory, which may itself be reached over links.
    """

    def __init__(self, root: str) -> None:
        #: The directory.
        self.root = root
        self._at = ""
        self._fd = -1

    def look(self, path: str) -> os.stat_result:
        """What `os.lstat` says of a path."""
        directory, _, name = path.rpartition("/")
        return os.stat(name, dir_fd=self._enter(directory), follow_symlinks=False)

    def target(self, path: str) -> str:
        """Where a link leads."""
        directory, _, name = path.rpartition("/")
        return os.readlink(name, dir_fd=self._enter(directory))

    def open(self, path: str) -> int:
        """Open a regular file to read; a link that has come in its place, or a pipe, is none."""
        directory, _, name = path.rpartition("/")
        fd = os.open(name, _FILE, dir_fd=self._enter(directory))
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError("it is no regular file")
        return fd

    def names(self, directory: str) -> list[tuple[str, bool]]:
        """What is in a directory, empty for the root: names, and whether they are directories, which no link is."""
        with os.scandir(self._enter(directory)) as found:
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]

    def is_directory(self, path: str) -> bool:
        """Whether there is a directory; a link to one is none."""
        try:
            return stat.S_ISDIR(self.look(path).st_mode)
        except OSError:
            return False

    def close(self) -> None:
        """Close the directory that is open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _enter(self, directory: str) -> int:
        if self._fd >= 0 and directory == self._at:
            return self._fd
        if self._fd < 0 or (self._at and not directory.startswith(f"{self._at}/")):
            self.close()
            self._fd, self._at = os.open(self.root, _DIRECTORY), ""
        for step in directory[len(self._at) :].split("/"):
            if step:
                self._step(step)
        self._at = directory
        return self._fd

    def _step(self, name: str) -> None:
        above, self._fd = self._fd, -1
        try:
            if name == "..":
                raise NotADirectoryError(errno.ENOTDIR, "leads up", name)
            self._fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        except OSError as exc:
            if exc.errno in _LINK:
                raise NotADirectoryError(errno.ENOTDIR, "is no directory, or a link", name) from exc
            raise
        finally:
            os.close(above)
