"""
A store's address → the store.

The one place that knows which adapters there are: a directory, S3, and what plugins open.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.errors import StoreTrouble
from pytest_supercheck.extensions import first
from pytest_supercheck.hookspecs import hookimpl
from pytest_supercheck.store import BadKey, Store

#: How a bucket's name can be in an address.
_ADDRESSINGS = ("auto", "path", "virtual")


def open_store(url: str, *, endpoint: str | None = None) -> Store:
    """
    Open a store; a directory need not exist.

    Args:
        url: A directory, or ``s3://BUCKET/PREFIX``, perhaps with ``?addressing=path`` or ``virtual``, or what a plugin
            knows.
        endpoint: The S3 server's address; None for AWS.

    Raises:
        StoreTrouble: The address is of no such form, or boto3 is not installed.
        BadPlugin: The address is not one of ours, and a plugin cannot be loaded.
    """
    found: Store | None = first("supercheck_open_store", sys.modules[__name__], url=url, endpoint=endpoint)
    if found is None:
        raise _none(url)
    return found


@hookimpl
def supercheck_open_store(url: str, endpoint: str | None) -> Store | None:
    """Our own: a directory, or a bucket."""
    if "://" not in url:
        return DirectoryStore(Path(url).expanduser())
    return _open_s3(url, endpoint) if url.startswith("s3://") else None


def _none(url: str) -> StoreTrouble:
    shown = url.partition("?")[0].rpartition("@")[2]
    return StoreTrouble(
        f"{shown!r} is no store: a directory, s3://BUCKET/PREFIX[?addressing=path|virtual], or what a plugin here opens"
    )


def _open_s3(url: str, endpoint: str | None) -> Store:
    parts = urlsplit(url)
    options = parse_qs(parts.query, keep_blank_values=True)
    [addressing] = options.pop("addressing", ["auto"])[-1:]
    if not parts.netloc or options or addressing not in _ADDRESSINGS:
        raise _none(url)
    if "@" in parts.netloc:
        raise StoreTrouble("credentials are not part of a store's address: put them into AWS's own variables")
    try:
        from pytest_supercheck.s3_store import S3Store
    except ImportError as exc:
        raise StoreTrouble("a store in S3 needs boto3: pip install 'pytest-supercheck[s3]'") from exc
    prefix = parts.path.strip("/")
    try:
        return S3Store(parts.netloc, f"{prefix}/" if prefix else "", endpoint=endpoint or None, addressing=addressing)
    except (BadKey, ValueError) as exc:
        raise StoreTrouble(f"s3://{parts.netloc}{parts.path} is no store: {exc}") from exc
