"""
The last runs of a root directory, kept in it: what embedded runs leave behind.

Joins a transcript, an archive and a directory store, for sessions and for the commands that show runs.

    ROOTDIR/.supercheck/.gitignore   keeps all of it out of git
    ROOTDIR/.supercheck/store/       the store
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_supercheck.archive import Archive
from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.transcript import Recorded

#: The directory's name.
DIRECTORY: Final = ".supercheck"


def record_locally(rootdir: Path, recorded: Recorded, *, keep: int) -> None:
    """
    Write a run's record, and remove those of the oldest runs.

    Args:
        keep: How many runs may be there afterwards, at least 1.

    Raises:
        StoreTrouble: The directory cannot be written.
    """
    archive = Archive(DirectoryStore(store_directory(rootdir)))
    archive.save(recorded)
    ignore = rootdir / DIRECTORY / ".gitignore"
    if not ignore.exists():
        ignore.write_text("# Made by pytest-supercheck.\n*\n", "utf-8")
    for folder in archive.folders()[keep:]:
        archive.remove(folder)


def store_directory(rootdir: Path) -> Path:
    """Where the store of a root directory is."""
    return rootdir / DIRECTORY / "store"


def find_local_store(directory: Path) -> Path | None:
    """The store of that directory or of the nearest one above that has one; None when none has."""
    places = (store_directory(place) for place in (directory, *directory.parents))
    return next((place for place in places if place.is_dir()), None)
