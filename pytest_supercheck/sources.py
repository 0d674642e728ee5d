"""
A bundle → a tree of files on a worker, through a cache that all runs of the host share.

Beside the supervisor, on the side that has the store's credentials.  Nothing of what it reads is believed: not the
store, nor its own cache, which tests of the same user could reach.  So a tree is made of copies, each of which is
checked on its way; a piece that is missing or has been changed is fetched again.

    DIRECTORY/bundles/NAME    bundles as the store has them, by project and id
    DIRECTORY/pieces/XX/ID    pieces of files, by their sha256; the time of writing is that of the last use
    DIRECTORY/locks/XX        who fetches a bundle that begins so; the others wait, and find it
    DIRECTORY/.tmp/           what is being written
    DIRECTORY/size            bytes of all pieces, roughly; locked by who changes it, or removes pieces
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

from pytest_supercheck import packs
from pytest_supercheck.archive import project_folder
from pytest_supercheck.bundle import MANIFEST_BYTES, Entry, Manifest, directories
from pytest_supercheck.errors import Infrastructure, NotStored, SourceTrouble
from pytest_supercheck.packs import PACK_LIMIT, Located, Place
from pytest_supercheck.store import Store

#: Threads that fetch, and that write a tree.
FETCHERS: Final = 4
WRITERS: Final = 2

#: Bytes between two pieces of a pack that are read rather than asked for anew.
_GAP_BYTES: Final = 64 << 10

#: Seconds for which a use of a piece is not noted again, and after which what is being written has been forgotten.
_NOTED_S: Final = 600
_FORGOTTEN_S: Final = 24 * 3600

#: Seconds between two looks whether a lock is free.
_WAIT_S: Final = 0.05

#: The share of the limit that stays when the cache has become too large.
_STAYS: Final = 0.8

#: How often a tree is begun whose pieces somebody removes meanwhile.
_TRIES: Final = 3

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class _Lost(Exception):
    """A piece is not in the cache, or is not what it was."""


class _Range(NamedTuple):
    """A part of a pack with pieces that are wanted."""

    pack: str
    places: Sequence[Place]

    @property
    def start(self) -> int:
        return self.places[0].offset

    @property
    def length(self) -> int:
        return self.places[-1].offset + self.places[-1].stored - self.start


class SourceCache:
    """
    The cache of a host; safe to share between its processes.

    Args:
        directory: Where it is; made when it is needed, for its owner alone.
        limit_bytes: How long all pieces may be, together; a bundle that is larger is still made.
        pulse: Called between steps, by several threads; what it raises ends the work.
    """

    def __init__(self, directory: Path, limit_bytes: int, *, pulse: Callable[[], None] = lambda: None) -> None:
        self._directory = directory
        self._pulse = pulse
        self._limit_bytes = limit_bytes

    def materialise(self, store: Store, project: str, bundle: str, target: Path) -> None:
        """
        Make a bundle's tree.

        Args:
            project: Whose bundle it is.
            bundle: Its id.
            target: Its root: appears whole or not at all. It must not be there, or be empty.

        Raises:
            SourceTrouble: It cannot be made on any worker: it is not in the store, is damaged, or has names that
                cannot be together here.
            StoreTrouble: The store cannot be used.
            Infrastructure: This machine has no room for it, or cannot write.
        """
        try:
            self._prepare()
            for _ in range(_TRIES):
                located = self._fetch(store, project, bundle)
                with contextlib.suppress(_Lost):
                    self._build(located.manifest, target)
                    break
            else:
                raise Infrastructure(f"{self._directory} does not keep what is written: does somebody clear it?")
        except OSError as exc:
            if exc.errno in _NO_ROOM:
                where = exc.filename or self._directory
                raise Infrastructure(f"There is no room for the project on the worker's disk ({where}).") from exc
            raise Infrastructure(f"The project's files cannot be written on the worker: {exc}") from exc

    def _prepare(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("bundles", "pieces", "locks", ".tmp"):
            (self._directory / name).mkdir(exist_ok=True)

    # -- from the store

    def _fetch(self, store: Store, project: str, bundle: str) -> Located:
        """See to it that all pieces of a bundle are here, one process at a time."""
        located = self._located(store, project, bundle, known=True)
        if not self._missing(located):
            return located
        with _locked(self._directory / "locks" / bundle[:2], self._pulse):
            try:
                self._fetch_missing(store, project, located)
            except NotStored:  # where it was when it was here the last time
                located = self._located(store, project, bundle, known=False)
                try:
                    self._fetch_missing(store, project, located)
                except NotStored as exc:
                    raise SourceTrouble(f"Files of the bundle {bundle} are not in the store any more ({exc}).") from exc
        return located

    def _located(self, store: Store, project: str, bundle: str, *, known: bool) -> Located:
        """A bundle; of its last time here, if that will do."""
        name = hashlib.sha256(f"{project}\0{bundle}".encode("utf-8", "surrogatepass")).hexdigest()
        file = self._directory / "bundles" / name
        if known:
            with contextlib.suppress(FileNotFoundError, SourceTrouble):
                located = packs.decode_located(file.read_bytes(), bundle)
                os.utime(file)
                return located
        try:
            with store.get(packs.bundle_key(project_folder(project), bundle)) as stream:
                packed = stream.read(2 * MANIFEST_BYTES)
        except NotStored as exc:
            raise SourceTrouble(
                f"The project's files, bundle {bundle}, are not in the store (any more). Start the run again from a "
                "session that has them; SUPERCHECK_BUNDLE_DAYS of the server says how long they stay."
            ) from exc
        located = packs.decode_located(packed, bundle)
        self._write(packed, file)
        return located

    def _missing(self, located: Located) -> list[str]:
        return [piece for piece in located.manifest.pieces if not os.path.exists(self._piece(piece))]

    def _fetch_missing(self, store: Store, project: str, located: Located) -> None:
        ranges = list(_ranges([located.where[piece] for piece in self._missing(located)]))
        with ThreadPoolExecutor(FETCHERS, thread_name_prefix="supercheck-fetch") as executor:
            written = sum(executor.map(lambda one: self._fetch_range(store, project, one), ranges))
        if written:
            self._grow(written, {*located.manifest.pieces})

    def _fetch_range(self, store: Store, project: str, wanted: _Range) -> int:
        self._pulse()
        with store.get(
            packs.pack_key(project_folder(project), wanted.pack), start=wanted.start, length=wanted.length
        ) as stream:
            content = stream.read()
        for place in wanted.places:
            begin = place.offset - wanted.start
            piece = packs.unpack(content[begin : begin + place.stored], place.piece, place.size)
            self._write(piece, Path(self._piece(place.piece)))
        return sum(place.size for place in wanted.places)

    def _write(self, content: bytes, file: Path) -> None:
        beside = self._directory / ".tmp" / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            beside.write_bytes(content)
            try:
                beside.rename(file)
            except FileNotFoundError:
                file.parent.mkdir(exist_ok=True)
                beside.rename(file)
        finally:
            beside.unlink(missing_ok=True)

    def _piece(self, piece: str) -> str:
        return f"{self._directory}/pieces/{piece[:2]}/{piece}"

    # -- into a tree

    def _build(self, manifest: Manifest, target: Path) -> None:
        beside = target.with_name(f".{target.name}-{secrets.token_hex(8)}")
        beside.mkdir(parents=True)
        try:
            self._fill(manifest, os.fsencode(beside))
            beside.rename(target)
        except FileExistsError as exc:
            raise SourceTrouble(
                f"{os.fsdecode(exc.filename)!a} cannot be made on the worker: the bundle has two names that are one "
                "there. Its file system does not tell upper from lower case."
            ) from exc
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _fill(self, manifest: Manifest, root: bytes) -> None:
        entries = manifest.entries
        for path in directories(entry.path for entry in entries):
            os.mkdir(_below(root, path))
        files = [entry for entry in entries if entry.kind != "link"]
        with ThreadPoolExecutor(WRITERS, thread_name_prefix="supercheck-tree") as executor:
            shares = [files[number::WRITERS] for number in range(WRITERS)]
            if sum(executor.map(lambda share: self._copy_all(share, root), shares)):
                raise _Lost
        # Last, so that no file is ever written through one.
        for entry in entries:
            if entry.kind == "link":
                os.symlink(entry.content.encode("utf-8", "surrogateescape"), _below(root, entry.path))

    def _copy_all(self, entries: Sequence[Entry], root: bytes) -> int:
        """Write files; how many could not be written because pieces are lost, which are all found in one go."""
        lost = 0
        for entry in entries:
            self._pulse()
            mode = 0o777 if entry.kind == "program" else 0o666
            to = os.open(_below(root, entry.path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            try:
                for piece in entry.pieces:
                    _write_all(to, self._read(piece))
            except _Lost:
                lost += 1
            finally:
                os.close(to)
        return lost

    def _read(self, piece: str) -> bytes:
        """A piece from the cache, which is noted as used."""
        path = self._piece(piece)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise _Lost from exc
        try:
            found = os.fstat(fd)
            content = os.read(fd, found.st_size + 1)
            if found.st_mtime < time.time() - _NOTED_S:
                os.utime(fd)
        finally:
            os.close(fd)
        if hashlib.sha256(content).hexdigest() != piece:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise _Lost
        return content

    # -- within bounds

    def _grow(self, written: int, used: set[str]) -> None:
        """Note what has come, and make room when it is too much."""
        with _locked(self._directory / "size") as fd:
            noted = os.pread(fd, 20, 0)
            size_bytes = (int(noted) if noted.isdigit() else 0) + written
            if size_bytes > self._limit_bytes:
                size_bytes = self._make_room(used)
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d" % size_bytes, 0)

    def _make_room(self, used: set[str]) -> int:
        """Remove what has not been used for longest, and what was forgotten; how much there is then."""
        found: list[tuple[float, int, str]] = []
        for folder in os.scandir(self._directory / "pieces"):
            for entry in os.scandir(folder):
                with contextlib.suppress(FileNotFoundError):
                    about = entry.stat()
                    found.append((about.st_mtime, about.st_size, entry.path))
        size_bytes = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if size_bytes <= self._limit_bytes * _STAYS:
                break
            if os.path.basename(path) not in used:
                Path(path).unlink(missing_ok=True)
                size_bytes -= size
        for name, age_s in ((".tmp", _FORGOTTEN_S), ("bundles", 30 * _FORGOTTEN_S)):
            for entry in os.scandir(self._directory / name):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < time.time() - age_s:
                        os.unlink(entry.path)
        return size_bytes


@contextlib.contextmanager
def _locked(file: Path, pulse: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Have a file alone, once nobody else has it; the end of a process ends that."""
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pulse()
                time.sleep(_WAIT_S)
        yield fd
    finally:
        os.close(fd)


def _ranges(wanted: Sequence[tuple[str, Place]]) -> Iterator[_Range]:
    """What is to be read of which pack: pieces that are near each other at once."""
    for pack, found in groupby(sorted(wanted, key=lambda one: (one[0], one[1].offset)), key=lambda one: one[0]):
        near: list[Place] = []
        for _, place in found:
            far = near and place.offset - (near[-1].offset + near[-1].stored) > _GAP_BYTES
            if far or (near and place.offset + place.stored - near[0].offset > PACK_LIMIT):
                yield _Range(pack, near)
                near = []
            near.append(place)
        yield _Range(pack, near)


def _below(root: bytes, path: str) -> bytes:
    return b"%s/%s" % (root, path.encode("utf-8", "surrogateescape"))


def _write_all(fd: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(fd, left) :]
