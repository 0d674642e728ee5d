"""
Running the application: the socket, the signals, and who may come in where.
"""

from __future__ import annotations

import socket
from types import FrameType
from typing import Final

import click
import uvicorn

from pytest_supercheck.addresses import is_local
from pytest_supercheck.errors import SupercheckError
from supercheck_server.app import create_app
from supercheck_server.feed import Feeds
from supercheck_server.logs import configure_logs
from supercheck_server.parts import Parts
from supercheck_server.settings import Settings, make_private

#: Seconds that answers on their way have when the server ends.
GRACE_S: Final = 5


class NoToken(SupercheckError):
    """No token has been made yet. Make one first: supercheck token create NAME"""


class _Server(uvicorn.Server):
    """Says where it is once it answers, and lets the viewers of live pages go when it ends: it would wait for them."""

    def __init__(self, config: uvicorn.Config, feeds: Feeds, address: str) -> None:
        super().__init__(config)
        self._feeds = feeds
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            click.echo(f"supercheck server: {self._address}; Ctrl-C stops")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._feeds.close()
        super().handle_exit(sig, frame)


def serve(settings: Settings, *, host: str, port: int) -> int:
    """
    Serve until SIGTERM or Ctrl-C.

    Args:
        host: Address to listen on; one that others reach needs a token.
        port: 0 for any that is free.

    Returns:
        An exit code.

    Raises:
        NoToken: The address is not a loopback one, and no token has been made.
        SupercheckError: The database or the data directory cannot be used, or there is no pool's address.
    """
    configure_logs()
    make_private(settings.data)
    parts = Parts(settings)
    try:
        if not is_local(host) and parts.access.is_open():
            raise NoToken(f"{host} can be reached by others, and n{NoToken.__doc__[1:] if NoToken.__doc__ else ''}")
        config = uvicorn.Config(
            create_app(parts), host=host, port=port, log_config=None, timeout_graceful_shutdown=GRACE_S
        )
        try:
            listener = config.bind_socket()
        except SystemExit:
            words = f"{host}:{port} cannot be listened on: another program does, perhaps. Give another --port."
            raise SupercheckError(words) from None
        # Connections inherit it. asyncio sets it by itself only for sockets made with TCP's number, which uvicorn's are
        # not; then a page comes 40 ms late, when the browser has acknowledged its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        _Server(config, parts.feeds, address).run(sockets=[listener])
    finally:
        parts.close()
    return 0
