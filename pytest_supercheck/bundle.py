"""
A project's files at one moment, as one value: the bundle, its manifest, and how one differs from another.

Pure: who gathers files, sends, keeps or unpacks them speaks of them in these words, on the client, the server and the
worker.  Everything that is decoded here may come from anybody: what has been decoded can be made below a directory, and
nowhere else.

A bundle's id is the sha256 of its manifest, which is canonical JSON in ASCII: an object with `version` and `entries`,
each of which is ``[path, kind, size, content]``, in the order of paths.  The content of a file is named by the sha256
of each `PIECE_BYTES` of it, in a row, so that whoever has all pieces has the file, and what is cut is resumed.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from pytest_supercheck.errors import SourceTrouble

#: Version of manifests.
VERSION: Final = 1

#: Bytes of a piece of a file, at most: of the last one of a file, or of the only one. Longer files have several.
PIECE_BYTES: Final = 4 << 20

#: Entries of a bundle, links among them, directories that they are in, bytes of all its files, and of its manifest, at
#: most.
ENTRIES: Final = 100_000

#: Values of an entry, and names removed for each, on average at most.
_VALUES: Final = 8
LINKS: Final = 20_000
DIRECTORIES: Final = 100_000
BYTES: Final = 10_000_000_000
MANIFEST_BYTES: Final = 64 << 20

#: Names in a path, bytes of it and of one of them, and names on the way to where a link leads, at most.
DEPTH: Final = 64
PATH_BYTES: Final = 4000
NAME_BYTES: Final = 255
STEPS: Final = 1000

Kind = Literal["file", "program", "link"]
_KINDS: Final = frozenset({"file", "program", "link"})
_DIGEST: Final = 64
_CONTENT: Final = re.compile(r"(?:[0-9a-f]{64})*")
_ID: Final = re.compile(r"[0-9a-f]{64}")


class Entry(NamedTuple):
    """One file or link of a bundle."""

    #: Where it is below the bundle's root, with slashes; bytes that are no UTF-8 as Python has them in names of files.
    path: str
    #: A program is a file that its owner may execute.
    kind: Kind
    #: Bytes of the file; 0 of a link.
    size_bytes: int
    #: The hexadecimal sha256 of each piece, in a row; of a link, where it leads.
    content: str

    @property
    def pieces(self) -> list[str]:
        """The sha256 of each piece of a file; none of an empty file, or of a link."""
        if self.kind == "link":
            return []
        return [self.content[start : start + _DIGEST] for start in range(0, len(self.content), _DIGEST)]

    @property
    def sized(self) -> Iterator[tuple[str, int]]:
        """The sha256 and the bytes of each piece."""
        for number, piece in enumerate(self.pieces):
            yield piece, min(PIECE_BYTES, self.size_bytes - number * PIECE_BYTES)


class Manifest:
    """
    What a bundle holds.

    Args:
        entries: In any order; they are believed.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries: Final = tuple(sorted(entries))
        self._encoded = b""
        self._id = ""

    def encode(self) -> bytes:
        """The canonical JSON."""
        if not self._encoded:
            self._encoded = _dump({"version": VERSION, "entries": self.entries})
        return self._encoded

    @property
    def id(self) -> str:
        """The bundle's."""
        self._id = self._id or hashlib.sha256(self.encode()).hexdigest()
        return self._id

    @property
    def pieces(self) -> dict[str, int]:
        """The sha256 of every piece, in the order of paths, and its bytes."""
        return {piece: size for entry in self.entries for piece, size in entry.sized}

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(entry.size_bytes for entry in self.entries)

    def since(self, base: Manifest) -> bytes:
        """This manifest as what differs from another one; `decode_wish` reads it."""
        before, after = {entry.path for entry in base.entries}, {entry.path for entry in self.entries}
        changed = sorted(set(self.entries) - set(base.entries))
        return _dump(
            {"version": VERSION, "base": base.id, "changed": changed, "removed": sorted(before - after)}
        )  # fmt: skip


