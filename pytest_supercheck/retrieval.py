"""
Files that tests have left behind elsewhere → where they would have been here.

In the connector, beside the events that tell of them.  What tests say is not believed: a file is written below the root
directory alone, through no symbolic link, and in place of nothing but what was brought the same way before.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import threading
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pytest_supercheck import events
from pytest_supercheck.digests import write_whole
from pytest_supercheck.errors import SupercheckError
from pytest_supercheck.events import Files, WireError
from pytest_supercheck.footprint import DIRECTORY, keep_out_of_git

#: What is remembered of files that were brought: their paths, the last ones.
MEMORY: Final = "brought.json"
REMEMBERED: Final = 20_000

#: Directories in which nothing is ever written.
_CLOSED: Final = frozenset({"", ".", "..", ".git", ".hg", ".svn", DIRECTORY})

_FILES: Final = b'{"t":"files"'
_END: Final = b'{"t":"end"'


class _Refused(Exception):
    """The file is not brought; the message says why."""


class Retrieval(threading.Thread):
    """
    What comes back to one session.

    Args:
        rootdir: Its root directory.
        fetch: The content of a file of the run's folder, by its key there.
    """

    def __init__(self, rootdir: str, fetch: Callable[[str], Iterator[bytes]]) -> None:
        super().__init__(daemon=True, name="supercheck-retrieval")
        self._rootdir = os.path.normpath(rootdir)
        self._fetch = fetch
        self._due: deque[tuple[str, str]] = deque()
        self._some = threading.Event()
        self._over = self._abandoned = False
        self._memory = Path(rootdir, DIRECTORY, MEMORY)
        self._known = _load(self._memory)
        #: Paths of what was brought, relative to the root directory.
        self.brought: list[str] = []
        #: What was not, and why.
        self.left: list[tuple[str, str]] = []
        self.start()

    def hear(self, batches: Sequence[bytes]) -> bool:
        """Take note of events; whether they are the last ones."""
        for batch in batches:
            for line in batch.split(b"\n") if _FILES in batch else ():
                if line.startswith(_FILES):
                    with contextlib.suppress(WireError):
                        self._take(events.decode(line))
        self._some.set()
        return any(_END in batch for batch in batches)

    def _take(self, event: object) -> None:
        if isinstance(event, Files):
            for (name, key, _), place in zip(event.kept, event.places, strict=False):
                self._due.append((key, os.path.normpath(os.path.join(self._rootdir, place, name))))

    def abandon(self) -> None:
        """Nobody waits for it any more: what is half here goes, what is here is remembered."""
        self._abandoned = True
        self.finish()

    def finish(self) -> dict[str, Any]:
        """Wait until all is here; what came of it."""
        self._over = True
        self._some.set()
        self.join()
        return {"brought": self.brought, "left": self.left}

    def run(self) -> None:
        """The thread."""
        while not self._abandoned and (self._due or not self._over):
            if not self._due:
                self._some.wait()
                self._some.clear()
                continue
            key, path = self._due.popleft()
            shown = os.path.relpath(path, self._rootdir)
            try:
                self._bring(key, path)
                self.brought.append(shown)
            except (_Refused, SupercheckError, OSError) as exc:
                self.left.append((shown, str(exc)))
        with contextlib.suppress(OSError):
            self._remember()

    def _bring(self, key: str, path: str) -> None:
        inside = f"{self._rootdir}{os.sep}"
        if not path.startswith(inside):
            raise _Refused("it would be outside of the root directory")
        *folders, name = path[len(inside) :].split(os.sep)
        if not _CLOSED.isdisjoint(map(_plain, [*folders, name])):
            raise _Refused("nothing is written there")
        at = self._enter(folders)
        try:
            self._check_free(at, name, path[len(inside) :])
            beside = f".{name[:100]}.{secrets.token_hex(6)}"
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=at)
            try:
                with os.fdopen(fd, "wb") as file:
                    for chunk in self._fetch(key):
                        if self._abandoned:
                            raise _Refused("the session has ended before")
                        file.write(chunk)
                os.replace(beside, name, src_dir_fd=at, dst_dir_fd=at)
            except BaseException:
                os.unlink(beside, dir_fd=at)
                raise
        finally:
            os.close(at)
        self._known[path[len(inside) :]] = None

    def _enter(self, folders: Sequence[str]) -> int:
        """Open a directory step by step, made where it is missing, so that nothing on the way is a link."""
        at = os.open(self._rootdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for folder in folders:
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, dir_fd=at)
                below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            except OSError as exc:
                if exc.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise _Refused(f"{folder} is no directory here") from exc
                raise
            finally:
                os.close(at)
            at = below
        return at

    def _check_free(self, at: int, name: str, path: str) -> None:
        try:
            os.lstat(name, dir_fd=at)
        except FileNotFoundError:
            return
        if path not in self._known:
            raise _Refused("there is another file of that name, which was not brought here before")

    def _remember(self) -> None:
        if not self.brought:
            return
        self._memory.parent.mkdir(exist_ok=True)
        keep_out_of_git(Path(self._rootdir))
        write_whole(self._memory, json.dumps(list(self._known)[-REMEMBERED:]).encode())


def _plain(name: str) -> str:
    """A name as file systems may take it that know neither case nor characters without a shape."""
    shown = (one for one in unicodedata.normalize("NFKC", name) if unicodedata.category(one) not in ("Cf", "Mn"))
    return "".join(shown).casefold()


def _load(memory: Path) -> dict[str, None]:
    try:
        known = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        return {}
    return dict.fromkeys(path for path in known if isinstance(path, str)) if isinstance(known, list) else {}
