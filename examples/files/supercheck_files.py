"""
Addresses that begin with ``file://`` for pytest-supercheck: a store in a directory.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.errors import StoreTrouble
from pytest_supercheck.hookspecs import hookimpl
from pytest_supercheck.store import Store


@hookimpl
def supercheck_open_store(url: str) -> Store | None:
    """Open ``file:///DIRECTORY``."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    if parts.netloc or not parts.path:
        raise StoreTrouble(f"{url!r} is no store: file:///DIRECTORY, on this machine")
    return DirectoryStore(Path(unquote(parts.path)))
