"""
What stands between sessions and a server, and what happens on the way: proxies with ideas of their own, certificates,
tokens that are taken away, clocks that are wrong.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme

from pytest_supercheck.http_gateway import HttpGateway
from supercheck_server.history import RunFilter
from tests.server.conftest import GUARD_S, Place, Pool, Served, ended, wait_for
from tests.server.proxies import hold_back, pass_on, proxy


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
    wait_for(served.parts.trends.slow, "the run is recorded")
    [row] = served.parts.history.runs(RunFilter())
    assert abs(row.submitted_ms / 1000 - time.time()) < GUARD_S * 2
