"""
Requirement files: what else they read, and which of their lines are directories of the project itself.

Reads what pip's documentation calls the requirements file format, as far as that; uv understands the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from pytest_supercheck.errors import Fatal

#: Files that include each other, and bytes of each.
_FILES_LIMIT: Final = 200
_BYTES_LIMIT: Final = 10_000_000

_INCLUDE: Final = re.compile(r"(?:-r|-c|--requirements?|--constraints?)(?:\s*=?\s*)(?P<file>\S.*)")
_EDITABLE: Final = re.compile(r"(?:-e|--editable)(?:\s*=?\s*)(?P<place>\S.*)")
_OPTION: Final = re.compile(r"--?(?:i|f|index-url|extra-index-url|find-links|no-index|pre|no-binary|only-binary)\b.*")
_NAMED: Final = re.compile(r"[\w.-]+\s*(?:\[[^\]]*\])?\s*@\s*(?P<place>\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What some requirement files say together."""

    #: All files, in the order in which they are read.
    files: tuple[Path, ...]
    #: Directories and archives of the tree that they name.
    local: tuple[Path, ...]
    #: Lines that say where and how to look.
    options: tuple[str, ...]


def read_requirements(files: list[Path], directory: Path, tree: Path) -> Requirements:
    """
    Read requirement files and what they include.

    Args:
        files: Where to begin.
        directory: What local paths are relative to.
        tree: Nothing outside of it is read.

    Raises:
        Fatal: A file is not there, is too large or outside, or there are too many.
    """
    waiting, read = [(file, "") for file in files], dict[Path, None]()
    local, options = dict[Path, None](), dict[str, None]()
    while waiting:
        file, by = waiting.pop(0)
        file = inside(file, tree)
        if file in read:
            continue
        read[file] = None
        if len(read) > _FILES_LIMIT:
            raise Fatal(f"requirement files include more than {_FILES_LIMIT} others")
        for line in _lines(file, by, tree):
            if match := _INCLUDE.fullmatch(line):
                if "://" not in match["file"]:
                    waiting.append((file.parent / match["file"].strip("\"'"), file.name))
            elif place := local_place(line, directory):
                local[inside(place, tree)] = None
            elif _OPTION.fullmatch(line):
                options[line] = None
    return Requirements(files=tuple(read), local=tuple(local), options=tuple(options))


def local_place(line: str, directory: Path) -> Path | None:
    """The directory or archive on this machine that a line names; None when it names none."""
    editable = _EDITABLE.fullmatch(line)
    named = _NAMED.match(line)
    place = (editable or named or {"place": line})["place"]
    place = re.split(r"\s+;|\s+--|(?<=[\w./])\[", place, maxsplit=1)[0].strip("\"'")
    if place.startswith("file:"):
        return Path(unquote(re.sub(r"file:(//(localhost)?(?=/))?", "", place)))
    if "://" in place or (named and not editable and not place.startswith((".", "/"))):
        return None
    if editable or place.startswith((".", "/")) or ("/" in place and not place.startswith("-")):
        return directory / place
    return None


def inside(path: Path, tree: Path) -> Path:
    """
    A path without links in it.

    Raises:
        Fatal: It is not below the tree.
    """
    found = path.resolve()
    if not found.is_relative_to(tree.resolve()):
        raise Fatal(f"{_shown(path, tree)} is outside of what was shipped")
    return found


def _shown(path: Path, tree: Path) -> str:
    return str(path.relative_to(tree) if path.is_relative_to(tree) else path)[:200]


def _lines(file: Path, by: str, tree: Path) -> Iterator[str]:
    """The lines of a file, joined and without comments."""
    try:
        if file.stat().st_size > _BYTES_LIMIT:
            raise Fatal(f"{_shown(file, tree)} is larger than {_BYTES_LIMIT // 1_000_000} MB")
        text = file.read_text("utf-8", "replace")
    except OSError as exc:
        including = f", which {by} includes," if by else ""
        raise Fatal(f"{_shown(file, tree.resolve())}{including} cannot be read: {exc.strerror}") from exc
    for line in re.sub(r"\\\r?\n", "", text).splitlines():
        if stripped := re.sub(r"(?:^|\s)#.*", "", line).strip():
            yield stripped
