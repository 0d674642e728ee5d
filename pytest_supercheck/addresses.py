"""
Addresses: whose they are, of which kind, and to which secrets may be sent.

Pure: asks no name server.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

#: How the address of a pool begins that is Redis itself, and that of a server.
REDIS_SCHEMES: Final = ("redis://", "rediss://", "unix://")
HTTP_SCHEMES: Final = ("http://", "https://")


def is_server(url: str | None) -> bool:
    """Whether a pool's address is that of a server, which is reached over HTTP; None is no address."""
    return url is not None and url.startswith(HTTP_SCHEMES)


def is_local(host: str) -> bool:
    """
    Whether a host's name or address is this machine's own, whatever a name server says.

    Args:
        host: `localhost`, or a name below it, or an address.
    """
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_private(url: str) -> bool:
    """Whether nobody on the way can read what is sent there: it is encrypted, or does not leave this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    host = parts.hostname or ""
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_local(host)))
