"""
What the doctor finds, with real pools, stores and servers.
"""

from __future__ import annotations

import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from pytest_supercheck import __version__, doctor
from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.operators import StoreSettings
from tests.conftest import Valkey

NOWHERE = StoreSettings(url=None, s3_endpoint=None)


def found(
    url: str | None, *, labels: Sequence[str] = (), stores: StoreSettings = NOWHERE
) -> dict[str, tuple[bool, str]]:
    """What was found, by subject."""
    return {one.subject: (one.good, one.words) for one in doctor.examine(url, None, labels, stores)}


def test_nothing_is_wrong(valkey: redis.Redis, valkey_server: Valkey, tmp_path: Path) -> None:
    """The pool, its workers, clocks, versions and the store; nothing stays in it."""
    dispatcher = Dispatcher(valkey)
    for number in range(2):
        dispatcher.join(f"w-{number}", host="h", pid=number, labels=("gpu",) * number)
    looked_at = found(valkey_server.url, labels=["gpu"], stores=StoreSettings(url=str(tmp_path), s3_endpoint=None))
    assert list(looked_at) == ["pool", "clock", "workers", "release", "store"]
    assert all(good for good, _ in looked_at.values())
    assert looked_at["workers"][1] == "1 on 1 host, 1 idle"
    assert looked_at["release"][1] == f"the workers' is {__version__}, as here"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_pool_answers(tmp_path: Path) -> None:
    """With the address, and without what would follow."""
    assert list(found(f"unix://{tmp_path}/nowhere")) == ["pool"]
    good, words = found(f"unix://{tmp_path}/nowhere")["pool"]
    assert not good
    assert str(tmp_path) in words


def test_workers_that_are_not_there_or_lack_labels(valkey: redis.Redis, valkey_server: Valkey) -> None:
    """And which labels there are."""
    good, words = found(valkey_server.url)["workers"]
    assert (good, "supercheck worker" in words) == (False, True)
    Dispatcher(valkey).join("w", host="h", pid=1, labels=("linux",))
    assert found(valkey_server.url, labels=["gpu"])["workers"] == (
        False,
        "none of 1 has the labels gpu; there are: linux.",
    )


def test_workers_of_another_release(valkey: redis.Redis, valkey_server: Valkey) -> None:
    """Which, and which is here."""
    Dispatcher(valkey).join("w", host="h", pid=1)
    valkey.hset("sc:worker:w", "version", "9.9.9")
    good, words = found(valkey_server.url)["release"]
    assert not good
    assert words == f"the workers' is 9.9.9, and {__version__} here: install the same everywhere."


@pytest.mark.parametrize(("version", "which"), [("6.0.16", "6.0.16"), ("5.0.7", "that does not know HELLO")])
def test_a_redis_that_is_too_old(version: str, which: str) -> None:
    """Which it is, and what to use."""
    with old_redis(version) as port:
        good, words = found(f"redis://127.0.0.1:{port}")["pool"]
    assert not good
    assert words.endswith(f"Redis {which} is too old. Use Redis 6.2 or later, or any Valkey.")


@contextmanager
def old_redis(version: str) -> Iterator[int]:
    """What speaks as much of Redis' protocol as tells its version; its port."""
    facts = f"redis_version:{version}\r\nrole:master\r\nloading:0\r\n".encode()

    class Answers(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while head := self.rfile.readline():
                words = [self.rfile.read(int(self.rfile.readline()[1:]) + 2)[:-2].upper() for _ in range(int(head[1:]))]
                told = {b"INFO": b"$%d\r\n%s\r\n" % (len(facts), facts)}
                if version > "6":
                    told[b"HELLO"] = b"%1\r\n$5\r\nproto\r\n:3\r\n"
                self.wfile.write(told.get(words[0], b"-ERR unknown command `%s`\r\n" % words[0]))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("shift_s", "way"), [(3600, "ahead of"), (-60, "behind")])
def test_a_workers_clock_that_differs(valkey: redis.Redis, valkey_server: Valkey, shift_s: int, way: str) -> None:
    """Which host's: told by a real worker, in a process whose clock is wrong."""
    code = (
        "import sys, time; real = time.time; time.time = lambda: real() + float(sys.argv[2])\n"
        "from pytest_supercheck.redis_gateway import RedisGateway\n"
        "RedisGateway.connect(sys.argv[1]).dispatcher.join('w', host='mars', pid=1)"
    )
    subprocess.run([sys.executable, "-c", code, valkey_server.url, str(shift_s)], check=True)
    good, words = found(valkey_server.url)["clock"]
    assert not good
    assert words.startswith(f"that of the workers' host mars is {abs(shift_s)} s {way} the pool's: times in reports")


@pytest.mark.parametrize(("shift_s", "way"), [(3600, "ahead of"), (-60, "behind")])
def test_clocks_that_differ(
    valkey: redis.Redis, valkey_server: Valkey, monkeypatch: pytest.MonkeyPatch, shift_s: int, way: str
) -> None:
    """By how much, and which way."""
    now = time.time
    monkeypatch.setattr("pytest_supercheck.doctor.time.time", lambda: now() + shift_s)
    good, words = found(valkey_server.url)["clock"]
    assert not good
    assert f"{abs(shift_s)} s {way} the pool's" in words


def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    """Where a file is in the way of its directory."""
    (tmp_path / "store").write_text("")
    good, words = found(None, stores=StoreSettings(url=str(tmp_path / "store"), s3_endpoint=None))["store"]
    assert not good
    assert str(tmp_path / "store") in words


def test_embedded_runs(monkeypatch: pytest.MonkeyPatch, valkey_server: Valkey) -> None:
    """Which server they start; or that there is none, and what to do."""
    monkeypatch.setenv("SUPERCHECK_VALKEY", str(valkey_server.program))
    assert found(None) == {"embedded": (True, f"sessions start {valkey_server.program}")}
    monkeypatch.setenv("SUPERCHECK_VALKEY", "/nowhere/valkey-server")
    good, words = found(None)["embedded"]
    assert (good, "/nowhere/valkey-server" in words) == (False, True)


def test_command(valkey: redis.Redis, valkey_server: Valkey) -> None:
    """A line for each, and 69 when something is wrong."""
    command = [sys.executable, "-m", "pytest_supercheck.cli", "doctor", "--url", valkey_server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 69
    assert "ok     pool" in done.stdout
    assert "WRONG  workers   none is alive" in done.stdout
