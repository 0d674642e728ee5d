"""
Addresses that begin with ``file://`` for pytest-supercheck: a store in a directory, messages in a file.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.errors import StoreTrouble
from pytest_supercheck.hookspecs import Send, hookimpl
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


@hookimpl
def supercheck_notifier(url: str) -> Send | None:
    """Append each message to ``file:///FILE``, as a line of JSON."""
    parts = urlsplit(url)
    return functools.partial(_append, Path(unquote(parts.path))) if parts.scheme == "file" else None


def _append(path: Path, title: str, body: str, tone: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"title": title, "body": body, "tone": tone}) + "\n")
