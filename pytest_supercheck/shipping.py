"""
A project's files → the server, which hands them on to workers that have never seen the project.

In the connector, beside the session's collection.  Joins what gathers files and the gateway: asks by the bundle's id
alone, then tells what differs from the bundle of the last time, then sends what the server lacks, in packs.  What has
arrived stays: an upload that was cut goes on with what is missing.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Protocol

from pytest_supercheck import packs
from pytest_supercheck.bundle import MANIFEST_BYTES, PIECE_BYTES, Manifest, decode, inflate
from pytest_supercheck.descent import Descent
from pytest_supercheck.digests import write_whole
from pytest_supercheck.errors import Infrastructure, SourceTrouble
from pytest_supercheck.footprint import DIRECTORY, keep_out_of_git
from pytest_supercheck.gathering import SECRET, Gathered, Gathering, megabytes
from pytest_supercheck.packs import PACK_BYTES, PACK_PIECES
from pytest_supercheck.words import printable

#: Packs on their way at a time.
CONNECTIONS: Final = 4

#: Seconds until progress is told, and between two such words.
QUIET_S: Final = 2.0
TELL_S: Final = 5.0

#: How often files are gathered that change before they are sent, and rounds of asking what is missing.
_TRIES: Final = 3
_ROUNDS: Final = 12

#: Paths that are named in a line.
_NAMED: Final = 5

#: How much one pack takes: the path of a file, and where in it a piece begins.
_Piece = tuple[str, int, int]


class Receiver(Protocol):
    """Who takes a project's files: a server, over HTTP."""

    @property
    def address(self) -> str:
        """Its name, for messages."""

    def bundle(self, project: str, bundle: str, wish: bytes = b"") -> tuple[str, list[str]]:
        """As `HttpGateway.bundle`."""

    def pack(self, project: str, pack: bytes) -> None:
        """As `HttpGateway.pack`."""


class _Changed(Exception):
    """A file is not any more what it was when it was gathered."""


class Shipment(threading.Thread):
    """
    One project on its way; begins at once.

    Args:
        gateway: To the server.
        wish: What the session says: ``project``, ``rootdir``, ``include``, ``exclude``, ``limit_bytes``.
        tell: Is told what the user should read, from another thread.
    """

    def __init__(self, gateway: Receiver, wish: dict[str, Any], tell: Callable[[str], None]) -> None:
        super().__init__(name="supercheck-shipment", daemon=True)
        self._gateway = gateway
        self._wish = wish
        self._tell = tell
        self._told: set[str] = set()
        self._source: dict[str, str] = {}
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """The thread."""
        try:
            self._source = self._ship()
        except BaseException as exc:  # noqa: BLE001 - who waits for it raises it
            self._error = exc

    def source(self) -> dict[str, str]:
        """
        What a run's spec says of its files, once the thread has ended: ``bundle`` and ``root``.

        Raises:
            SupercheckError: They could not be shipped.
        """
        if self._error is not None:
            raise self._error
        return self._source

    def _ship(self) -> dict[str, str]:
        wish = self._wish
        rootdir = Path(wish["rootdir"])
        gathering = Gathering(rootdir, wish["include"], wish["exclude"], wish["limit_bytes"])
        memory = _directory(rootdir) / "digests.json"
        changed = ""
        for _ in range(_TRIES):
            gathered = gathering.gather(memory)
            for words in _notes(gathered):
                self._tell_once(words)
            try:
                self._send(gathered)
            except _Changed as exc:
                changed = str(exc)
                memory.unlink(missing_ok=True)
            else:
                return {"bundle": gathered.manifest.id, "root": gathered.root}
        raise SourceTrouble(
            f"{changed} changes while it is shipped: name it in supercheck_exclude, or stop its writer."
        )

    def _send(self, gathered: Gathered) -> None:
        """Until the server has all of it."""
        project, manifest = self._wish["project"], gathered.manifest
        state, missing = self._gateway.bundle(project, manifest.id)
        if state == "ready":
            return
        name = hashlib.sha256(f"{self._gateway.address}\0{project}".encode("utf-8", "replace")).hexdigest()[:16]
        last = _directory(Path(self._wish["rootdir"])) / f"shipped-{name}"
        whole = zlib.compress(manifest.encode(), 1)
        base = _remembered(last)
        wish = min(whole, zlib.compress(manifest.since(base), 1), key=len) if base is not None else whole
        upload = _Upload(self._gateway, project, gathered, self._tell)
        for _ in range(_ROUNDS):
            state, missing = self._gateway.bundle(project, manifest.id, wish)
            if state == "ready":
                _remember(last, whole)
                return
            if state == "unknown":
                wish = whole
            else:
                upload.send(missing)
        raise Infrastructure(f"{self._gateway.address} does not keep what it is sent: its store, or its database?")

    def _tell_once(self, words: str) -> None:
        if words not in self._told:
            self._told.add(words)
            self._tell(words)


