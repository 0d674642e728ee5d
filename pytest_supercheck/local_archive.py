"""
The last runs of a root directory, kept in it: what embedded runs leave behind.

Joins a transcript, an archive and a directory store, for sessions and for the commands that show runs; `footprint` says
where they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_supercheck.archive import Archive
from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.errors import StoreTrouble
from pytest_supercheck.footprint import DIRECTORY, keep_out_of_git, store_directory
from pytest_supercheck.transcript import Recorded

_SERVED: Final = "served"


def record_locally(rootdir: Path, recorded: Recorded, *, keep: int) -> None:
    """
    Write a run's record, and remove those of the oldest runs, unless a server has the store: it keeps its own there.

    Args:
        keep: How many runs may be there afterwards, at least 1.

    Raises:
        StoreTrouble: The directory cannot be written.
    """
    archive = Archive(DirectoryStore(store_directory(rootdir)))
    archive.save(recorded)
    keep_out_of_git(rootdir)
    if not (rootdir / DIRECTORY / _SERVED).exists():
        for folder in archive.folders()[keep:]:
            archive.remove(folder)


def mark_served(store: str) -> None:
    """
    Note that a server has the store of a root directory, so that sessions remove nothing from it; mark no other.

    Args:
        store: Its address; it need not be there yet.

    Raises:
        StoreTrouble: The directory cannot be written.
    """
    place = Path(store).expanduser().absolute()
    rootdir = place.parent.parent
    if "://" in store or place != store_directory(rootdir):
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        (place.parent / _SERVED).touch()
        keep_out_of_git(rootdir)
    except OSError as exc:
        raise StoreTrouble(f"{place.parent} cannot be written: {exc}") from exc


def find_local_store(directory: Path) -> Path | None:
    """The store of that directory or of the nearest one above that has one; None when none has."""
    places = (store_directory(place) for place in (directory, *directory.parents))
    return next((place for place in places if place.is_dir()), None)
