"""
Finished runs become records, files and rows: once, whatever dies on the way.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from pytest_supercheck.archive import Archive
from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.errors import StoreTrouble, SupercheckError, Unreachable
from pytest_supercheck.model import Offer, RunId
from pytest_supercheck.stores import open_store
from pytest_supercheck.transcript import Recorded
from supercheck_server.app import Parts
from supercheck_server.history import RunFilter
from supercheck_server.rebuild import Rebuilt, rebuild
from supercheck_server.recorder import Keeper
from supercheck_server.settings import Settings
from tests.conftest import Valkey
from tests.s3 import BUCKET, KEY, SECRET, rclone
from tests.server.conftest import Pool, make_record, wait_for

#: Runs the recorder in a process of its own and stops it dead at the Nth call of a part.
CRASHING = """
import os, signal, sys
from pathlib import Path
from supercheck_server.app import Parts
from supercheck_server.settings import Settings
from pytest_supercheck.directory_store import DirectoryStore
from supercheck_server.ledger import Ledger
from pytest_supercheck.dispatch import Dispatcher

left = int(sys.argv[1])
def dying(original):
    def method(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return method

parts_of_it = {DirectoryStore: ["put"], Dispatcher: ["events", "recorded"], Ledger: ["write", "_write_items"]}
for kind, names in parts_of_it.items():
    for name in names:
        setattr(kind, name, dying(getattr(kind, name)))
parts = Parts(Settings.from_env(data=Path(sys.argv[2])))
assert parts.recorder.record_next()
print(left)
"""


@pytest.fixture
def parts(settings: Settings) -> Iterator[Parts]:
    """All of a server but HTTP."""
    made = Parts(settings)
    yield made
    made.close()


def all_runs(parts: Parts) -> list[tuple[str, str, int]]:
    """What the history says, in brief."""
    return [(row.id, row.verdict, row.done) for row in parts.history.runs(RunFilter())]


def files(folder: Path) -> set[str]:
    """The names of files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_finished_run_is_recorded(parts: Parts, pool: Pool, settings: Settings) -> None:
    """In the store, readable without a server, and in the history."""
    pool.finish("r1", 3, missing=[1])
    assert parts.recorder.record_next()
    assert not parts.recorder.record_next()
    row = parts.history.run("r1")
    assert row is not None
    assert (row.project, row.verdict, row.total, row.passed, row.errors + row.failed) == ("shop", "failed", 3, 2, 1)
    archive = Archive(open_store(settings.store))
    record = archive.load(row.folder)
    assert [item.nodeid for item in record.items] == [f"test_a.py::test_{index}" for index in range(3)]
    assert {"run.json", "summary.json", "events.ndjson.gz", "index.html"} <= files(Path(settings.store, row.folder))
    assert Path(settings.store, "projects/shop/index.html").is_file()


@pytest.mark.slow
def test_recorder_killed_at_any_point_loses_and_doubles_nothing(
    pool: Pool, settings: Settings, valkey_server: Valkey, tmp_path: Path
) -> None:
    """Killed at the first write, the second, ... until it comes through; each time the next one ends the same."""
    environ = {**os.environ, "SUPERCHECK_REDIS_URL": valkey_server.url}
    for stage in itertools.count(1):
        run = pool.finish(f"r{stage}", 3, missing=[1])
        data = tmp_path / f"data{stage}"
        command = [sys.executable, "-c", CRASHING, str(stage), str(data)]
        died = subprocess.run(command, env=environ, timeout=60, capture_output=True, text=True)
        assert died.returncode in (0, -signal.SIGKILL), died.stderr
        pool.client.zadd("sc:ended", {run: 0}, xx=True)  # its claim has lapsed
        parts = Parts(Settings.from_env(environ, data=data))
        parts.recorder.record_next()
        assert all_runs(parts) == [(run, "failed", 3)], stage
        row = parts.history.run(run)
        assert row is not None
        assert len(parts.history.results(row.no)) == 3
        assert all(test.recent in ("P", "E", "F") for test in parts.history.slow())
        assert len(Archive(DirectoryStore(data / "store")).load(row.folder).items) == 3
        assert not parts.recorder.record_next()
        parts.close()
        if died.returncode == 0:
            break
    assert stage > 6, "every part was killed"


def test_two_servers_share_the_work(parts: Parts, pool: Pool, settings: Settings) -> None:
    """Every run is recorded once, by one of them."""
    for number in range(12):
        pool.finish(f"r{number}")
    other = Parts(settings)
    keepers = [Keeper(one.recorder, one.retention, one.mirror, one.bundles) for one in (parts, other)]
    for keeper in keepers:
        keeper.start()
    wait_for(lambda: len([1 for row in parts.history.runs(RunFilter()) if row.folder]) == 12, "all runs are recorded")
    for keeper in keepers:
        keeper.stop()
    assert sorted(all_runs(parts)) == sorted((f"r{number}", "passed", 2) for number in range(12))
    assert all(len(test.recent) == 12 for test in parts.history.slow())
    assert pool.client.exists("sc:ended") == 0
    other.close()


def test_garbage_in_the_stream_is_no_obstacle(parts: Parts, pool: Pool) -> None:
    """Unknown versions and kinds, and what is no JSON."""
    garbage = [b"\xff\x00", b"{}", b'{"t":"begin","v":99}', b"[" * 5000, b'{"t":"result","i":"x"}', b"[1e999,1]"]
    pool.finish("r1", events=garbage)
    assert parts.recorder.record_next()
    assert all_runs(parts) == [("r1", "passed", 2)]


def test_names_that_are_no_json_are_names(parts: Parts, pool: Pool) -> None:
    """A client may send anything in the place of a test's id."""
    run = pool.submit("r1", project="shop")
    pool.dispatcher.offer(run, Offer(names=["plain", '["listed", 2]', "17", "[" * 5000]))
    pool.dispatcher.cancel(run, outcome="cancelled", how="kill")
    assert parts.recorder.record_next()
    assert all_runs(parts) == [("r1", "cancelled", 0)]


def test_cancelled_and_abandoned_runs_keep_what_was_reported(parts: Parts, pool: Pool) -> None:
    """A partial report each."""
    pool.submit("r1", nodeids=["a", "b"], project="shop")
    job = pool.job("r1")
    pool.dispatcher.next(job, fresh=True)
    pool.dispatcher.append(job, b"[0,1,1772366400000000,1,2,3,4,5,1,2,1]\n", seq=1, done=[0])
    pool.dispatcher.cancel(pool.submit("r1"), outcome="cancelled", how="kill")
    pool.dispatcher.leave(job)
    pool.submit("r2", project="shop")
    pool.client.zadd("sc:leases", {"c:r2": 1})  # its session has gone
    pool.dispatcher.tick()
    for one in pool.dispatcher.pool().executions:
        pool.dispatcher.leave(one.job)
    while parts.recorder.record_next():
        pass
    assert sorted(all_runs(parts)) == [("r1", "cancelled", 1), ("r2", "abandoned", 0)]


def test_run_of_a_pool_that_lost_its_data_is_closed_as_lost(parts: Parts, pool: Pool, monkeypatch: Any) -> None:
    """It was seen alive; then Redis began anew without it."""
    monkeypatch.setattr("supercheck_server.recorder.LOST_S", 0)
    pool.submit("r1", nodeids=["a"], project="shop")
    parts.recorder.note_live()
    assert all_runs(parts) == [("r1", "live", 0)]
    assert parts.recorder.close_lost() == 0
    pool.client.flushall()
    assert parts.recorder.close_lost() == 1
    assert all_runs(parts) == [("r1", "lost", 0)]
    row = parts.history.run("r1")
    assert row is not None
    assert "lost the run's data" in row.message
    assert parts.recorder.close_lost() == 0


@pytest.mark.parametrize("look", ["note_live", "close_lost"])
@pytest.mark.parametrize("outcome", ["withdrawn", "cancelled"])
def test_run_that_was_withdrawn_is_not_lost(
    parts: Parts, pool: Pool, monkeypatch: Any, outcome: str, look: str
) -> None:
    """Its session has ended before anything was reported, or somebody has cleared it: nothing is kept here, either."""
    monkeypatch.setattr("supercheck_server.recorder.LOST_S", 0)
    pool.submit("r1", nodeids=["a"], project="shop")
    job = pool.job("r1")
    parts.recorder.note_live()
    pool.dispatcher.cancel(RunId("r1"), outcome=outcome, how="kill")
    pool.dispatcher.leave(job)
    if outcome == "cancelled":
        pool.client.zadd("sc:ended", {"r1": 1})  # it was long ago
        assert pool.dispatcher.clear(unrecorded=True) == 1
    assert not getattr(parts.recorder, look)()
    assert all_runs(parts) == []


def test_record_waits_while_the_store_is_away(pool: Pool, settings: Settings, tmp_path: Path, monkeypatch: Any) -> None:
    """On the server's own disk; it is shown as waiting, and delivered when S3 is there again."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    away = replace(settings, store=f"s3://{BUCKET}/x?addressing=path", s3_endpoint="http://127.0.0.1:1")
    parts = Parts(away)
    pool.finish("r1", 3, missing=[1])
    assert parts.recorder.record_next()
    row = parts.history.run("r1")
    assert row is not None
    assert not row.delivered
    assert parts.history.undelivered() == 1
    assert len(parts.shelf.load(row.folder).items) == 3
    with pytest.raises(StoreTrouble):
        parts.recorder.deliver()
    parts.close()
    with rclone(tmp_path / "s3") as s3:
        parts = Parts(replace(away, s3_endpoint=s3.endpoint))
        assert parts.recorder.deliver() == 1
        assert parts.recorder.deliver() == 0
        row = parts.history.run("r1")
        assert row is not None
        assert row.delivered
        assert len(parts.shelf.archive.load(row.folder).items) == 3
        assert files(settings.data / "waiting" / "projects") == set()
        parts.close()


def test_history_is_rebuilt_from_the_store(parts: Parts, pool: Pool, settings: Settings, tmp_path: Path) -> None:
    """The same rows in a new database; a record that cannot be read is counted and left out."""
    for number in range(3):
        pool.finish(f"r{number}", missing=[number % 2])
        parts.recorder.record_next()
    anew = replace(settings, database_url=f"sqlite:///{tmp_path}/anew.sqlite")
    assert rebuild(anew) == Rebuilt(known=0, written=3, unreadable=0, tokens=0, bundles=0)
    assert rebuild(anew) == Rebuilt(known=3, written=0, unreadable=0, tokens=0, bundles=0)
    other = Parts(anew)
    assert all_runs(other) == all_runs(parts)
    assert [(row.nodeid, row.recent) for row in other.history.slow()] == [
        (row.nodeid, row.recent) for row in parts.history.slow()
    ]
    other.close()
    row = parts.history.run("r1")
    assert row is not None
    Path(settings.store, row.folder, "run.json").write_text("{")
    third = rebuild(replace(settings, database_url=f"sqlite:///{tmp_path}/third.sqlite"))
    assert (third.written, third.unreadable) == (2, 1)


def test_tokens_outlive_the_database(parts: Parts, settings: Settings, tmp_path: Path) -> None:
    """Whatever a new one makes meanwhile; what cannot be read is left out, and what it knows stays as it is there."""
    assert not parts.mirror.write(), "an empty list would take everybody's away"
    _, secret = parts.access.create("ada")
    revoked, lost = parts.access.create("ci", project="shop", days=3)
    assert parts.mirror.write()
    assert not parts.mirror.write()
    parts.access.revoke(revoked.id)
    assert parts.mirror.write()
    anew = replace(settings, database_url=f"sqlite:///{tmp_path}/anew.sqlite")
    other = Parts(anew)
    _, newer = other.access.create("eve")
    assert other.mirror.write(), "its own is added"
    path = Path(settings.store, "state/tokens.json")
    content = json.loads(path.read_text())
    content["tokens"] += [{"id": "x"}, {**content["tokens"][0], "id": "y", "hash": "z", "scope": "root"}, 7]
    path.write_text(json.dumps(content))
    assert rebuild(anew).tokens == 2
    assert rebuild(anew).tokens == 0
    assert other.access.by_secret(lost) is None
    assert [one.name for one in map(other.access.by_secret, (secret, newer)) if one] == ["ada", "eve"]
    assert sorted(one.name for one in other.access.list()) == ["ada", "ci", "eve"]
    other.close()


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 1}', '{"version": 1, "tokens": {}}'])
def test_damaged_mirror_is_written_anew(parts: Parts, settings: Settings, content: str) -> None:
    """One of another release is not damaged."""
    path = Path(settings.store, "state/tokens.json")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    parts.access.create("ada")
    assert parts.mirror.restore() == 0
    assert parts.mirror.write()
    assert [row["name"] for row in json.loads(path.read_text())["tokens"]] == ["ada"]
    path.write_text('{"version": 2}')
    parts.access.create("eve")
    with pytest.raises(SupercheckError, match="another release"):
        parts.mirror.write()
    assert path.read_text() == '{"version": 2}'


def test_runs_that_sessions_have_recorded_are_adopted(parts: Parts, settings: Settings) -> None:
    """Embedded runs are in the same directory; what is half-written or damaged is no obstacle."""
    folders = []
    for number in (1, 2, 3):
        record = make_record(number)
        folders.append(
            Archive(DirectoryStore(Path(settings.store))).save(Recorded(record=record, events=b"", texts={}))
        )
    Path(settings.store, folders[1], "run.json").write_text("{")
    half = Path(settings.store, folders[0]).with_name("half")
    half.mkdir()
    assert parts.recorder.adopt() == 2
    assert parts.recorder.adopt() == 0
    assert [row[0] for row in all_runs(parts)] == ["0190-000003", "0190-000001"]


def test_retention_removes_from_store_and_history_together(pool: Pool, settings: Settings) -> None:
    """By age, by number of runs of a project, and nothing else."""
    parts = Parts(replace(settings, retention_runs=2))
    for number in range(4):
        pool.finish(f"r{number}")
        parts.recorder.record_next()
    assert parts.retention.sweep(time.time() * 1000) == 2
    assert parts.retention.sweep(time.time() * 1000) == 0
    assert [row[0] for row in all_runs(parts)] == ["r3", "r2"]
    assert {folder.name for folder in Path(settings.store, "projects/shop/runs").iterdir()} == {"r2", "r3"}
    parts.close()
    parts = Parts(replace(settings, retention_days=1))
    assert parts.retention.sweep(time.time() * 1000) == 0
    assert parts.history.slow()
    assert parts.retention.sweep((time.time() + 2 * 86400) * 1000) == 2
    assert all_runs(parts) == []
    assert parts.history.slow() == []  # tests that nobody runs any more
    parts.close()


def test_keeper_outlives_what_it_needs(parts: Parts, pool: Pool, valkey: redis.Redis, monkeypatch: Any) -> None:
    """Trouble of a moment, and even a fault of its own, and goes on afterwards."""
    recorder = parts.recorder
    faults: list[BaseException] = [StoreTrouble("the disk is full"), ZeroDivisionError("a fault")]
    original = recorder.record_next

    def troubled() -> bool:
        if faults:
            raise faults.pop()
        return original()

    monkeypatch.setattr(recorder, "record_next", troubled)
    monkeypatch.setattr("supercheck_server.recorder.EVERY_S", 0.01)
    pool.finish("r1")
    keeper = Keeper(recorder, parts.retention, parts.mirror, parts.bundles)
    keeper.start()
    wait_for(lambda: ("r1", "passed", 2) in all_runs(parts), "the run is recorded")
    keeper.stop()
    assert not keeper.is_alive()
    assert not faults


def test_trouble_with_one_duty_keeps_nothing_else_from_being_done(
    parts: Parts, valkey: redis.Redis, monkeypatch: Any
) -> None:
    """Redis is away: what waits is delivered nevertheless, what is old removed."""
    done: list[str] = []

    def away() -> bool:
        done.append("record")
        raise Unreachable

    monkeypatch.setattr(parts.recorder, "note_live", away)
    monkeypatch.setattr(parts.recorder, "record_next", away)
    monkeypatch.setattr(parts.recorder, "deliver", lambda: done.append("deliver"))
    monkeypatch.setattr(parts.retention, "sweep", lambda now_ms: done.append("sweep"))
    monkeypatch.setattr("supercheck_server.recorder.EVERY_S", 0.01)
    keeper = Keeper(parts.recorder, parts.retention, parts.mirror, parts.bundles)
    keeper.start()
    wait_for(lambda: {"deliver", "sweep"} <= set(done) and done.count("record") > 4, "all duties are tried")
    keeper.stop()