class _Upload:
    """Pieces of a project's files on their way, with words about how far they have come."""

    def __init__(self, gateway: Receiver, project: str, gathered: Gathered, tell: Callable[[str], None]) -> None:
        self._gateway = gateway
        self._project = project
        self._root = gathered.root
        self._where = _pieces(gathered.manifest)
        self._tell = tell
        self._lock = threading.Lock()
        self._due = time.monotonic() + QUIET_S
        self._total = self._sent = 0

    def send(self, missing: Sequence[str]) -> None:
        """Send these pieces; those that the bundle has not are no matter."""
        wanted = {piece: self._where[piece] for piece in missing if piece in self._where}
        if not wanted:
            raise Infrastructure(f"{self._gateway.address} asks for what is not in the bundle.")
        self._total, self._sent = sum(size for _, _, size in wanted.values()), 0
        executor = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="supercheck-pack")
        try:
            for _ in executor.map(self._send, _groups(wanted)):
                pass
        finally:
            executor.shutdown(cancel_futures=True)

    def _send(self, group: dict[str, _Piece]) -> None:
        self._gateway.pack(self._project, packs.encode(self._read(group)))
        with self._lock:
            self._sent += sum(size for _, _, size in group.values())
            if time.monotonic() > self._due:
                self._due = time.monotonic() + TELL_S
                self._tell(f"supercheck: shipping the project, {megabytes(self._sent)} of {megabytes(self._total)}")

    def _read(self, group: dict[str, _Piece]) -> Iterator[tuple[str, bytes]]:
        with closing(Descent(self._root)) as descent:
            for piece, (path, start, size) in group.items():
                try:
                    fd = descent.open(path)
                except OSError as exc:
                    raise _Changed(path) from exc
                try:
                    content = os.pread(fd, size, start)
                finally:
                    os.close(fd)
                if hashlib.sha256(content).hexdigest() != piece:
                    raise _Changed(path)
                yield piece, content


def _pieces(manifest: Manifest) -> dict[str, _Piece]:
    found: dict[str, _Piece] = {}
    for entry in manifest.entries:
        for number, (piece, size) in enumerate(entry.sized):
            found.setdefault(piece, (entry.path, number * PIECE_BYTES, size))
    return found


def _groups(wanted: dict[str, _Piece]) -> Iterable[dict[str, _Piece]]:
    """Pieces that go together in a pack, as many as fit; the large ones are nearly alone."""
    groups: list[dict[str, _Piece]] = []
    room = 0
    for piece, where in wanted.items():
        size = where[2]
        if not groups or size > room or len(groups[-1]) == PACK_PIECES:
            groups.append({})
            room = PACK_BYTES
        groups[-1][piece] = where
        room -= size
    return groups


def _notes(gathered: Gathered) -> Iterator[str]:
    """What the user should know of what goes along."""
    if gathered.left:
        named = ", ".join(f"{_shown(path)} ({why})" for path, why in gathered.left[:_NAMED])
        more = f", and {len(gathered.left) - _NAMED} more" if len(gathered.left) > _NAMED else ""
        remedy = "; supercheck_include takes secrets along" if SECRET in dict(gathered.left).values() else ""
        yield f"supercheck: not shipped: {named}{more}{remedy}"
    if gathered.clashes:
        named = ", ".join(map(_shown, gathered.clashes[: _NAMED + 1]))
        yield f"supercheck: names that differ by case only, which not every worker can have: {named}"


def _shown(path: str) -> str:
    return printable(path)[-100:]


def _directory(rootdir: Path) -> Path:
    """Where is remembered what spares work the next time; that it cannot be made only costs time."""
    directory = rootdir / DIRECTORY / "sources"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        keep_out_of_git(rootdir)
    except OSError:
        pass
    return directory


def _remembered(file: Path) -> Manifest | None:
    """The manifest that the server was last given."""
    try:
        return decode(inflate(file.read_bytes(), MANIFEST_BYTES))
    except (OSError, SourceTrouble):
        return None


def _remember(file: Path, packed: bytes) -> None:
    try:
        write_whole(file, packed)
    except OSError:
        pass
