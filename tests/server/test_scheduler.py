"""
Jobs start when they are due, once, however many servers there are and whenever one dies.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis
from sqlalchemy import insert

from pytest_supercheck.directory_store import DirectoryStore
from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import Unreachable
from pytest_supercheck.jobs import decode_job
from pytest_supercheck.model import RunId, RunRequest
from supercheck_server.bundles import Bundles
from supercheck_server.database import Database
from supercheck_server.github import GitHub, GithubSection, Workflows
from supercheck_server.jobs import JobRow, Jobs
from supercheck_server.repositories import JobsSection, Repositories
from supercheck_server.scheduler import HANDS, NOTED, Scheduler
from supercheck_server.starter import Starter
from supercheck_server.starts import AGAIN, MISSED, SHOWN, UNTRIED, Occasion, StartRow, Starts
from supercheck_server.tables import runs
from tests.conftest import Valkey
from tests.server.conftest import GUARD_S, wait_for

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def ms(text: str) -> int:
    """A moment, as ms since 1970."""
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)


NOON_MS = ms("2026-03-01T12:00Z")
NO_STORE = DirectoryStore(Path("/nowhere"))
#: A pool that is away.
NOWHERE = Dispatcher(redis.Redis.from_url("redis://127.0.0.1:1/0"))


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.ms = NOON_MS

    def __call__(self) -> int:
        """Now."""
        return self.ms


class Submitter(Starter):
    """Makes runs with nothing in them."""

    def use(self, dispatcher: Dispatcher) -> None:
        """Make them of another pool from now on."""
        self._dispatcher = dispatcher

    def _spec(self, row: JobRow, hold: object) -> dict[str, Any]:
        return {"argv": [], "origin": {}}


class Servers:
    """What several servers share, and how they look at it."""

    def __init__(self, database: Database, dispatcher: Dispatcher) -> None:
        self.clock = Clock()
        self.jobs = Jobs(database, now_ms=self.clock)
        self.missed: list[tuple[str, int, str]] = []
        self.told_of: list[str] = []
        self.starts = Starts(
            database,
            now_ms=self.clock,
            tell=lambda _, *missed: self.missed.append(missed),
            note=lambda _, run: self.told_of.append(run),
        )
        self.database = database
        self.dispatcher = dispatcher
        self.schedulers: list[Scheduler] = []
        self.submitters: list[Submitter] = []

    def use(self, dispatcher: Dispatcher) -> None:
        """All servers have another pool."""
        for one in self.submitters:
            one.use(dispatcher)

    def start(self, kind: type[Submitter] = Submitter) -> Scheduler:
        """One more server."""
        starter = kind(
            jobs=self.jobs,
            starts=self.starts,
            dispatcher=self.dispatcher,
            bundles=Bundles(self.database, NO_STORE, days=1, needed=set),
            repositories=Repositories(JobsSection(), Path("/nowhere")),
            workflows=Workflows(GitHub(GithubSection()), self.starts, now_ms=self.clock),
            now_ms=self.clock,
        )
        made = Scheduler(self.jobs, self.starts, starter, now_ms=self.clock)
        self.schedulers.append(made)
        self.submitters.append(starter)
        return made

    def job(self, schedule: object, name: str = "nightly", **more: Any) -> JobRow:
        """A job that has been synced."""
        definition = {"schedule": schedule, **more} if schedule else more
        self.jobs.sync("shop", [(decode_job(name, definition), None)])
        [row] = self.jobs.find(name, "shop")
        return row

    def look(self, at: str | int | None = None) -> None:
        """All servers look at the same time, and do what they find."""
        if at is not None:
            self.clock.ms = ms(at) if isinstance(at, str) else at
        with ThreadPoolExecutor(len(self.schedulers)) as threads:
            for begun in list(threads.map(Scheduler.tick, self.schedulers)):
                wait(begun, GUARD_S)

    def told(self, job: JobRow) -> list[tuple[str, str]]:
        """What became of the job's starts, the oldest first: when they were due, and how they are."""
        found = reversed(self.starts.of(job.no))
        return [(f"{datetime.fromtimestamp(one.due_ms / 1000, ZoneInfo('UTC')):%d %H:%M}", one.state) for one in found]

    def live(self) -> list[str]:
        """The runs that the pool has."""
        return [run.run for run in self.dispatcher.queue().runs]

    def end_runs(self) -> None:
        """All runs end."""
        for run in self.dispatcher.queue().runs:
            self.dispatcher.cancel(run.run, outcome="cancelled", how="kill")


