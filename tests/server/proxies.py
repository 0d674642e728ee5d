"""
Small proxies for tests: what they do with connections is theirs to say.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.server.conftest import GUARD_S

#: What a proxy does with a connection from a client, and one to the server.
Serve = Callable[[socket.socket, socket.socket], None]


@contextmanager
def proxy(url: str, serve: Serve, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A proxy in front of a server, perhaps one that ends TLS; its address, without a scheme."""
    to = ("127.0.0.1", int(url.rpartition(":")[2]))
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(to) as server:
            if context is None:
                serve(client, server)
            else:
                with context.wrap_socket(client, server_side=True) as secure:
                    serve(secure, server)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=answer, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(GUARD_S)


def pass_on(client: socket.socket, server: socket.socket, *, idle_s: float = GUARD_S) -> None:
    """Both ways, byte by byte, until nothing has come for that long."""
    last = time.monotonic()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        nonlocal last
        while time.monotonic() < last + idle_s:
            try:
                chunk = source.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if not chunk:
                break
            last = time.monotonic()
            sink.sendall(chunk)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    for one in (client, server):
        one.settimeout(0.2)
    back = threading.Thread(target=pump, args=(server, client), daemon=True)
    back.start()
    pump(client, server)
    back.join(GUARD_S)


def hold_back(client: socket.socket, server: socket.socket) -> None:
    """An answer is passed on when it is complete; one request of HTTP/1.1 to a connection."""
    asked = b""
    while b"\r\n\r\n" not in asked:
        asked += client.recv(65536)
    head, _, body = asked.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    while len(body) < int(found[1] if found else 0):
        body += client.recv(65536)
    head = re.sub(rb"(?i)\r\nconnection: *[^\r]*", b"", head) + b"\r\nConnection: close"
    server.sendall(head + b"\r\n\r\n" + body)
    answer = b""
    while chunk := server.recv(65536):
        answer += chunk
    client.sendall(answer)
