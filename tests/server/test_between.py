"""
What stands between sessions and a server, and what happens on the way: proxies with ideas of their own, certificates,
tokens that are taken away, clocks that are wrong.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from pytest_supercheck.http_gateway import HttpGateway
from supercheck_server.history import RunFilter
from tests.server.conftest import GUARD_S, Place, Pool, Served, ended, wait_for

#: What a proxy does with a connection from a client, and one to the server.
Serve = Callable[[socket.socket, socket.socket], None]


@contextlib.contextmanager
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


def test_proxy_that_holds_streams_back(place: Place, served: Served, pool: Pool) -> None:
    """Results are asked for, soon after the session has seen that none come."""
    place.go()
    with proxy(served.url, hold_back) as address:
        session = place.start(f"http://{address}", "-rA")
        output = ended(session)
    assert session.returncode == 1, output
    assert "1 failed, 7 passed" in output
    assert output.count("PASSED test_it.py") == 7


def test_proxy_that_closes_what_is_idle(place: Place, served: Served, pool: Pool) -> None:
    """A stream that was cut goes on where it was, as often as that happens."""
    cut: list[float] = []

    def impatient(client: socket.socket, server: socket.socket) -> None:
        pass_on(client, server, idle_s=1)
        cut.append(time.monotonic())

    with proxy(served.url, impatient) as address:
        session = place.start(f"http://{address}", "-rA")
        wait_for(lambda: any(one.nodeid for one in pool.dispatcher.pool().executions), "tests run")
        before = len(cut)
        wait_for(lambda: len(cut) > before + 2, "connections are closed while nothing happens")
        place.go()
        output = ended(session)
    assert session.returncode == 1, output
    assert output.count("PASSED test_it.py") == 7
    assert output.count("FAILED test_it.py") == 1


def test_authority_of_ones_own(place: Place, served: Served, pool: Pool, tmp_path: Path) -> None:
    """Its file is named in SSL_CERT_FILE; without, the session says that."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    place.go()
    _, secret = served.parts.access.create("ci", project=place.path.name)
    with proxy(served.url, pass_on, context) as address:
        session = place.start(f"https://{address}", token=secret)
        output = ended(session)
        assert session.returncode == 69, output
        assert "Name that one's file in SSL_CERT_FILE" in output
        session = place.start(f"https://{address}", token=secret, SSL_CERT_FILE=str(tmp_path / "authority.pem"))
        output = ended(session)
    assert session.returncode == 1, output
    assert "1 failed, 7 passed" in output


def test_token_that_is_revoked_in_the_middle(place: Place, served: Served, pool: Pool) -> None:
    """The session says so, and it is no failure of tests; it does not ask on, which would look like guessing."""
    token, secret = served.parts.access.create("ci", project=place.path.name)
    _, other = served.parts.access.create("ci", project=place.path.name)
    session = place.start(served.url, token=secret)
    wait_for(lambda: any(one.nodeid for one in pool.dispatcher.pool().executions), "tests run")
    assert served.parts.access.revoke(token.id)
    output = ended(session)
    assert session.returncode == 69, output
    assert "does not let us in: This token is unknown, revoked or has expired." in output
    assert "The run is cancelled within a minute." in output
    with contextlib.closing(HttpGateway(served.url, other)) as gateway:
        [run] = gateway.queue().runs
    assert run.run in output
    pool.client.zadd("sc:leases", {f"c:{run.run}": 1})  # the minute is over
    wait_for(lambda: not pool.dispatcher.queue().runs, "the run ends without its session")


@pytest.mark.parametrize("shift_s", [5000, -5000])
def test_clocks_that_are_wrong(place: Place, served: Served, pool: Pool, tmp_path: Path, shift_s: int) -> None:
    """A session's and a worker's, by hours: nothing waits for them, and what is recorded is of the pool's time."""
    for name, seconds in (("ours", shift_s), ("theirs", -shift_s)):
        (tmp_path / name).mkdir()
        code = f"import time\nreal = time.time\ntime.time = lambda: real() + {seconds}\n"
        (tmp_path / name / "sitecustomize.py").write_text(code)
    command = [sys.executable, "-m", "pytest_supercheck.cli", "worker", "--url", place.url, "-c", "2"]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "theirs")}
    place.go()
    worker = subprocess.Popen([*command, "--label", "late"], env=environ, stdout=subprocess.DEVNULL)
    try:
        words = ("--supercheck-label=late", "--supercheck-wait=60")
        session = place.start(served.url, *words, PYTHONPATH=str(tmp_path / "ours"))
        output = ended(session)
    finally:
        worker.terminate()
        worker.wait(GUARD_S)
    assert session.returncode == 1, output
    assert "1 failed, 7 passed" in output
    wait_for(served.parts.history.slow, "the run is recorded")
    [row] = served.parts.history.runs(RunFilter())
    assert abs(row.submitted_ms / 1000 - time.time()) < GUARD_S * 2
