"""
The Redis gateway: what it says of servers that it cannot work with, and the port's verbs over a real one.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pytest_supercheck.errors import QueueFull, Unreachable
from pytest_supercheck.gateway import Gateway
from pytest_supercheck.masking import masked
from pytest_supercheck.model import Offer, RunId, RunRequest
from pytest_supercheck.redis_gateway import (
    CONNECT_TIMEOUT_S,
    RedisGateway,
    check_server,
    connect_redis,
    is_new_enough,
)
from tests.conftest import Valkey, start_valkey, stop_valkey

Start = Callable[..., str]


@pytest.fixture
def start(valkey_server: Valkey) -> Iterator[Start]:
    """Start further servers, with options; each one's URL."""
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="scv") as directory:

        def start_one(*options: str) -> str:
            path = Path(directory, str(len(running)))
            running.append(start_valkey(valkey_server.program, path, *options))
            return f"unix://{path}"

        yield start_one
        for server in running:
            stop_valkey(server)


@pytest.fixture
def gateway(valkey: redis.Redis, valkey_server: Valkey) -> Iterator[RedisGateway]:
    """A gateway to an empty server."""
    with RedisGateway.connect(valkey_server.url) as made:
        yield made


def refusal(url: str, *, password: str | None = None) -> str:
    """What is said of a server that cannot be used; known within the time allowed."""
    started_s = time.monotonic()
    with pytest.raises(Unreachable) as caught:
        connect_redis(url, password=password)
    assert time.monotonic() - started_s < CONNECT_TIMEOUT_S
    assert caught.value.exit_code == 69
    return str(caught.value)


@pytest.mark.parametrize("password", [None, "guess"])
def test_wrong_password_says_so(start: Start, password: str | None) -> None:
    """With none or a wrong one; a right one, in the URL or beside it, is let in."""
    url = start("--requirepass", "open sesame")
    assert "refuses the credentials" in refusal(url, password=password)
    connect_redis(url, password="open sesame").close()
    connect_redis(f"{url}?password=open%20sesame").close()


def test_message_holds_no_password(start: Start) -> None:
    """Messages end up in logs of builds."""
    url = start("--requirepass", "right")
    message = refusal(f"{url}?password=s3cret", password="s3cret")
    assert url in message
    assert "s3cret" not in message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:pass@host:6379/1", "redis://host:6379/1"),
        ("rediss://:p@ss@host/0?ssl_ca_certs=x", "rediss://host/0"),
        ("unix:///tmp/a.sock?password=x", "unix:///tmp/a.sock"),
        ("redis://:sla/sh@host", "redis://host"),
        ("redis://host", "redis://host"),
    ],
)
def test_masked_url_names_the_server_only(url: str, shown: str) -> None:
    """No user, no password, no query, whatever is in them."""
    assert masked(url) == shown


def test_nobody_there(tmp_path: Path) -> None:
    """A socket that is missing, a port that is closed, a host without an address."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    for url in (f"unix://{tmp_path}/none", f"redis://127.0.0.1:{port}", "redis://host.invalid"):
        message = refusal(url)
        assert f"Cannot use {url}." in message
        assert "Check the URL" in message


def test_server_that_never_answers() -> None:
    """A port that takes connections and says nothing is given up in time."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        started_s = time.monotonic()
        with pytest.raises(Unreachable, match="answer"):
            connect_redis(url, timeout_s=0.3)
        assert time.monotonic() - started_s < 2


def test_replica_is_refused(start: Start) -> None:
    """It takes no writes; the message names the primary."""
    message = refusal(start("--replicaof", "203.0.113.1", "6379"))
    assert "replica of 203.0.113.1" in message
    assert "primary" in message


@pytest.mark.parametrize(
    ("version", "enough"),
    [
        ("6.2.0", True),
        ("6.2", True),
        ("7.0.15", True),
        ("10.1.0", True),
        ("6.0.20", False),
        ("5.0", False),
        ("", False),
    ],
)
def test_version_is_compared_by_numbers(version: str, enough: bool) -> None:
    """6.2 is the oldest; 10 is newer than 6."""
    assert is_new_enough(version) is enough


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"role": "master", "redis_version": "6.0.20"}, r"6\.0\.20 is too old"),
        ({"role": "master", "redis_version": "7.2.4", "loading": 1}, "still loading"),
        ({"role": "slave", "redis_version": "7.2.4"}, "replica"),
    ],
)
def test_unfit_server_is_refused(facts: dict[str, str | int], words: str) -> None:
    """By what it says of itself."""
    with pytest.raises(Unreachable, match=words):
        check_server(facts)
    check_server({"role": "master", "redis_version": "7.2.4", "loading": 0})


@pytest.mark.parametrize("url", ["http://host", "redis", "", "redis://host:port"])
def test_url_of_another_kind_is_refused(url: str) -> None:
    """The message names the kinds that there are."""
    assert "redis://, rediss:// or unix://" in refusal(url)


def test_unknown_option_in_the_url(valkey_server: Valkey) -> None:
    """It is said to be the URL's fault."""
    assert "option that is unknown" in refusal(f"{valkey_server.url}?colour=blue")


def test_user_who_may_not_run_scripts(start: Start) -> None:
    """A user of Redis's own access lists needs scripts: said at the first operation."""
    url = start()
    with redis.Redis.from_url(url) as admin:
        admin.acl_setuser("weak", enabled=True, passwords=["+pw"], commands=["+@all", "-@scripting"], keys=["*"])
    gateway = RedisGateway.connect(url, username="weak", password="pw")
    with gateway, pytest.raises(Unreachable, match=r"credentials.*may run scripts"):
        gateway.queue()


def test_server_that_dies_is_unreachable(start: Start) -> None:
    """After it has been reached, too."""
    client = redis.Redis.from_url(start(), retry=Retry(NoBackoff(), 0))
    gateway = RedisGateway(client)
    gateway.queue()
    client.shutdown(nosave=True)
    with pytest.raises(Unreachable, match="does not answer"):
        gateway.submit(RunRequest(run_id=RunId("a")))
    gateway.close()


def test_port_over_a_real_server(gateway: RedisGateway) -> None:
    """The six verbs, as a session uses them."""
    port: Gateway = gateway
    run = RunId("a")
    assert port.submit(RunRequest(run_id=run)).state == "queued"
    assert port.offer(run, Offer(names=["t.py::x"], single=1))
    status = port.keep(run)
    assert (status.state, status.position, status.total) == ("waiting", 1, 1)
    assert [row.run for row in port.queue().runs] == [run]
    assert port.events(run, after="0", wait_s=0) == ([], "0")
    assert port.cancel(run, outcome="cancelled", how="leave", message="enough").message == "enough"
    entries, last = port.events(run, after="0", wait_s=0)
    assert b'"t":"end"' in entries[-1]
    assert port.events(run, after=last, wait_s=0) == ([], last)
    assert not port.offer(run, Offer(names=["t.py::x"]))


def test_full_queue_reaches_the_client(gateway: RedisGateway) -> None:
    """As an error with its own exit status."""
    gateway.dispatcher.limits(running=0, queued=0)
    with pytest.raises(QueueFull) as caught:
        gateway.submit(RunRequest(run_id=RunId("a")))
    assert caught.value.exit_code == 75