@pytest.fixture
def servers(database: Database, dispatcher: Dispatcher) -> Iterator[Servers]:
    """Two servers on one database and one pool."""
    made = Servers(database, dispatcher)
    made.start()
    made.start()
    yield made
    for one in made.schedulers:
        one.close()


def test_job_starts_once_when_it_is_due(servers: Servers) -> None:
    """However many servers look, and however often."""
    job = servers.job("0 2 * * *")
    servers.look()
    assert not servers.live()
    servers.look("2026-03-02T02:00:01Z")
    servers.look("2026-03-02T02:00:02Z")
    assert servers.told(job) == [("02 02:00", "started")]
    [start] = servers.starts.of(job.no)
    assert servers.live() == [start.run]
    [row] = servers.jobs.known()
    assert row.next_ms == ms("2026-03-03T02:00Z")


@pytest.mark.parametrize(
    ("zone", "line", "begin", "days"),
    [
        ("Europe/Berlin", "30 2 * * *", "2026-03-27T12:00Z", ["28 01:30", "29 01:00", "30 00:30"]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-23T12:00Z", ["24 00:30", "25 00:30", "26 01:30"]),
        ("America/New_York", "30 1 * * *", "2026-10-30T12:00Z", ["31 05:30", "01 05:30", "02 06:30"]),
        ("Australia/Sydney", "20 2 * * *", "2026-10-02T00:00Z", ["02 16:20", "03 16:00", "04 15:20"]),
    ],
)
def test_schedule_in_another_zone_over_changes_of_its_clocks(
    servers: Servers, zone: str, line: str, begin: str, days: list[str]
) -> None:
    """One start a day, with two servers that look every ten minutes."""
    servers.clock.ms = ms(begin)
    job = servers.job({"cron": line, "timezone": zone})
    for step in range(3 * 24 * 6):
        servers.clock.ms = ms(begin) + step * 600_000
        # Looking costs more than knowing that nobody would find anything.
        if step == 0 or servers.jobs.due(servers.clock.ms):
            servers.look()
            servers.end_runs()
    assert servers.told(job) == [(day, "started") for day in days]


def test_disabled_job_starts_nothing(servers: Servers) -> None:
    """And what was due meanwhile is neither made up for nor missed."""
    job = servers.job({"every": "1 h", "catch-up": "1 d"})
    servers.jobs.enable(job.no, on=False)
    servers.look(NOON_MS + 3 * HOUR_MS + 1)
    servers.jobs.enable(job.no, on=True)
    servers.look(NOON_MS + 3 * HOUR_MS + 2)
    assert servers.told(job) == []
    assert not servers.missed


def test_new_schedule_counts_from_its_change(servers: Servers) -> None:
    """What the old one had planned does not happen."""
    job = servers.job("0 13 * * *")
    servers.look()
    servers.jobs.override(job.no, {"schedule": {"every": "2 h"}})
    servers.look("2026-03-01T13:00:01Z")
    servers.look("2026-03-01T14:00:01Z")
    assert servers.told(job) == [("01 14:00", "started")]


def test_job_without_schedule_is_looked_at_once(servers: Servers) -> None:
    """It is due never again until somebody gives it one."""
    servers.jobs.sync("shop", [(decode_job("manual", {}), None)])
    assert servers.jobs.due(NOON_MS)
    servers.look()
    assert not servers.jobs.due(NOON_MS + DAY_MS)
    [row] = servers.jobs.known()
    assert row.next_ms is None
    servers.jobs.override(row.no, {"schedule": "0 13 * * *"})
    servers.look("2026-03-01T13:00:01Z")
    assert servers.told(row) == [("01 13:00", "started")]


# -- overlap


def overlapping(servers: Servers, overlap: str, **more: Any) -> JobRow:
    """A job whose run takes longer than an hour, at its second hour."""
    job = servers.job({"every": "1 h", "overlap": overlap}, **more)
    servers.look(NOON_MS + HOUR_MS)
    servers.look(NOON_MS + 2 * HOUR_MS)
    return job


def test_overlap_skip(servers: Servers) -> None:
    """No run beside one that is still going on; the one after its end is made."""
    job = overlapping(servers, "skip")
    assert servers.told(job) == [("01 13:00", "started"), ("01 14:00", "skipped")]
    assert servers.starts.of(job.no)[0].reason == "the one before was still going on"
    servers.end_runs()
    servers.look(NOON_MS + 3 * HOUR_MS)
    assert servers.told(job)[2:] == [("01 15:00", "started")]


def test_overlap_queue(servers: Servers) -> None:
    """One waits for the end of the run before; a second one does not."""
    job = overlapping(servers, "queue")
    servers.look(NOON_MS + 3 * HOUR_MS)
    assert servers.told(job) == [("01 13:00", "started"), ("01 14:00", "queued"), ("01 15:00", "skipped")]
    first = servers.live()
    servers.end_runs()
    servers.look(NOON_MS + 3 * HOUR_MS + 5000)
    assert servers.told(job)[1] == ("01 14:00", "started")
    assert len(servers.live()) == 1
    assert servers.live() != first


@pytest.mark.parametrize("overlap", ["skip", "queue"])
def test_overlap_holds_however_many_starts_come_meanwhile(servers: Servers, overlap: str) -> None:
    """A run that takes long has its start far below what one page shows."""
    job = servers.job({"every": "1 min", "overlap": overlap})
    for minute in range(1, SHOWN + 4):
        servers.look(NOON_MS + minute * 60_000)
    assert {state for _, state in servers.told(job)} == {"skipped"}
    [run] = servers.live()
    servers.end_runs()
    servers.look()
    assert len(servers.live()) == int(overlap == "queue")
    assert run not in servers.live()


def test_start_that_waits_is_not_made_for_a_disabled_job(servers: Servers) -> None:
    """It says why."""
    job = overlapping(servers, "queue")
    servers.jobs.enable(job.no, on=False)
    servers.look()
    assert servers.told(job)[1] == ("01 14:00", "skipped")
    assert servers.starts.of(job.no)[0].reason == "the job was disabled while it waited"


def test_overlap_cancel(servers: Servers) -> None:
    """The new run takes the place of the one before."""
    job = overlapping(servers, "cancel")
    newest, before = servers.starts.of(job.no)
    assert servers.told(job) == [("01 13:00", "started"), ("01 14:00", "started")]
    assert servers.live() == [newest.run]
    assert servers.dispatcher.look(before.run).message == "its job has been started again"


def test_overlap_cancel_leaves_no_start_that_waits(servers: Servers) -> None:
    """Of many that could not be submitted for a while, one run is made."""
    job = servers.job({"every": "1 min", "overlap": "cancel"})
    servers.use(NOWHERE)
    for minute in range(1, 11):
        servers.look(NOON_MS + minute * 60_000)
    assert [state for _, state in servers.told(job)] == [*["skipped"] * 9, "claimed"]
    assert servers.starts.of(job.no)[1].reason == AGAIN
    servers.use(servers.dispatcher)
    servers.look(NOON_MS + 10 * 60_000 + 20_000)
    assert servers.live() == [servers.starts.of(job.no)[0].run]


def test_overlap_cancel_waits_for_redis(servers: Servers) -> None:
    """The new run is made when the one before has been told to end: none goes on beside it."""
    job = servers.job({"every": "1 h", "overlap": "cancel"})
    servers.look(NOON_MS + HOUR_MS)
    [before] = servers.live()
    servers.use(NOWHERE)
    servers.look(NOON_MS + 2 * HOUR_MS)
    servers.use(servers.dispatcher)
    assert servers.live() == [before]
    servers.look(NOON_MS + 2 * HOUR_MS + 20_000)
    newest = servers.starts.of(job.no)[0]
    assert servers.live() == [newest.run]
    assert servers.dispatcher.look(RunId(before)).message == AGAIN


def test_overlap_cancel_finds_what_a_dead_server_has_submitted(servers: Servers, database: Database) -> None:
    """Its start was withdrawn before it could be settled."""
    job = servers.job({"every": "1 h", "overlap": "cancel"})
    start = servers.starts.claim(job.no, NOON_MS + 1, Occasion(trigger="schedule"))
    assert start is not None
    servers.starts.withdraw(start, AGAIN)
    servers.dispatcher.submit(RunRequest(run_id=start.run, project="shop", detached=True))
    with database.write() as connection:
        connection.execute(insert(runs).values(id=start.run, project="shop", verdict="live", submitted_ms=NOON_MS))
    servers.look(NOON_MS + HOUR_MS)
    assert servers.live() == [servers.starts.of(job.no)[0].run]


def test_run_that_machinery_failed_gives_way_to_one_that_waits(servers: Servers, database: Database) -> None:
    """It is not started once more beside that."""
    job = overlapping(servers, "queue", retries=1)
    [before] = servers.live()
    servers.end_runs()
    with database.write() as connection:
        assert not servers.starts.again(connection, before, "lost")
    for seconds in (1, 20):
        servers.look(NOON_MS + 2 * HOUR_MS + seconds * 1000)
    assert servers.told(job) == [("01 13:00", "started"), ("01 14:00", "started")]
    assert len(servers.live()) == 1


def test_redis_that_hangs_makes_nobody_late(servers: Servers) -> None:
    """It is asked once in a look, however many runs go on."""
    asked: list[str] = []

    class Hanging(Submitter):
        def is_live(self, start: StartRow) -> bool:
            asked.append(start.run)
            raise Unreachable("no answer within 5 s")

    jobs = [servers.job({"every": "1 h"}, f"job{number}") for number in range(3)]
    servers.look(NOON_MS + HOUR_MS)
    server = servers.start(Hanging)
    servers.clock.ms = NOON_MS + 2 * HOUR_MS
    wait(server.tick(), GUARD_S)
    assert [servers.told(job)[1] for job in jobs] == [("01 14:00", "skipped")] * 3
    assert len(asked) == 1


@pytest.mark.parametrize(("overlap", "state"), [("skip", "skipped"), ("queue", "queued"), ("cancel", "claimed")])
def test_overlap_while_redis_is_away(servers: Servers, overlap: str, state: str) -> None:
    """What nobody knows the end of goes on; no start is missed for it."""
    job = servers.job({"every": "1 h", "overlap": overlap})
    servers.look(NOON_MS + HOUR_MS)
    servers.use(NOWHERE)
    servers.look(NOON_MS + 2 * HOUR_MS)
    servers.look(NOON_MS + 2 * HOUR_MS + 120_000)
    assert servers.told(job) == [("01 13:00", "started"), ("01 14:00", state)]


def test_run_whose_end_is_recorded_needs_no_redis(servers: Servers, database: Database) -> None:
    """The next start is there, and waits for Redis alone."""
    job = servers.job({"every": "1 h"})
    servers.look(NOON_MS + HOUR_MS)
    servers.use(NOWHERE)
    [run] = servers.live()
    with database.write() as connection:
        connection.execute(insert(runs).values(id=run, project="shop", verdict="passed", submitted_ms=NOON_MS))
    servers.look(NOON_MS + 2 * HOUR_MS)
    assert servers.told(job) == [("01 13:00", "started"), ("01 14:00", "claimed")]


# -- missed starts


def test_missed_start_is_made_up_for_within_its_window(servers: Servers) -> None:
    """The last one; those before it are noted and told, each once."""
    job = servers.job({"every": "1 h", "catch-up": "30 min"})
    servers.look()
    servers.look(NOON_MS + 3 * HOUR_MS + 1_700_000)
    assert servers.told(job) == [("01 13:00", "missed"), ("01 14:00", "missed"), ("01 15:00", "started")]
    hours = [NOON_MS + HOUR_MS, NOON_MS + 2 * HOUR_MS]
    assert sorted(servers.missed) == [("shop/nightly", due_ms, MISSED) for due_ms in hours]


def test_missed_start_is_not_made_up_for_after_its_window(servers: Servers) -> None:
    """All are missed, and the next one is made in time."""
    job = servers.job({"every": "1 h", "catch-up": "30 min"})
    servers.look()
    servers.look(NOON_MS + HOUR_MS + 1_900_000)
    servers.look(NOON_MS + 2 * HOUR_MS)
    assert servers.told(job) == [("01 13:00", "missed"), ("01 14:00", "started")]


def test_start_some_seconds_late_is_in_time(servers: Servers) -> None:
    """A server that was started anew has missed nothing."""
    job = servers.job("0 13 * * *")
    servers.look()
    servers.look("2026-03-01T13:00:59Z")
    assert servers.told(job) == [("01 13:00", "started")]


def test_many_missed_starts_are_noted_together(servers: Servers) -> None:
    """After days without a server, people read a few lines."""
    job = servers.job("* * * * *")
    servers.look()
    servers.look(NOON_MS + DAY_MS)
    rows = servers.starts.of(job.no)
    assert [row.state for row in rows] == ["started", *["missed"] * NOTED]
    assert rows[-1].reason == f"{MISSED}, nor at {24 * 60 - NOTED - 1:,} times before"
    assert len(servers.missed) == NOTED


def test_single_start_that_was_missed_long_ago_is_noted(servers: Servers) -> None:
    """It does not come again, so nothing else would tell."""
    job = servers.job({"at": "2026-03-01T13:00:00Z"})
    servers.look()
    servers.look(NOON_MS + 30 * DAY_MS)
    servers.look(NOON_MS + 31 * DAY_MS)
    assert servers.told(job) == [("01 13:00", "missed")]


# -- clocks and deaths


def test_clock_that_jumps_back_starts_nothing_twice(servers: Servers) -> None:
    """What it starts is what comes after."""
    job = servers.job({"every": "1 h"})
    for hours in (1, 2, 0, 1, 2, 3):
        servers.look(NOON_MS + hours * HOUR_MS)
        servers.end_runs()
    assert servers.told(job) == [("01 13:00", "started"), ("01 14:00", "started"), ("01 15:00", "started")]


def test_clock_that_was_ahead_stops_nothing(servers: Servers) -> None:
    """A plan that it has made is looked through after a minute."""
    job = servers.job({"every": "1 h"})
    servers.look()
    servers.look(NOON_MS + 300 * DAY_MS)
    servers.end_runs()
    for second in range(70):
        servers.look(NOON_MS + second * 1000)
    servers.look(NOON_MS + HOUR_MS)
    assert ("01 13:00", "started") in servers.told(job)


def test_start_that_cannot_be_submitted_now_is_taken_on(servers: Servers) -> None:
    """By whoever looks after it."""

    class Cut(Submitter):
        def submit(self, start: StartRow) -> StartRow:
            raise Unreachable("no pool")

    able, servers.schedulers = servers.schedulers, []
    cut = servers.start(Cut)
    job = servers.job("0 13 * * *")
    servers.look("2026-03-01T13:00:01Z")
    cut.close()
    assert servers.told(job) == [("01 13:00", "claimed")]
    servers.schedulers = able
    servers.look("2026-03-01T13:00:05Z")
    assert servers.told(job) == [("01 13:00", "claimed")]
    servers.look("2026-03-01T13:00:20Z")
    assert servers.told(job) == [("01 13:00", "started")]


def test_start_that_is_caught_up_is_tried_for_an_hour(servers: Servers) -> None:
    """However long ago it was due: after an outage Redis may come later than the server."""
    job = servers.job({"cron": "0 13 * * *", "catch-up": "6 h"})
    servers.look()
    servers.use(NOWHERE)
    for minute in ("17:30", "18:20"):
        servers.look(f"2026-03-01T{minute}Z")
        assert servers.told(job) == [("01 13:00", "claimed")]
    servers.look("2026-03-01T18:40Z")
    assert servers.told(job) == [("01 13:00", "failed")]
    assert "Redis does not answer" in servers.missed[0][2]


def test_start_that_has_waited_for_a_run_is_tried_for_an_hour(servers: Servers) -> None:
    """From that run's end on."""
    job = servers.job({"cron": "0 13,14 * * *", "overlap": "queue"})
    servers.look("2026-03-01T13:00Z")
    servers.look("2026-03-01T14:00Z")
    servers.end_runs()
    servers.dispatcher.limits(running=0, queued=0)
    servers.look("2026-03-01T17:00Z")
    assert servers.told(job)[1] == ("01 14:00", "claimed")
    servers.dispatcher.limits(queued=5)
    servers.look("2026-03-01T17:01Z")
    assert servers.told(job)[1] == ("01 14:00", "started")


@pytest.mark.parametrize(("catch_up", "state"), [("0 s", "missed"), ("1 d", "started")])
def test_start_that_no_server_has_tried_for_long(servers: Servers, catch_up: str, state: str) -> None:
    """It is missed as if nobody had begun it, and made where such are made up for."""
    job = servers.job({"cron": "0 13 * * *", "catch-up": catch_up})
    servers.use(NOWHERE)
    servers.look("2026-03-01T13:00Z")
    servers.use(servers.dispatcher)
    servers.look("2026-03-02T01:00Z")
    assert servers.told(job) == [("01 13:00", state)]
    assert servers.missed == [("shop/nightly", NOON_MS + HOUR_MS, UNTRIED)] * (state == "missed")


def test_start_that_is_tried_again_is_not_made_for_a_disabled_job(servers: Servers) -> None:
    """Nobody wants it any more."""
    job = servers.job("0 13 * * *")
    servers.use(NOWHERE)
    servers.look("2026-03-01T13:00:01Z")
    servers.jobs.enable(job.no, on=False)
    servers.use(servers.dispatcher)
    servers.look("2026-03-01T13:00:20Z")
    assert servers.told(job) == [("01 13:00", "skipped")]
    assert servers.starts.of(job.no)[0].reason == "the job was disabled while it waited"
    assert not servers.live()


def test_slow_repositories_hold_up_no_start_that_a_server_has_left(servers: Servers) -> None:
    """Nor what is looked at elsewhere."""
    fetched, followed = threading.Event(), list[int]()

    class Fetching(Submitter):
        def submit(self, start: StartRow) -> StartRow:
            row = servers.jobs.by_number(start.job_no)
            if row is not None and row.job.source is not None:
                assert fetched.wait(GUARD_S)
            return super().submit(start)

        def follow(self) -> None:
            followed.append(servers.clock.ms)

    source = {"git": "https://x/y"}
    slow = [servers.job(None, f"a{number}", source=source) for number in range(HANDS + 1)]
    job = servers.job(None)
    for one in (*slow, job):
        assert servers.starts.claim(one.no, NOON_MS, Occasion(trigger="schedule"))
    server = servers.start(Fetching)
    begun: list[Future[None]] = []
    try:
        for seconds in (20, 40, 60):
            servers.clock.ms = NOON_MS + seconds * 1000
            begun += server.tick()
            wait_for(lambda: servers.told(job) == [("01 12:00", "started")], "it has been started")
            wait(begun[-1:], GUARD_S)
    finally:
        fetched.set()
        wait(begun, GUARD_S)
    assert len(followed) == 3
    assert len(begun) == HANDS + 2 + len(followed), "what waits for a hand is not begun again"
    assert len(servers.live()) == HANDS + 2


def test_trouble_with_one_job_keeps_no_other_from_it(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged."""
    first, second = servers.job("0 13 * * *", "broken"), servers.job("0 13 * * *", "whole")
    plan = servers.jobs.plan

    def fails(no: int, next_ms: int | None, *, since_ms: int) -> bool:
        if no == first.no:
            raise RuntimeError("a fault")
        return plan(no, next_ms, since_ms=since_ms)

    monkeypatch.setattr(servers.jobs, "plan", fails)
    servers.look("2026-03-01T13:00:01Z")
    assert servers.told(second) == [("01 13:00", "started")]


def test_slow_repositories_hold_up_no_other_job(servers: Servers) -> None:
    """However many of them are due before it."""
    fetched = threading.Event()

    class Fetching(Submitter):
        def submit(self, start: StartRow) -> StartRow:
            row = servers.jobs.by_number(start.job_no)
            if row is not None and row.job.source is not None:
                assert fetched.wait(GUARD_S)
            return super().submit(start)

    server = servers.start(Fetching)
    source = {"git": "https://x/y"}
    slow = [decode_job(f"a{number}", {"schedule": "0 13 * * *", "source": source}) for number in range(HANDS + 1)]
    servers.jobs.sync("bank", [(job, None) for job in slow])
    job = servers.job("0 13 * * *")
    servers.clock.ms = NOON_MS + HOUR_MS
    begun = server.tick()
    try:
        wait_for(lambda: servers.told(job) == [("01 13:00", "started")], "it has been started")
    finally:
        fetched.set()
        wait(begun, GUARD_S)
    assert len(servers.live()) == HANDS + 2


DYING = """
import sys, time
import redis
from pytest_supercheck.dispatch import Dispatcher
from supercheck_server.database import Database
from supercheck_server.starts import Starts
from tests.server.test_scheduler import Servers, Submitter

def stop(*_, **__):
    print("claimed", flush=True)
    time.sleep(600)

class Dying(Submitter):
    if sys.argv[4] == "before":
        _spec = stop

Starts.settle = stop
dispatcher = Dispatcher(redis.Redis.from_url(sys.argv[2]))
servers = Servers(Database(sys.argv[1]), dispatcher)
servers.clock.ms = int(sys.argv[3])
servers.start(Dying).tick()
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_server_that_is_killed_while_it_starts_a_job(
    servers: Servers, database_url: str, valkey_server: Valkey, when: str
) -> None:
    """Before the run was submitted or after it: another server finishes that start, and there is one run."""
    job = servers.job("0 13 * * *")
    due_ms = NOON_MS + HOUR_MS
    command = [sys.executable, "-c", DYING, database_url, valkey_server.url, str(due_ms), when]
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as dying:
        try:
            assert dying.stdout is not None
            assert dying.stdout.readline() == "claimed\n"
            servers.look(due_ms + 1000)
            assert servers.told(job) == [("01 13:00", "claimed")]
        finally:
            dying.send_signal(signal.SIGKILL)
    servers.look(due_ms + 20_000)
    servers.look(due_ms + 40_000)
    [start] = servers.starts.of(job.no)
    assert start.state == "started"
    assert servers.live() == [start.run]
