"""
Pieces of files, packed together: on their way to the server, in the store, and from there to workers.

Between bundles, which name pieces by their sha256, and the store, which has packs.  Knows formats and keys; neither who
sends a pack nor which pieces somebody lacks.

    projects/PROJECT/sources/packs/PACK      pieces; PACK is a name that the server makes
    projects/PROJECT/sources/bundles/ID      a manifest, and where each of its pieces is; compressed by zlib

A pack is ``SCP1``, the length of its index in four bytes, the index, which is compressed JSON, ``[sha256, stored,
size]`` of each piece, and then the pieces in that order, compressed where that makes them shorter.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from pytest_supercheck.bundle import ENTRIES, MANIFEST_BYTES, PIECE_BYTES, Manifest, inflate, is_id, read
from pytest_supercheck.errors import SourceTrouble

#: Bytes of all pieces of a pack before they are compressed, and their number, at most.
PACK_BYTES: Final = 8 << 20
PACK_PIECES: Final = 4096

#: Bytes of a pack as a whole, at most.
PACK_LIMIT: Final = PACK_BYTES + (1 << 20)

#: Bytes in front of a pack's index.
HEAD_BYTES: Final = 8

_MAGIC: Final = b"SCP1"
_INDEX_BYTES: Final = 1 << 20

#: The quickest: on the way there are local networks, and most of a project's bytes never travel twice.
_LEVEL: Final = 1


class Place(NamedTuple):
    """Where a piece is."""

    #: Its sha256, and its bytes.
    piece: str
    size: int
    #: Its first byte in the pack, and how many it has there.
    offset: int
    stored: int


def bundle_key(folder: str, bundle: str = "") -> str:
    """Where a bundle is in the store, below a project's folder as `project_folder` has it; without, all of them."""
    return f"{folder}sources/bundles/{bundle}"


def pack_key(folder: str, pack: str = "") -> str:
    """Where a pack is in the store; likewise."""
    return f"{folder}sources/packs/{pack}"


def encode(pieces: Iterable[tuple[str, bytes]]) -> bytes:
    """
    Pack pieces together.

    Args:
        pieces: The sha256 and the bytes of each, within the bounds above.
    """
    index: list[tuple[str, int, int]] = []
    bodies: list[bytes] = []
    for piece, content in pieces:
        packed = zlib.compress(content, _LEVEL)
        bodies.append(packed if len(packed) < len(content) else content)
        index.append((piece, len(bodies[-1]), len(content)))
    head = zlib.compress(json.dumps(index, separators=(",", ":")).encode(), _LEVEL)
    return b"".join([_MAGIC, struct.pack(">I", len(head)), head, *bodies])


def index_bytes(head: bytes) -> int:
    """
    How long a pack's index is.

    Args:
        head: Its first `HEAD_BYTES`.

    Raises:
        SourceTrouble: It is no pack, or its index is too long.
    """
    if len(head) < HEAD_BYTES or head[:4] != _MAGIC:
        raise SourceTrouble("This is no pack of this release.")
    length: int = struct.unpack(">I", head[4:HEAD_BYTES])[0]
    if length > _INDEX_BYTES:
        raise SourceTrouble("This pack's index is too long.")
    return length


def places(index: bytes) -> list[Place]:
    """
    Where the pieces of a pack are.

    Raises:
        SourceTrouble: The index cannot be read, or there is more in the pack than may be.
    """
    try:
        rows = json.loads(inflate(index, _INDEX_BYTES))
    except (ValueError, RecursionError) as exc:
        raise SourceTrouble(f"This pack's index cannot be read: {exc}") from exc
    if not isinstance(rows, list) or not 0 < len(rows) <= PACK_PIECES:
        raise SourceTrouble(f"A pack has 1 to {PACK_PIECES} pieces.")
    found: list[Place] = []
    offset, size_bytes = HEAD_BYTES + len(index), 0
    for row in rows:
        match row:
            case [piece, int(stored), int(size)] if is_id(piece) and 0 < stored <= size <= PIECE_BYTES:
                found.append(Place(piece, size, offset, stored))
            case _:
                raise SourceTrouble("This pack's index cannot be read.")
        offset, size_bytes = offset + stored, size_bytes + size
    if size_bytes > PACK_BYTES:
        raise SourceTrouble(f"A pack has {PACK_BYTES >> 20} MB at most.")
    return found


def check(pack: bytes) -> list[Place]:
    """
    Read a pack that anybody may have sent, every piece of it.

    Returns:
        Where its pieces are.

    Raises:
        SourceTrouble: It cannot be read, a piece is not the one that it is said to be, or there is more than may be.
    """
    length = index_bytes(pack)
    found = places(pack[HEAD_BYTES : HEAD_BYTES + length])
    if found[-1].offset + found[-1].stored != len(pack):
        raise SourceTrouble("This pack is not whole.")
    for place in found:
        unpack(pack[place.offset : place.offset + place.stored], place.piece, place.size)
    return found


def unpack(stored: bytes, piece: str, size: int) -> bytes:
    """
    A piece from what is stored of it.

    Raises:
        SourceTrouble: It is another one, or damaged.
    """
    content = stored if len(stored) == size else inflate(stored, size)
    if len(content) != size or hashlib.sha256(content).hexdigest() != piece:
        raise SourceTrouble(f"The content of {piece} is another one: it was damaged, or changed on its way.")
    return content


class Located(NamedTuple):
    """A bundle in the store."""

    manifest: Manifest
    #: For each piece, the name of its pack and its place there.
    where: Mapping[str, tuple[str, Place]]

    def encode(self) -> bytes:
        """As it is kept."""
        names = sorted({pack for pack, _ in self.where.values()})
        numbers = {name: number for number, name in enumerate(names)}
        rows = []
        for piece in self.manifest.pieces:
            pack, place = self.where[piece]
            rows.append((numbers[pack], place.offset, place.stored))
        row = {"manifest": json.loads(self.manifest.encode()), "packs": names, "places": rows}
        return zlib.compress(json.dumps(row, separators=(",", ":")).encode(), _LEVEL)


def decode_located(packed: bytes, bundle: str) -> Located:
    """
    Read a bundle as it is kept.

    Args:
        bundle: Its id.

    Raises:
        SourceTrouble: It is another one, or damaged.
    """
    try:
        row = json.loads(inflate(packed, 2 * MANIFEST_BYTES))
        manifest = read(row["manifest"])
        where = dict(_located(manifest, row))
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise SourceTrouble(f"The bundle {bundle} is damaged in the store.") from exc
    if manifest.id != bundle:
        raise SourceTrouble(f"The bundle {bundle} is damaged in the store: it is another one.")
    return Located(manifest, where)


def _located(manifest: Manifest, row: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, Place]]]:
    names = row["packs"]
    for (piece, size), (number, offset, stored) in zip(manifest.pieces.items(), row["places"], strict=True):
        if not 0 < stored <= size or offset < 0 or not 0 <= number < len(names) <= ENTRIES:
            raise ValueError("a place that cannot be")
        yield piece, (str(names[number]), Place(piece, size, offset, stored))
