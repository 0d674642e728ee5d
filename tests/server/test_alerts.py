"""
What operators are told of the pool: when it has lasted, once, and when it is over.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import select, update

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.jobs import decode_job
from pytest_supercheck.operators import BadVariable
from supercheck_server.alerts import Alerts, AlertSection, AlertsSection, Look, State, step
from supercheck_server.configuration import read_configuration
from supercheck_server.database import Database
from supercheck_server.history import History
from supercheck_server.jobs import Jobs
from supercheck_server.ledger import Ledger
from supercheck_server.messenger import Postman
from supercheck_server.notifications import Outbox
from supercheck_server.parts import Parts
from supercheck_server.settings import Settings
from supercheck_server.starts import Occasion, Starts
from supercheck_server.tables import alerts as alerts_table
from supercheck_server.tables import notifications
from tests.server.conftest import NOON, Pool, make_record, wait_for
from tests.server.test_notifications import make_target
from tests.server.webhook import webhook

NOON_MS = round(NOON.timestamp() * 1000)
MINUTE_MS = 60_000


def looks(found: str, *, lasts_s: float = 0, cool_down_s: float = 0) -> list[str]:
    """
    What is told of a look each minute.

    Args:
        found: A letter per look: `B` for bad, `.` for good, `?` for unknown.

    Returns:
        What is told with each, as its first letter or a dot.
    """
    rule = AlertSection.model_validate({"for": lasts_s, "cool-down": cool_down_s})
    state, told = State(), []
    for minute, letter in enumerate(found):
        is_bad = {"B": True, ".": False, "?": None}[letter]
        state, news = step(state, Look(name="x", rule=rule, is_bad=is_bad, words=""), minute * MINUTE_MS)
        told.append((news or ".")[0])
    return told


@pytest.mark.parametrize(
    ("found", "told", "rule"),
    [
        pytest.param("..BBB..", "..a..r.", {}, id="once, and its end"),
        pytest.param("BB.BBBB.", ".....a.r", {"lasts_s": 120}, id="when it has lasted"),
        pytest.param("B.B.B.B", "ar....a", {"cool_down_s": 300}, id="not again before it has cooled down"),
        pytest.param("B.BBBBBB.", "ar...a..r", {"cool_down_s": 300}, id="still so when it has"),
        pytest.param("B?.", "a.r", {}, id="what is not known ends nothing"),
        pytest.param("?B.", ".ar", {}, id="and begins nothing"),
        pytest.param("B.", "..", {"lasts_s": 60}, id="what was not told has no end"),
    ],
)
def test_what_is_told_of_what_is_seen(found: str, told: str, rule: dict[str, float]) -> None:
    """A look each minute."""
    assert "".join(looks(found, **rule)) == told


def make_alerts(database: Database, dispatcher: Dispatcher, **rules: Any) -> Alerts:
    """Alerts that go to one target."""
    return Alerts(
        rules=AlertsSection.model_validate({"to": ["team"], **rules}),
        dispatcher=dispatcher,
        database=database,
        history=History(database),
        outbox=Outbox(database, {"team": make_target(on=[])}),
        public_url="https://h.example",
    )


def told(database: Database) -> list[tuple[str, str]]:
    """Reason and title of all messages."""
    columns = (notifications.c.reason, notifications.c.title)
    with database.read() as connection:
        return [(row.reason, row.title) for row in connection.execute(select(*columns).order_by(notifications.c.no))]


def test_pool_is_watched(database: Database, pool: Pool) -> None:
    """Queue, wait and workers, as the dispatcher has them."""
    rules = {"queue": {"above": 0}, "wait": {"above": 60}, "workers": {"below": 2}}
    alerts = make_alerts(database, pool.dispatcher, **rules)
    for run in ("r1", "r2"):
        pool.submit(run, nodeids=["a"])
    pool.job("r1")
    [waiting] = [run for run in pool.dispatcher.queue().runs if run.state == "waiting"]
    now_ms = waiting.submitted_ms + 3 * MINUTE_MS
    alerts.look(now_ms)
    assert told(database) == [
        ("alert", "Alert: 1 runs wait; 0 may"),
        ("alert", "Alert: the longest wait of a run is 3 min 0 s; 1 min 0 s may be"),
        ("alert", "Alert: 1 worker processes take work; 2 should"),
    ]
    pool.dispatcher.cancel(waiting.run, outcome="cancelled", how="kill")
    pool.dispatcher.join("w-2", host="h", pid=2)
    alerts.look(now_ms + MINUTE_MS)
    assert told(database)[3:] == [
        ("resolved", "Resolved: 0 runs wait; 0 may"),
        ("resolved", "Resolved: the longest wait of a run is 0 ms; 1 min 0 s may be"),
        ("resolved", "Resolved: 2 worker processes take work; 2 should"),
    ]


def test_pool_that_is_away_has_no_workers(database: Database, pool: Pool, unused_port: int) -> None:
    """What is known of the history is looked at all the same; of the queue nothing is said."""
    away = Dispatcher(redis.Redis(port=unused_port))
    rules = {"queue": {"above": 0}, "workers": {"below": 1}, "failures": {"above": 0.5, "at-least": 1}}
    Ledger(database).write(make_record(0, "F"), "f", delivered=True)
    make_alerts(database, away, **rules).look(NOON_MS)
    assert told(database) == [
        ("alert", "Alert: the pool cannot be reached; 1 worker processes should take work"),
        ("alert", "Alert: 1 of 1 runs of the last 1 h 0 min failed or were lost; 50% may"),
    ]
    pool.dispatcher.join("w-1", host="h", pid=1)
    make_alerts(database, pool.dispatcher, **rules).look(NOON_MS + MINUTE_MS)
    assert told(database)[2:] == [("resolved", "Resolved: 1 worker processes take work; 1 should")]
    away.close()


def test_failing_runs_are_watched(database: Database, pool: Pool) -> None:
    """Those of a window, when there are enough of them; what somebody has cancelled does not count."""
    alerts = make_alerts(database, pool.dispatcher, failures={"above": 0.5, "window": 600, "at-least": 4})
    ledger = Ledger(database)
    runs: list[tuple[str, dict[str, Any]]] = [("F", {}), ("F", {}), ("P", {"outcome": "lost"}), ("P", {})]
    for number, (outcomes, changes) in enumerate([("F", {"outcome": "cancelled"}), *runs]):
        alerts.look(NOON_MS + number * MINUTE_MS)
        ledger.write(make_record(number, outcomes, **changes), "f", delivered=True)
    assert told(database) == []
    alerts.look(NOON_MS + 5 * MINUTE_MS)
    assert told(database) == [("alert", "Alert: 3 of 4 runs of the last 10 min 0 s failed or were lost; 50% may")]
    for number in range(6, 12):
        ledger.write(make_record(number, "P"), "f", delivered=True)
    alerts.look(NOON_MS + 10 * MINUTE_MS)
    assert [reason for reason, _ in told(database)] == ["alert", "resolved"]


def test_one_server_looks_in_a_minute_and_the_next_one_goes_on(database: Database, pool: Pool) -> None:
    """What is known survives them."""
    rules = {"workers": {"below": 1, "for": 60}}
    servers = [make_alerts(database, pool.dispatcher, **rules) for _ in range(4)]
    barrier = threading.Barrier(len(servers))

    def look(alerts: Alerts, minute: int) -> None:
        barrier.wait()
        alerts.look(NOON_MS + minute * MINUTE_MS)

    for minute in range(3):
        threads = [threading.Thread(target=look, args=(alerts, minute)) for alerts in servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [reason for reason, _ in told(database)] == ["alert"]
    pool.dispatcher.join("w-1", host="h", pid=1)
    make_alerts(database, pool.dispatcher, **rules).look(NOON_MS + 3 * MINUTE_MS)
    assert [reason for reason, _ in told(database)] == ["alert", "resolved"]


def test_missed_start_is_told_once(database: Database, pool: Pool) -> None:
    """By whichever server, with the reason made harmless; another one of the job when it has cooled down."""

    def miss(alerts: Alerts, job: str, due_ms: int, reason: str) -> None:
        with database.write() as connection:
            alerts.missed(connection, job, due_ms, reason)

    servers = [make_alerts(database, pool.dispatcher, missed={"cool-down": 3600}) for _ in range(2)]
    for alerts in servers:
        miss(alerts, "shop/nightly", NOON_MS, "the queue was full\r\n@channel")
    miss(servers[0], "shop/nightly", NOON_MS + MINUTE_MS, "again")
    miss(servers[0], "shop/weekly", NOON_MS, "another one")
    assert [title for _, title in told(database)] == [
        "Missed: shop/nightly was not started",
        "Missed: shop/weekly was not started",
    ]
    eager = make_alerts(database, pool.dispatcher)
    for _ in range(2):
        miss(eager, "shop/nightly", NOON_MS + MINUTE_MS, "again")
    assert len(told(database)) == 3
    with database.write() as connection:  # by a server whose clock is ahead
        connection.execute(update(alerts_table).values(told_ms=alerts_table.c.told_ms + MINUTE_MS))
    miss(eager, "shop/nightly", NOON_MS + 2 * MINUTE_MS, "and again")
    assert len(told(database)) == 4
    with database.read() as connection:
        body = connection.execute(select(notifications.c.body).order_by(notifications.c.no)).scalars().first()
    assert body is not None
    assert body.startswith("It was due at 2026-03-01 12:00 UTC: the queue was full @\N{WORD JOINER}channel")
    assert "https://h.example/queue" in body


def test_start_that_fails_is_told_with_its_row(database: Database, pool: Pool) -> None:
    """One by schedule, or one that was missed; whoever starts a job by hand sees it. No row, no message."""
    alerts = make_alerts(database, pool.dispatcher)
    starts = Starts(database, tell=alerts.missed)
    Jobs(database).sync("shop", [(decode_job("nightly", {"source": {"git": "https://x/y"}}), None)])
    [job] = Jobs(database).known()
    for due_ms, trigger in enumerate(["schedule", "job"]):
        start = starts.claim(job.no, NOON_MS + due_ms, Occasion(trigger=trigger))
        assert start is not None
        assert starts.settle(start, "failed", reason="the token has expired")
        assert not starts.settle(start, "failed", reason="the token has expired")
    starts.claim(job.no, NOON_MS + MINUTE_MS, Occasion(trigger="schedule"), state="missed", reason="nobody was there")
    with database.read() as connection:
        bodies = list(connection.execute(select(notifications.c.body).order_by(notifications.c.no)).scalars())
    assert [body.splitlines()[0].partition("UTC: ")[2] for body in bodies] == [
        "the token has expired",
        "nobody was there",
    ]

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Starts(database, tell=dies).claim(job.no, NOON_MS + 99, Occasion(trigger="schedule"), state="missed")
    assert len(starts.of(job.no)) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("[alerts]\nqueue = {above = 1}", "'to' has to name who is told", id="nobody"),
        pytest.param("[alerts]\nto = ['a']", r"there is no \[notify.a\]", id="unknown target"),
        pytest.param("[alerts]\nto = ['a']\nqueue = {below = 1}", "alerts.queue.above: Field required", id="limit"),
        pytest.param("[alerts]\nto = ['a']\nfailures = {above = 30}", "alerts.failures.above", id="no share"),
    ],
)
def test_section_that_makes_no_sense_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """With its place."""
    path = tmp_path / "server.toml"
    path.write_text(text)
    with pytest.raises(BadVariable, match=words):
        read_configuration(path)


def test_server_that_always_has_something_to_send_looks_all_the_same(
    settings: Settings, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that is slow, and of which many messages are wanted, hides no alert."""
    path = tmp_path / "server.toml"
    path.write_text('[notify.ops]\nurl = "json://127.0.0.1:1"\n\n[alerts]\nto = ["ops"]\nworkers = {below = 1}\n')
    parts = Parts(replace(settings, config=path))
    assert parts.messenger is not None
    parts.database.migrate()
    is_over = threading.Event()
    monkeypatch.setattr(parts.messenger, "send_next", lambda _now_ms: not is_over.wait(0.01))
    postman = Postman(parts.messenger, parts.alerts)
    postman.start()
    try:
        wait_for(lambda: told(parts.database), "the alert is noted")
    finally:
        is_over.set()
        postman.stop()
        parts.close()


def test_server_looks_and_sends(settings: Settings, pool: Pool, tmp_path: Path) -> None:
    """The thread of a server, with a real receiver."""
    with webhook() as hook:
        path = tmp_path / "server.toml"
        path.write_text(f'[notify.ops]\nurl = "{hook.url}"\n\n[alerts]\nto = ["ops"]\nworkers = {{below = 1}}\n')
        parts = Parts(replace(settings, config=path))
        assert parts.messenger is not None
        postman = Postman(parts.messenger, parts.alerts)
        postman.start()
        wait_for(lambda: hook.messages, "the alert is sent")
        postman.stop()
        assert hook.titles == ["Alert: 0 worker processes take work; 1 should"]
        parts.close()
