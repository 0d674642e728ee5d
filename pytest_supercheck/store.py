"""
The port to where records, reports and artifacts are kept: a directory or S3, however it is called there.

Six verbs over keys and bytes.  Must not know which adapter stands behind it, nor what the bytes mean.

A key is a path of segments between slashes, such as ``projects/shop/runs/RUN/run.json``; `check_key` says which ones
there are.  What type an object has and how long it may be cached follows from its key alone (`headers`), so every
adapter, and whoever serves it, says the same.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Final, Protocol

#: Bytes of a key and of one of its segments, at most. S3 allows 1024, file systems 255 a segment.
KEY_BYTES: Final = 900
SEGMENT_BYTES: Final = 240

#: What no key has in it: control characters, what separates paths elsewhere, and what is no text.
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")

#: By suffix; all of them inert in a browser.
_TYPES: Final = {
    ".txt": "text/plain; charset=utf-8",
    ".log": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".gz": "application/gzip",
    ".zip": "application/zip",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".webm": "video/webm",
    ".mp4": "video/mp4",
}


class BadKey(ValueError):
    """The key could lead elsewhere, or is not one that every store can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One object of a store, or a folder of it."""

    #: Its key; that of a folder ends with a slash.
    key: str
    #: How long it is; 0 for a folder.
    size_bytes: int = 0
    #: When it was written, aware UTC; None for a folder.
    written_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """What a browser is told of an object."""

    #: Its media type.
    content_type: str
    #: How long it may be cached, as in HTTP.
    cache_control: str


def headers(key: str) -> Headers:
    """
    What a browser is to be told of the object with that key.

    Pages are ours alone: one that a test left behind is shown as text, since it would run in the reports' origin.
    """
    suffix = "." + key.rpartition(".")[2].lower()
    page = suffix == ".html"
    kind = _TYPES.get(suffix, "application/octet-stream")
    if page:
        kind = "text/plain; charset=utf-8" if "/artifacts/" in key else "text/html; charset=utf-8"
    changing = page or suffix == ".json"
    return Headers(
        content_type=kind,
        cache_control="no-cache" if changing else "private, max-age=31536000, immutable",
    )


def check_key(key: str) -> str:
    """
    Require that a key names one object in every store, and inside of it.

    Args:
        key: 1 to 900 bytes of UTF-8 in segments of 1 to 240 bytes, none of them ``.`` or ``..``, the first without a
            dot in front, no control characters and no backslashes.

    Returns:
        The key.

    Raises:
        BadKey: It is not of that form.
    """
    segments = key.split("/")
    if _FORBIDDEN.search(key) or key.startswith(".") or not {"", ".", ".."}.isdisjoint(segments):
        raise BadKey(f"{key[:200]!r} is not a key: no control characters, backslashes, empty segments, '.' or '..'")
    sizes = [len(segment.encode()) for segment in segments]
    if sum(sizes) + len(sizes) - 1 > KEY_BYTES or max(sizes) > SEGMENT_BYTES:
        raise BadKey(f"{key[:200]!r}... is too long: {KEY_BYTES} bytes at most, {SEGMENT_BYTES} in a segment")
    return key


def check_folder(folder: str) -> str:
    """
    Require that a folder is one inside of every store.

    Returns:
        The folder: empty for all of the store, else with a slash at its end.

    Raises:
        BadKey: It is not of that form.
    """
    if folder and not folder.endswith("/"):
        raise BadKey(f"{folder[:200]!r} is not a folder: it must end with a slash")
    if folder:
        check_key(folder[:-1])
    return folder


class Slice(io.RawIOBase):
    """The next bytes of a file, and no more; closes it."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file = file
        #: How many of them have not been read.
        self.left = length

    def readable(self) -> bool:
        """As of a file."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """As of a file."""
        chunk = self._file.read(min(len(buffer), self.left))
        buffer[: len(chunk)] = chunk
        self.left -= len(chunk)
        return len(chunk)

    def close(self) -> None:
        """As of a file."""
        self._file.close()
        super().close()


class Store(Protocol):
    """
    Where objects are kept. Every verb raises `StoreTrouble` when the store cannot be used, and `BadKey`.

    Objects appear whole or not at all, and a reader of one that is replaced sees the old or the new one.
    """

    def put(self, key: str, content: bytes | BinaryIO, *, replace: bool = True) -> bool:
        """
        Write an object.

        Args:
            content: All of it, or a file that is read to its end.
            replace: Whether one that is there is replaced. Without, the first of several writers wins.

        Returns:
            Whether it was written.
        """
        ...

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> BinaryIO:
        """
        Open an object to read.

        Args:
            start: Byte to begin at, from 0.
            length: Bytes to read at most, from 1; None for all that follow.

        Returns:
            A stream; close it.

        Raises:
            NotStored: There is no such object.
        """
        ...

    def head(self, key: str) -> Entry | None:
        """Look whether there is such an object; None when there is not."""
        ...

    def list(self, folder: str = "", *, deep: bool = True) -> Iterator[Entry]:
        """
        Go through a folder, in the order of its keys.

        Args:
            folder: Empty for everything, else it ends with a slash.
            deep: Objects of folders below, too; else those folders themselves.

        Returns:
            Its entries; none when there is no such folder.
        """
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are no matter."""
        ...

    def url(self, key: str, *, ttl_s: float = 3600, download: bool = False) -> str:
        """
        An address under which a browser can read an object.

        Args:
            ttl_s: Seconds after which it may lapse, at most 7 days.
            download: Whether the browser is told to save it and not to show it, where an address can say that.
        """
        ...
