"""
What uv has fetched and built on a worker, kept within bounds: looked at now and then, before somebody builds.

Knows sizes and times of use; neither projects nor environments.  What is removed is fetched again when it is needed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import uuid
from pathlib import Path
from typing import Final

from pytest_supercheck.build_cache import BuildCache, remove
from pytest_supercheck.uv_program import Job, Tell, Uv

#: Seconds between two looks; a Python that was used since the last one stays.
LOOK_S: Final = 24 * 3600.0

#: Bytes from which a cache of uv begins anew.
CACHE_BYTES: Final = 20_000_000_000

#: Bytes of all projects' own caches and environments, where each has its own.
APART_BYTES: Final = 100_000_000_000

#: Pythons that are kept besides those used lately.
KEPT_PYTHONS: Final = 10


def tidy(uv: Uv, tell: Tell) -> None:
    """
    Remove what is too much, if nobody has looked for a day; several at a time do no harm.

    Raises:
        Fatal: uv does not clear its cache.
    """
    cache = uv.own / "uv"
    if _is_due(uv.own / "uv.looked") and _size(cache) > CACHE_BYTES:
        tell(f"what uv has fetched takes more than {CACHE_BYTES / 1e9:.0f} GB on the worker, and is removed", True)
        uv.run(["cache", "clean"], Path("/"), Job(place=cache, tell=tell))
    if _is_due(uv.pythons.with_name("pythons.looked")):
        _remove_pythons(uv.pythons)


def tidy_apart(apart: BuildCache, cache: Path) -> None:
    """
    Remove what projects have that were used longest ago, if together it is too much and nobody has looked for a day.

    Args:
        apart: Each project's own.
        cache: The worker's.
    """
    if _is_due(cache / "apart.looked"):
        apart.shrink(APART_BYTES, _size)


def note_use(python: Path, pythons: Path) -> None:
    """A Python is about to be used; one that uv has fetched stays for a day at least."""
    with contextlib.suppress(ValueError, OSError):
        os.utime(pythons / python.relative_to(pythons.resolve()).parts[0])


def _is_due(mark: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        if time.time() < mark.stat().st_mtime + LOOK_S:
            return False
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return True


def _size(directory: Path) -> int:
    """Bytes that it takes on the disk, roughly: some may go meanwhile. However deep builds have made it."""
    told = subprocess.run(["du", "-sk", str(directory)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return int((told.stdout.split() or [b"0"])[0]) * 1024


def _remove_pythons(pythons: Path) -> None:
    pythons.mkdir(parents=True, exist_ok=True)
    entries = [entry for entry in pythons.iterdir() if not entry.name.startswith(".")]  # in the others uv is at work
    used: list[tuple[float, Path]] = []
    for entry in entries:
        with contextlib.suppress(OSError):
            if entry.is_dir() and not entry.is_symlink():
                used.append((entry.stat().st_mtime, entry))
    for used_at, entry in sorted(used, reverse=True)[KEPT_PYTHONS:]:
        if used_at < time.time() - LOOK_S:
            gone = pythons / f".gone-{uuid.uuid4().hex[:12]}"
            with contextlib.suppress(FileNotFoundError):
                entry.rename(gone)
            remove(gone)
    for link in entries:
        if link.is_symlink() and not link.exists():
            link.unlink(missing_ok=True)