class Difference(NamedTuple):
    """A manifest as what differs from another one."""

    #: The other bundle's id.
    base: str
    #: Entries that are new or other ones, and paths that are no more.
    changed: tuple[Entry, ...]
    removed: frozenset[str]

    def apply(self, base: Manifest) -> Manifest:
        """
        The manifest itself.

        Raises:
            SourceTrouble: It is none that can be.
        """
        gone = self.removed | {entry.path for entry in self.changed}
        return _checked([*(entry for entry in base.entries if entry.path not in gone), *self.changed])


def decode(encoded: bytes) -> Manifest:
    """
    Read a manifest.

    Raises:
        SourceTrouble: It is of another version, or holds what cannot be, or what leads elsewhere.
    """
    return read(_load(encoded))


def read(row: Mapping[str, Any]) -> Manifest:
    """As `decode`, of the object that its JSON describes."""
    return _checked(_entries(row.get("entries")))


def decode_wish(packed: bytes) -> Manifest | Difference:
    """
    Read what a client sends, compressed: a manifest, or what differs from one.

    Raises:
        SourceTrouble: As `decode`, or it is too long.
    """
    row = _load(inflate(packed, MANIFEST_BYTES))
    if "base" not in row:
        return read(row)
    removed = row.get("removed")
    if not is_id(row["base"]) or not isinstance(removed, list) or not all(isinstance(path, str) for path in removed):
        raise SourceTrouble("This is no bundle: what it is to differ from cannot be read.")
    return Difference(row["base"], tuple(_entries(row.get("changed"))), frozenset(removed))


