"""
A pool's address → the gateway to it.

The one place that knows which adapters there are: a server's HTTP, and Redis.  Imports what is needed, no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_supercheck.addresses import is_server
from pytest_supercheck.errors import Unreachable
from pytest_supercheck.masking import hide

if TYPE_CHECKING:
    from pytest_supercheck.gateway import Gateway
    from pytest_supercheck.http_gateway import HttpGateway


def open_gateway(url: str, token: str | None, *, mask: Callable[[str], None] = hide) -> Gateway:
    """
    Connect with a pool, whichever way its address says.

    Args:
        token: The server's, or the password of Redis.
        mask: As of `HttpGateway`.

    Raises:
        Unreachable: It cannot be used; the message says why and what to do.
    """
    if is_server(url):
        return open_server(url, token, mask=mask)
    from pytest_supercheck.redis_gateway import RedisGateway

    return RedisGateway.connect(url, password=token)


def open_server(url: str, token: str | None, *, mask: Callable[[str], None] = hide) -> HttpGateway:
    """
    The gateway to a server; nothing is sent yet.

    Args:
        mask: As of `HttpGateway`.

    Raises:
        Unreachable: Its address is malformed, or what speaks HTTP is not installed.
    """
    try:
        from pytest_supercheck.http_gateway import HttpGateway
    except ImportError as exc:
        raise Unreachable(f"A server's address needs {exc.name}: pip install 'pytest-supercheck[http]'") from exc
    return HttpGateway(url, token, mask=mask)
