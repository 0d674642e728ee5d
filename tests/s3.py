"""
S3 servers on this machine, real ones, for whoever tests with a store.
"""

from __future__ import annotations

import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: The credentials that the servers know.
KEY = "AKIATESTTESTTESTTEST"
SECRET = "not-so-secret-not-so-secret-not-so-secret"

#: Their bucket.
BUCKET = "reports"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """A server that runs."""

    #: Its address.
    endpoint: str


@contextmanager
def rclone(root: Path) -> Iterator[S3Server]:
    """`rclone serve s3` over a directory: it checks signatures, and knows no conditional writes."""
    (root / BUCKET).mkdir(parents=True)
    program = Path(sysconfig.get_path("scripts"), "rclone")
    port = _free_port()
    options = ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", "--config", str(root / "rclone.conf")]
    server = subprocess.Popen(
        [program, "serve", "s3", *options, str(root)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port, server)
        yield S3Server(endpoint=f"http://127.0.0.1:{port}")
    finally:
        server.kill()
        server.wait(10)


@contextmanager
def moto() -> Iterator[S3Server]:
    """A server that knows conditional writes and checks no signatures."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(endpoint=f"http://{host}:{port}")
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert server.poll() is None, "rclone ended by itself"
            assert time.monotonic() < deadline, "rclone does not listen"
            time.sleep(0.01)