def is_id(text: object) -> bool:
    """Whether it is what a bundle's or a piece's id looks like."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def inflate(packed: bytes, limit_bytes: int) -> bytes:
    """
    Take apart what zlib has compressed.

    Raises:
        SourceTrouble: It is damaged, or longer than `limit_bytes`, of which no more is made.
    """
    opened = zlib.decompressobj()
    try:
        content = opened.decompress(packed, limit_bytes + 1)
    except zlib.error as exc:
        raise SourceTrouble(f"What was compressed is damaged ({exc}).") from exc
    if len(content) > limit_bytes or not opened.eof or opened.unused_data:
        raise SourceTrouble("What was compressed is longer than it may be, or damaged.")
    return content


def leads_outside(path: str, links: Mapping[str, str]) -> bool:
    """
    Whether a link of a bundle leads out of it, or into a loop.

    Args:
        path: The link's.
        links: All links of the bundle, with their targets.
    """
    here: list[str] = []
    steps = path.split("/")[::-1]
    for _ in range(STEPS):
        if not steps:
            return False
        step = steps.pop()
        if step == "..":
            if not here:
                return True
            here.pop()
        elif step not in ("", "."):
            here.append(step)
            target = links.get("/".join(here))
            if target is not None:
                if target.startswith("/"):
                    return True
                here.pop()
                steps += target.split("/")[::-1]
    return True


def case_clashes(paths: Collection[str]) -> list[str]:
    """Those of the paths that differ from another one, or from a directory of one, by case only."""
    spellings: dict[str, set[str]] = {}
    for path in paths:
        name = path
        while name and name not in (known := spellings.setdefault(name.casefold(), set())):
            known.add(name)
            name = posixpath.dirname(name)
    return sorted(name for several in spellings.values() if len(several) > 1 for name in several)


def _dump(row: object) -> bytes:
    return json.dumps(row, ensure_ascii=True, separators=(",", ":"), sort_keys=True).encode("ascii")


def _load(encoded: bytes) -> dict[str, Any]:
    # Before it is taken apart: of a few bytes each can be a list, which takes a hundred.
    if encoded.count(b"[") + encoded.count(b"{") > 2 * ENTRIES or encoded.count(b",") > _VALUES * ENTRIES:
        raise SourceTrouble(f"A bundle has {ENTRIES:,} files at most.")
    try:
        row = json.loads(encoded)
    except (ValueError, RecursionError) as exc:
        raise SourceTrouble(f"This is no bundle: {exc}") from exc
    if not isinstance(row, dict) or row.get("version") != VERSION:
        raise SourceTrouble("This bundle is of another version: client, server and workers are to be of one release.")
    return row


def _entries(rows: object) -> list[Entry]:
    """Entries, each of which can be by itself."""
    if not isinstance(rows, list) or len(rows) > ENTRIES:
        raise SourceTrouble(f"A bundle has {ENTRIES:,} files at most.")
    return [_entry(row) for row in rows]


def _entry(row: object) -> Entry:
    match row:
        case [str(path), str(kind), int(size), str(content)] if kind in _KINDS and not isinstance(size, bool):
            entry = Entry(path, kind, size, content)  # type: ignore[arg-type]
        case _:
            raise SourceTrouble("This is no bundle: one of its entries cannot be read.")
    _check_path(path)
    if kind == "link":
        fault = size != 0 or not content or len(_raw(content)) > PATH_BYTES or "\0" in content
    else:
        count = -(-size // PIECE_BYTES)
        fault = size < 0 or len(content) != count * _DIGEST or _CONTENT.fullmatch(content) is None
    if fault:
        raise SourceTrouble(f"This is no bundle: {path!a} has a size or a content that cannot be.")
    return entry


def _check_path(path: str) -> None:
    names = path.split("/")
    raw = _raw(path)
    # What a name is in bytes, and back: one name has one spelling.
    if "\0" in path or not {"", ".", ".."}.isdisjoint(names) or raw.decode("utf-8", "surrogateescape") != path:
        raise SourceTrouble(f"This is no bundle: {path[:200]!a} is no path below its root.")
    if any(name.lower() == ".git" for name in names):
        raise SourceTrouble(f"This is no bundle: {path[:200]!a} would be git's own.")
    if len(raw) > PATH_BYTES or len(names) > DEPTH or max(map(len, raw.split(b"/"))) > NAME_BYTES:
        raise SourceTrouble(
            f"{path[:200]!a}... is too long: {DEPTH} names, {NAME_BYTES} bytes in one, {PATH_BYTES} in all."
        )


def _raw(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise SourceTrouble(f"This is no bundle: {text[:200]!a} is no name.") from exc


def _checked(entries: list[Entry]) -> Manifest:
    """A manifest of entries that can be together."""
    if len(entries) > ENTRIES:
        raise SourceTrouble(f"A bundle has {ENTRIES:,} files at most.")
    paths = {entry.path for entry in entries}
    if len(paths) != len(entries):
        raise SourceTrouble("This is no bundle: a path is in it twice.")
    if sum(entry.size_bytes for entry in entries) > BYTES:
        raise SourceTrouble(f"A bundle has {BYTES // 1_000_000_000} GB at most.")
    if both := paths.intersection(directories(paths)):
        raise SourceTrouble(f"This is no bundle: {min(both)!a} is a file, or a link, and a directory.")
    links = {entry.path: entry.content for entry in entries if entry.kind == "link"}
    if len(links) > LINKS:
        raise SourceTrouble(f"A bundle has {LINKS:,} symbolic links at most.")
    for path in links:
        if leads_outside(path, links):
            raise SourceTrouble(f"This is no bundle: the link {path!a} leads out of it, or nowhere.")
    return Manifest(entries)


def directories(paths: Iterable[str]) -> list[str]:
    """
    The directories that files at these paths need, each after the one that it is in.

    Raises:
        SourceTrouble: There are too many.
    """
    found: set[str] = set()
    for path in paths:
        while (path := posixpath.dirname(path)) and path not in found:
            found.add(path)
        if len(found) > DIRECTORIES:
            raise SourceTrouble(f"A bundle has {DIRECTORIES:,} directories at most.")
    return sorted(found)
