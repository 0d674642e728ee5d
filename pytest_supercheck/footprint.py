"""
What this package keeps in the root directory of a project, and that git does not see it.

    ROOTDIR/.supercheck/.gitignore    keeps all of it out of git
    ROOTDIR/.supercheck/store/        the records of embedded runs (`local_archive`)
    ROOTDIR/.supercheck/served        there once a server has that store, whose rules decide what goes
    ROOTDIR/.supercheck/sources/      what spares work when files are shipped once more (`shipping`)
    ROOTDIR/.supercheck/brought.json  which files of tests have been brought here (`retrieval`)
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

#: What this package keeps in a root directory is below this one.
DIRECTORY: Final = ".supercheck"


def store_directory(rootdir: Path) -> Path:
    """Where the store of a root directory is, which embedded runs have."""
    return rootdir / DIRECTORY / "store"


def keep_out_of_git(rootdir: Path) -> None:
    """Have git ignore what this package keeps in a root directory, where `DIRECTORY` is already."""
    ignore = rootdir / DIRECTORY / ".gitignore"
    if not ignore.exists():
        ignore.write_text("# Made by pytest-supercheck.\n*\n", "utf-8")
