"""
A server for measurements: ``supercheck server`` as a process of its own, and one who asks it.

Knows how the server is started and what the system tells of its process; not what is measured.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from benchmarks import pool
from benchmarks.bench import Bench, BenchError

_SERVER: Final = "from pytest_supercheck.cli import main; main()"
_READY: Final = "; Ctrl-C stops"


class Client:
    """A browser that keeps its connection, and takes pages as browsers do: compressed."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)

    def get(self, path: str) -> bytes:
        """
        Fetch a page, all of it.

        Returns:
            What it says, unpacked.

        Raises:
            BenchError: It is not to be had.
        """
        self._connection.request("GET", path, headers={"Accept": "text/html,*/*", "Accept-Encoding": "gzip"})
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != http.client.OK:
            raise BenchError(f"{path}: {answer.status}")
        return gzip.decompress(body) if answer.headers["Content-Encoding"] == "gzip" else body

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server that runs."""

    #: Where, without a slash at the end.
    address: str
    #: Its process.
    pid: int

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that it has used, where the system tells."""
        return pool.cpu_s(self.pid)

    @property
    def peak_mb(self) -> float:
        """
        The most memory that it has had.

        Raises:
            BenchError: The system does not tell.
        """
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text("ascii").splitlines()
        except OSError as exc:
            raise BenchError("the system does not tell how much memory a process has") from exc
        [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        return int(peak) / 1024


@contextlib.contextmanager
def served(bench: Bench, redis_url: str, *, data: Path, database_url: str = "") -> Iterator[Served]:
    """
    A server on a pool, with everything else in a directory.

    Args:
        database_url: SQLAlchemy's; empty for SQLite in the directory.
    """
    bench.environ |= {
        "SUPERCHECK_REDIS_URL": redis_url,
        "SUPERCHECK_DATA": str(data),
        "SUPERCHECK_DATABASE_URL": database_url,
    }
    running = bench.start([sys.executable, "-c", _SERVER, "server", "--port", "0"], bench.directory)
    try:
        running.wait_for(_READY)
        [pid] = running.processes()
        yield Served(address=running.output.partition(_READY)[0].rpartition(" ")[2], pid=pid)
    finally:
        running.close()


@contextlib.contextmanager
def asking(server: Served) -> Iterator[Client]:
    """Somebody who asks a server."""
    client = Client(server.address)
    try:
        yield client
    finally:
        client.close()


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
    """
    Wait until something holds; the looks are few, because the server has to answer them.

    Raises:
        BenchError: It never does.
    """
    give_up_at = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > give_up_at:
            raise BenchError(f"never happened: {what}")
        time.sleep(0.1)
