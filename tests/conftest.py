"""
Fixtures that several test files share: a real Valkey on a socket in a temporary directory, emptied between tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pytest_supercheck.dispatch import Dispatcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Valkey:
    """A server that runs."""

    #: Its `unix://` URL.
    url: str
    #: Its program.
    program: str
    #: Its directory, short enough for socket names.
    directory: Path


def server_program() -> str:
    """Find the server's program, as the embedded stack does."""
    given = os.environ.get("SUPERCHECK_VALKEY")
    if given:
        return given
    from pytest_supercheck.valkey import find_server

    return str(find_server())


def start_valkey(program: str, socket: Path, *options: str) -> subprocess.Popen[bytes]:
    """
    Start a server on a unix socket alone, and wait until it answers.

    Args:
        options: Further options of the server's command line.
    """
    place = ["--unixsocket", str(socket), "--dir", str(socket.parent), "--port", "0"]
    memory_only = ["--save", "", "--appendonly", "no"]
    server = subprocess.Popen([program, *place, *memory_only, *options], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    with redis.Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0)) as client:
        while True:
            try:
                client.ping()
                return server
            except redis.AuthenticationError:
                return server
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    server.kill()
                    raise
                time.sleep(0.005)


def stop_valkey(server: subprocess.Popen[bytes]) -> None:
    """Stop a server and wait for its end."""
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Sessions that tests start can be interrupted, also where a shell started this one with `&`, deaf to SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Valkey]:
    """One server for the session."""
    with tempfile.TemporaryDirectory(prefix="scv") as directory:
        socket = Path(directory, "s")
        program = server_program()
        server = start_valkey(program, socket)
        try:
            yield Valkey(url=f"unix://{socket}", program=program, directory=Path(directory))
        finally:
            stop_valkey(server)


@pytest.fixture
def valkey(valkey_server: Valkey) -> Iterator[redis.Redis]:
    """A client of the session's server, which is empty."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def dispatcher(valkey: redis.Redis) -> Iterator[Dispatcher]:
    """A dispatcher on an empty server, by the server's clock."""
    made = Dispatcher(valkey)
    yield made
    made.close()


@pytest.fixture
def few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Sessions that a test starts, and their runners, load the plugins that they name and no others.

    Those of the development environment take seconds to import.
    """
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[Path]:
    """A file system with little room; the test is skipped where none may be mounted."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, timeout=30).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True, timeout=30)
