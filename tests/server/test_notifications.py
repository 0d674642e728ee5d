"""
Who is told of a run: settled once, sent after the record is stored, whatever dies on the way.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, select

from pytest_supercheck.archive import Archive
from pytest_supercheck.jobs import Job, On, Subscription, decode_job
from pytest_supercheck.model import RunId
from pytest_supercheck.operators import BadVariable
from pytest_supercheck.record import Origin
from pytest_supercheck.stores import open_store
from supercheck_server.commands import notify
from supercheck_server.configuration import read_configuration
from supercheck_server.database import Database
from supercheck_server.errors import NotifierMissing, NotSent
from supercheck_server.history import History
from supercheck_server.jobs import Jobs
from supercheck_server.ledger import Ledger
from supercheck_server.messages import SAMPLE, Message, Wording
from supercheck_server.messenger import Messenger
from supercheck_server.metrics import Metrics
from supercheck_server.notifications import CLAIM_S, PAUSES_S, STALE_S, Outbox, addressed, reasons
from supercheck_server.notifier import Notifiers
from supercheck_server.parts import Parts
from supercheck_server.rebuild import rebuild
from supercheck_server.settings import Settings
from supercheck_server.starts import Occasion, Starts
from supercheck_server.tables import notifications
from supercheck_server.targets import NotifySection, Target
from tests.conftest import Valkey
from tests.server.conftest import Pool, make_item, make_record, serving, wait_for
from tests.server.webhook import Webhook, webhook

#: Later than everything that the tests' servers do.
LATER_MS = (time.time() + 7 * 3600) * 1000

#: Sends what is due, and is stopped dead when the service has taken it.
DYING = """
import os, signal, sys
from pathlib import Path
from supercheck_server.parts import Parts
from supercheck_server.notifications import Outbox
from supercheck_server.settings import Settings

Outbox.end = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
parts = Parts(Settings.from_env(data=Path(sys.argv[1])))
parts.messenger.send_next(float(sys.argv[2]))
"""


@pytest.fixture
def hook() -> Iterator[Webhook]:
    """A receiver."""
    with webhook() as made:
        yield made


class Sent:
    """A notifier that keeps what it is given."""

    def __init__(self) -> None:
        self.titles: list[tuple[str, str]] = []
        self.trouble: str = ""

    def knows(self, url: str) -> bool:
        """All of them."""
        return True

    def send(self, url: str, message: Message) -> None:
        """Take it, unless there is trouble."""
        if self.trouble:
            raise NotSent(self.trouble)
        self.titles.append((url, message.title))


def make_target(name: str = "team", **section: Any) -> Target:
    """A target that is told everything, as the file would have it."""
    made = NotifySection.model_validate({"url": f"json://{name}", "on": "always", **section})
    return Target(name=name, url=f"json://{name}", section=made, wording=Wording())


def start_of_job(database: Database, number: int, *notices: Subscription) -> None:
    """A job of which a run has come."""
    Jobs(database).sync("shop", [(Job(name="nightly", notify=notices), None)])
    [job] = Jobs(database).find("nightly")
    run = make_record(number, "P").summary.id
    assert Starts(database).claim(job.no, number, Occasion(trigger="job", run=run))


class Office:
    """A ledger and a messenger on one database."""

    def __init__(self, database: Database, *targets: Target) -> None:
        named = {target.name: target for target in targets}
        self.database = database
        self.history = History(database)
        self.outbox = Outbox(database, named)
        self.notifier = Sent()
        self.messenger = Messenger(
            outbox=self.outbox,
            targets=named,
            notifier=self.notifier,
            history=self.history,
            metrics=Metrics(dispatcher=None),  # type: ignore[arg-type]
            public_url="https://h.example",
        )

    def record(self, number: int, outcomes: str = "PPF", **changes: Any) -> bool:
        """Record a run as the recorder does; False when it was recorded already."""
        record = make_record(number, outcomes, **changes)
        note = functools.partial(self.outbox.note, run=record.summary.id)
        return Ledger(self.database).write(record, f"f/{number}", delivered=True, also=note)

    def send_all(self, now_ms: float = LATER_MS) -> list[str]:
        """Send what is due; the titles."""
        while self.messenger.send_next(now_ms):
            pass
        return [title for _, title in self.notifier.titles]

    def rows(self) -> list[tuple[str, str, str, int]]:
        """Target, reason, state and tries of all messages."""
        columns = [notifications.c[name] for name in ("target", "reason", "state", "tries")]
        with self.database.read() as connection:
            return [tuple(row) for row in connection.execute(select(*columns).order_by(notifications.c.no))]


# -- who is told


@pytest.mark.parametrize(
    ("verdict", "before", "expected"),
    [
        pytest.param("failed", None, "always failure first-failure", id="the first run fails"),
        pytest.param("failed", "passed", "always failure first-failure", id="begins to fail"),
        pytest.param("failed", "failed", "always failure", id="still fails"),
        pytest.param("passed", "failed", "always recovery", id="recovers"),
        pytest.param("passed", "passed", "always", id="still passes"),
        pytest.param("passed", None, "always", id="the first run passes"),
        pytest.param("lost", "passed", "always failure", id="lost begins nothing"),
        pytest.param("fatal", "failed", "always failure", id="fatal"),
        pytest.param("timeout", "passed", "always failure", id="timeout"),
        pytest.param("cancelled", "failed", "always", id="cancelled recovers nothing"),
        pytest.param("abandoned", "passed", "always", id="abandoned"),
    ],
)
def test_what_a_run_is_an_occasion_for(verdict: str, before: str | None, expected: str) -> None:
    """Beside the last run of its branch."""
    latest = replace(SAMPLE, no=0, verdict=before) if before else None
    assert reasons(replace(SAMPLE, verdict=verdict), latest) == set(expected.split())


def test_overtaken_run_begins_and_ends_nothing() -> None:
    """A newer run of the branch has been told already."""
    newer = replace(SAMPLE, no=2, submitted_ms=5)
    assert reasons(replace(SAMPLE, verdict="passed"), newer) == {"always"}
    assert reasons(SAMPLE, replace(newer, verdict="passed")) == {"always", "failure"}


def test_run_without_tests_recovers_nothing() -> None:
    """It has shown nothing."""
    assert reasons(replace(SAMPLE, verdict="passed", total=0), replace(SAMPLE, no=0)) == {"always"}


def test_each_is_told_once_for_the_most_telling_reason() -> None:
    """Whatever order the subscriptions are in."""
    every: tuple[On, ...] = get_args(On)
    for order in itertools.permutations(every):
        subscriptions = [Subscription(to="a", on=on) for on in order] + [Subscription(to="b", on="recovery")]
        assert addressed(subscriptions, frozenset({"always", "failure", "first-failure"})) == {"a": "first-failure"}


@pytest.mark.parametrize(
    ("section", "is_told"),
    [
        pytest.param({}, True, id="all"),
        pytest.param({"projects": ["shop"], "branches": ["main"], "triggers": ["push"]}, True, id="exactly"),
        pytest.param({"branches": ["release/*", "ma*"]}, True, id="pattern"),
        pytest.param({"projects": ["other"]}, False, id="another project"),
        pytest.param({"branches": ["Main"]}, False, id="another branch"),
        pytest.param({"triggers": []}, False, id="no trigger"),
        pytest.param({"on": []}, False, id="no occasion"),
        pytest.param({"on": "recovery"}, False, id="another occasion"),
        pytest.param({"on": ["recovery", "failure"]}, True, id="several reasons"),
    ],
)
def test_target_chooses_its_runs(database: Database, section: dict[str, Any], is_told: bool) -> None:
    """By project, branch and trigger."""
    office = Office(database, make_target(**section))
    office.record(1)
    assert [row[0] for row in office.rows()] == ["team"] * is_told


def test_story_of_a_branch(database: Database) -> None:
    """What each of four targets is told of it, with an intermission of the machinery."""
    on = {"failure": "failure", "first": "first-failure", "recovery": "recovery", "always": "always"}
    office = Office(database, *(make_target(name, on=occasion) for name, occasion in on.items()))
    runs = ["P", "F", "F", "F lost", "P", "P cancelled", "P", "F"]
    for number, run in enumerate(runs):
        outcomes, _, outcome = run.partition(" ")
        office.record(number, outcomes, outcome=outcome or "finished")
    office.send_all()
    told: dict[str, list[str]] = {name: [] for name in on}
    for url, title in office.notifier.titles:
        told[url.removeprefix("json://")].append(title.removeprefix("shop, main: "))
    failed, begun = "1 of 1 tests failed", "has begun to fail, 1 of 1 tests failed"
    assert sorted(told["failure"]) == sorted([failed, failed, "was lost", failed])
    assert told["first"] == [begun, begun]
    assert told["recovery"] == ["passes again"]
    assert len(told["always"]) == len(runs)


def test_branches_and_projects_have_stories_of_their_own(database: Database) -> None:
    """A failure of one is no first failure less for another."""
    office = Office(database, make_target(on="first-failure"))
    office.record(1, "F")
    office.record(2, "F", project="other")
    office.record(3, "F", origin=Origin(branch="feature"))
    office.record(4, "F")
    assert len(office.rows()) == 3


def test_runs_of_which_a_target_does_not_hear_are_no_part_of_its_story(database: Database) -> None:
    """What somebody has tried by hand neither takes the first failure from a push nor the recovery."""
    office = Office(database, make_target(on=["first-failure", "recovery"], triggers=["push", "sched*"]))
    by_hand = {"origin": Origin(branch="main", trigger="local")}
    office.record(1, "P")
    office.record(2, "F", **by_hand)
    office.record(3, "F")
    for number in range(4, 54):
        office.record(number, "P", **by_hand)
    office.record(54, "P")
    assert [row[1] for row in office.rows()] == ["first-failure", "recovery"]


def test_pull_request_is_no_branch_of_its_name(database: Database) -> None:
    """A fork's main is not ours: it has a story of its own, and is told as what it is."""
    office = Office(database, make_target(on=["first-failure", "recovery"], branches=["main"]))
    fork = {"origin": Origin(branch="main", trigger="pull_request", pull_request=7)}
    office.record(1, "P")
    office.record(2, "F", **fork)
    office.record(3, "P")
    office.record(4, "F", **fork)
    office.record(5, "F")
    assert [row[1] for row in office.rows()] == ["first-failure"] * 2
    assert sorted(office.send_all()) == [
        "shop, main (pull request 7): has begun to fail, 1 of 1 tests failed",
        "shop, main: has begun to fail, 1 of 1 tests failed",
    ]


def test_jobs_name_targets_too(database: Database) -> None:
    """Known ones; and a target that is told anyway is told once."""
    office = Office(database, make_target("team", on="failure"), make_target("quiet", on=[]))
    start_of_job(database, 1, *(Subscription(to=to, on="failure") for to in ("quiet", "team", "unknown")))
    office.record(1, "F")
    assert sorted(row[:2] for row in office.rows()) == [("quiet", "failure"), ("team", "failure")]


def test_a_job_tells_nobody_of_runs_that_are_not_for_them(database: Database) -> None:
    """The operator says of which projects a target hears; a job is its submitter's word."""
    office = Office(database, make_target("theirs", projects=["other"]))
    start_of_job(database, 1, Subscription(to="theirs", on="always"))
    office.record(1, "F")
    assert not office.rows()


def test_runs_of_a_job_are_compared_with_each_other(database: Database) -> None:
    """They run other tests than the branch's other runs do."""
    office = Office(database, make_target("team", on=["first-failure", "recovery"]))
    start_of_job(database, 2)
    office.record(1, "F")
    office.record(2, "F")
    office.record(3, "P")
    start_of_job(database, 4)
    office.record(4, "P")
    assert [row[1] for row in office.rows()] == ["first-failure", "first-failure", "recovery", "recovery"]


def test_two_runs_of_a_branch_at_once_begin_to_fail_once(database: Database) -> None:
    """The second is not settled before the first is written."""
    office = Office(database, make_target(on="first-failure"))
    first, second = (make_record(number, "F") for number in (1, 2))
    # Another test that fails of something else, so that no other row holds it up.
    other = make_item(0, "error", nodeid="test_b.py::test_other")
    second = replace(second, items=(other,))
    is_second_written = threading.Event()

    def write_second() -> None:
        note = functools.partial(office.outbox.note, run=second.summary.id)
        Ledger(database).write(second, "f/2", delivered=True, also=note)
        is_second_written.set()

    thread = threading.Thread(target=write_second)

    def write_first(connection: Connection) -> None:
        office.outbox.note(connection, run=first.summary.id)
        thread.start()
        assert not is_second_written.wait(0.5)

    Ledger(database).write(first, "f/1", delivered=True, also=write_first)
    thread.join()
    assert is_second_written.is_set()
    assert len(office.rows()) == 1


# -- once


def test_run_that_is_recorded_again_tells_nobody_again(database: Database) -> None:
    """Not before its message is sent, nor afterwards."""
    office = Office(database, make_target())
    assert office.record(1)
    assert not office.record(1)
    assert len(office.send_all()) == 1
    assert not office.record(1)
    assert len(office.send_all()) == 1
    assert office.rows() == [("team", "always", "sent", 1)]


def test_run_that_cannot_be_written_tells_nobody(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are one transaction."""
    office = Office(database, make_target())
    monkeypatch.setattr(Outbox, "put", lambda *_args, **_more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        office.record(1)
    assert office.history.run("0190-000001") is None


def test_message_is_tried_again_and_given_up(database: Database) -> None:
    """After growing pauses."""
    office = Office(database, make_target())
    office.record(1)
    office.notifier.trouble = "error=500"
    now_ms = LATER_MS
    for pause_s in PAUSES_S:
        assert office.messenger.send_next(now_ms)
        assert not office.messenger.send_next(now_ms + pause_s * 1000 - 1)
        now_ms += pause_s * 1000
    assert office.messenger.send_next(now_ms)
    assert office.rows() == [("team", "always", "failed", len(PAUSES_S) + 1)]
    assert not office.messenger.send_next(now_ms + 1e9)


def test_foreign_error_is_no_words_of_ours(
    database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that breaks is tried again, and what it says, which may be the address, stays unsaid."""
    office = Office(database, make_target())
    office.record(1)
    monkeypatch.setattr(office.notifier, "send", lambda url, _message: {}[url])
    assert office.messenger.send_next(LATER_MS)
    assert office.rows() == [("team", "always", "waiting", 1)]
    assert [vars(record)["reason"] for record in caplog.records] == ["KeyError"]
    assert "json://" not in str([vars(record) for record in caplog.records])


def test_template_that_does_not_fit_gives_way_to_the_usual_words(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """It was tried out with a run that has a failing test; one that was lost is told all the same."""
    wording = Wording(body="{{ failures[0].nodeid }}")
    office = Office(database, replace(make_target(), wording=wording))
    office.record(1, "F")
    office.record(2, "P", outcome="lost")
    assert office.send_all() == ["shop, main: 1 of 1 tests failed", "shop, main: was lost"]
    assert [row[2:] for row in office.rows()] == [("sent", 1)] * 2
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert vars(record)["reason"] == "list object has no element 0"


def test_service_that_is_away_keeps_nobody_waiting(database: Database) -> None:
    """What was tried less often comes first."""
    office = Office(database, make_target("a"), make_target("b"))
    office.record(1)
    office.notifier.trouble = "away"
    assert office.messenger.send_next(LATER_MS)
    office.notifier.trouble = ""
    assert office.messenger.send_next(LATER_MS + 1e6)
    assert [row[2] for row in office.rows()] == ["waiting", "sent"]


def test_server_leaves_alone_what_others_send(database: Database) -> None:
    """As long as their claim holds; and targets that it does not know."""
    office, other, stranger = (Office(database, *targets) for targets in ([make_target()], [make_target()], []))
    office.record(1)
    claimed = office.outbox.claim(LATER_MS)
    assert claimed is not None
    assert other.outbox.claim(LATER_MS + CLAIM_S * 1000 - 1) is None
    assert stranger.outbox.claim(LATER_MS + 1e9) is None
    again = other.outbox.claim(LATER_MS + CLAIM_S * 1000)
    assert again is not None
    office.outbox.end(claimed, "failed")  # too late: it is the other's
    other.outbox.end(again, "sent")
    assert office.rows() == [("team", "always", "sent", 2)]


def test_two_servers_send_each_message_once(database: Database) -> None:
    """Both at once, on many."""
    offices = [Office(database, make_target("a"), make_target("b")) for _ in range(2)]
    for number in range(20):
        offices[0].record(number)

    def work(office: Office) -> None:
        while any(state == "waiting" for _, _, state, _ in office.rows()):
            office.send_all()

    threads = [threading.Thread(target=work, args=(office,)) for office in offices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(office.notifier.titles) for office in offices) == 40


def test_what_is_no_news_any_more_is_given_up(database: Database) -> None:
    """So is what a server died over when it tried the last time, and what alerts have said is forgotten."""
    office = Office(database, make_target())
    office.record(1)
    office.outbox.sweep(time.time() * 1000 + STALE_S * 999)
    assert office.rows()[0][2] == "waiting"
    office.outbox.sweep(time.time() * 1000 + STALE_S * 1001)
    assert office.rows()[0][2] == "failed"
    office.record(2)
    now_ms = LATER_MS
    for _ in range(len(PAUSES_S) + 1):
        assert office.outbox.claim(now_ms) is not None
        now_ms += CLAIM_S * 1000
    assert office.outbox.claim(now_ms) is None
    office.outbox.sweep(now_ms)
    assert office.rows()[1][2] == "failed"
    with database.write() as connection:
        office.outbox.put(connection, about="alert x", to="team", reason="alert")
    office.outbox.sweep(LATER_MS + 31 * 86_400_000)
    assert len(office.rows()) == 2


def test_run_that_goes_takes_its_messages_along(database: Database) -> None:
    """And one that goes while a message waits is not told."""
    office = Office(database, make_target())
    office.record(1)
    Ledger(database).forget("0190-000001")
    assert office.rows() == []


# -- with a real service, and real servers


@pytest.fixture
def notifying(settings: Settings, hook: Webhook, tmp_path: Path) -> Settings:
    """The settings of a server that tells the receiver everything."""
    path = tmp_path / "server.toml"
    told = f'[notify.team]\nurl = "{hook.url}"\non = ["always", "first-failure"]\n'
    path.write_text(f'public-url = "https://h.example"\n{told}')
    return replace(settings, config=path)


def messages_of(settings: Settings) -> Iterator[tuple[str, int]]:
    """State and tries of all messages in a server's database."""
    database = Database(settings.database_url)
    with database.read() as connection:
        yield from [(row.state, row.tries) for row in connection.execute(select(notifications))]
    database.close()


def test_finished_run_is_told(notifying: Settings, pool: Pool, hook: Webhook) -> None:
    """By a server that runs; its page and its figures say so."""
    pool.finish("r1", 3, missing=[1])
    with serving(notifying) as served, httpx.Client(base_url=served.url) as client:
        wait_for(lambda: list(messages_of(notifying)) == [("sent", 1)], "the message is sent")
        [message] = hook.messages
        assert message["title"] == "shop: has begun to fail, 1 of 3 tests failed"
        assert message["type"] == "failure"
        assert "https://h.example/runs/r1" in message["message"]
        page = client.get("/runs/r1").text
        assert "Notified" in page
        assert "team" in page
        assert "first-failure, sent" in page
        assert 'supercheck_notifications_total{outcome="sent",target="team"} 1.0' in client.get("/metrics").text


def test_message_is_not_sent_before_the_record_is_stored(
    notifying: Settings, pool: Pool, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the receiver hears of it, the run's files are there."""
    parts = Parts(notifying)
    assert parts.messenger is not None
    pool.finish("r1")
    monkeypatch.setattr(parts.recorder._ledger, "write", lambda *_args, **_more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        parts.recorder.record_next()
    assert not parts.messenger.send_next(LATER_MS)
    monkeypatch.undo()
    pool.client.zadd("sc:ended", {"r1": 0}, xx=True)  # its claim has lapsed
    assert parts.recorder.record_next()
    assert parts.messenger.send_next(LATER_MS)
    assert hook.titles == ["shop: passed"]
    row = parts.history.run("r1")
    assert row is not None
    assert Archive(open_store(notifying.store)).load(row.folder).summary.id == "r1"
    parts.close()


def test_rebuilt_history_tells_nobody(notifying: Settings, pool: Pool, hook: Webhook, tmp_path: Path) -> None:
    """Neither by the command nor by a server that finds the runs in the store."""
    parts = Parts(notifying)
    pool.finish("r1", 3, missing=[1])
    assert parts.recorder.record_next()
    parts.close()
    ways: tuple[Callable[[Parts], object], ...] = (lambda new: new.recorder.adopt(), lambda new: rebuild(new.settings))
    for number, bring in enumerate(ways):
        anew = replace(notifying, database_url=f"sqlite:///{tmp_path}/new{number}.sqlite")
        new = Parts(anew)
        bring(new)
        assert new.history.run("r1") is not None
        assert list(messages_of(anew)) == []
        new.close()
    assert hook.messages == []


def test_server_killed_after_sending_leaves_the_message_to_others(
    notifying: Settings, pool: Pool, hook: Webhook, valkey_server: Valkey
) -> None:
    """At least once: what was taken and not noted comes a second time, and no third time."""
    parts = Parts(notifying)
    assert parts.messenger is not None
    pool.finish("r1")
    assert parts.recorder.record_next()
    environ = {**os.environ, "SUPERCHECK_REDIS_URL": valkey_server.url, "SUPERCHECK_CONFIG": str(notifying.config)}
    command = [sys.executable, "-c", DYING, str(notifying.data), str(LATER_MS)]
    died = subprocess.run(command, env=environ, timeout=60, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert len(hook.messages) == 1
    assert not parts.messenger.send_next(LATER_MS + CLAIM_S * 1000 - 1)
    assert parts.messenger.send_next(LATER_MS + CLAIM_S * 1000)
    assert len(hook.messages) == 2
    assert not parts.messenger.send_next(LATER_MS + 1e9)
    assert list(messages_of(notifying)) == [("sent", 2)]
    parts.close()


def test_refused_message_is_logged_without_the_address(
    notifying: Settings, pool: Pool, hook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    """What the service has answered is said; nothing of its address, in no logger."""
    caplog.set_level(logging.INFO)
    hook.answers = [500, 404]
    parts = Parts(notifying)
    assert parts.messenger is not None
    pool.finish("r1")
    parts.recorder.record_next()
    for number in range(3):
        assert parts.messenger.send_next(LATER_MS + number * 1e6)
    log = "\n".join(str(vars(record)) for record in caplog.records)
    assert "error=500" in log
    assert "error=404" in log
    assert "notification sent" in log
    for secret in ("sesame", "t0k3n", "127.0.0.1", "ada"):
        assert secret not in log.replace(str(notifying.data), "")
    assert "sesame" not in repr(vars(parts.messenger))
    parts.close()


def test_lost_run_is_told_as_that(
    notifying: Settings, pool: Pool, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as failing tests; to whom it concerns, although the pool knows nothing of it any more."""
    assert notifying.config is not None
    with notifying.config.open("a") as file:
        file.write(f'[notify.mainly]\nurl = "{hook.url}"\non = "failure"\nbranches = ["main"]\ntriggers = ["push"]\n')
    monkeypatch.setattr("supercheck_server.recorder.LOST_S", 0)
    parts = Parts(notifying)
    assert parts.messenger is not None
    spec = json.dumps({"origin": {"branch": "main", "trigger": "push"}})
    pool.submit("r1", nodeids=["a"], project="shop", spec=spec)
    parts.recorder.note_live()
    pool.client.flushall()
    assert parts.recorder.close_lost() == 1
    while parts.messenger.send_next(LATER_MS):
        pass
    assert hook.titles == ["shop, main: was lost"] * 2
    parts.close()


def test_run_that_is_made_once_more_is_told_by_the_last_attempt(notifying: Settings, pool: Pool, hook: Webhook) -> None:
    """Whatever became of the first."""
    parts = Parts(notifying)
    assert parts.messenger is not None
    source = {"git": "https://x/y"}
    parts.jobs.sync("shop", [(decode_job("nightly", {"retries": 1, "source": source}), None)])
    [job] = parts.jobs.known()
    runs = ["r1"]
    assert parts.starts.claim(job.no, 1000, Occasion(trigger="schedule", run="r1"))
    for attempt in (1, 2):
        pool.submit(runs[-1], nodeids=["a"], project="shop")
        pool.dispatcher.cancel(RunId(runs[-1]), outcome="lost", how="kill")
        assert parts.recorder.record_next()
        assert parts.messenger.send_next(LATER_MS) == (attempt == 2)
        runs.append(parts.starts.of(job.no)[0].run)
    assert hook.titles == ["shop/nightly: was lost"]
    assert runs[1] == runs[2]
    assert f"/runs/{runs[1]}" in hook.messages[0]["message"]
    parts.close()


# -- the configuration


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("[notify.a]\non = 'always'", "notify.a: .*either url or url-variable", id="no address"),
        pytest.param("[notify.a]\nurl = 'x'\nurl-variable = 'X'", "either url or url-variable", id="two addresses"),
        pytest.param("[notify.a]\nurl = 'sesame'\non = 'never'", "notify.a.on.*: Input should be", id="occasion"),
        pytest.param("[notify.a]\nurl = 'x'\ntitle = '{{ sesame'", "the template makes no sense", id="template"),
        pytest.param("[notify.'a b']\nurl = 'x'", "notify", id="name"),
        pytest.param("[notify.a]\nurl = 'x'\nurls = 'sesame'", "notify.a.urls: Extra inputs", id="unknown"),
        pytest.param("public-url = 'https://ada:sesame@x'", "public-url", id="public address with a password"),
    ],
)
def test_section_that_makes_no_sense_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """With the place, and without the value."""
    path = tmp_path / "server.toml"
    path.write_text(text)
    with pytest.raises(BadVariable, match=words) as caught:
        read_configuration(path)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        pytest.param("url-variable = 'SCT_NOWHERE'", r"notify.a.url-variable: SCT_NOWHERE: it is not set", id="unset"),
        pytest.param("url = 'sesame://x'", r"notify.a.url: neither apprise nor a plugin knows it", id="unknown"),
    ],
)
def test_server_does_not_start_with_an_address_that_is_none(settings: Settings, section: str, words: str) -> None:
    """And says which."""
    settings.data.mkdir()
    path = settings.data / "server.toml"
    path.write_text(f"[notify.a]\n{section}")
    with pytest.raises(BadVariable, match=words) as caught:
        Parts(replace(settings, config=path))
    assert "sesame" not in str(caught.value)


def test_apprise_is_needed_only_where_somebody_is_told(
    settings: Settings, notifying: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who needs it and has it not is told what to do."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    Parts(settings).close()
    with pytest.raises(NotifierMissing, match=r"pytest-supercheck\[notify\]"):
        Parts(notifying)


def test_foreign_trouble_is_no_reason_to_stop(hook: Webhook) -> None:
    """A service that nobody listens at."""
    with pytest.raises(NotSent, match="Connection error") as caught:
        Notifiers().send("json://ada:sesame@127.0.0.1:1/", Message(title="t", body="b", tone="good"))
    assert "127.0.0.1" not in str(caught.value)


def test_examples_of_the_guide_are_valid(tmp_path: Path) -> None:
    """As one file."""
    guide = Path(__file__).parents[2] / "docs" / "guides" / "notifications.md"
    blocks = re.findall(r"(?:^ {4}.*\n|^\n)+", guide.read_text("utf-8"), re.MULTILINE)
    path = tmp_path / "server.toml"
    path.write_text(textwrap.dedent("".join(block for block in blocks if "[" in block and " = " in block)))
    configuration = read_configuration(path)
    assert list(configuration.notify) == ["team", "archive", "ops", "chat"]
    assert configuration.notify["team"].on == ("first-failure", "recovery")
    assert configuration.alerts.failures is not None
    assert configuration.alerts.failures.at_least == 10


# -- by hand


@pytest.fixture
def by_hand(notifying: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command on the server's files."""
    monkeypatch.setenv("SUPERCHECK_DATA", str(notifying.data))
    monkeypatch.setenv("SUPERCHECK_CONFIG", str(notifying.config))
    return lambda *words: CliRunner().invoke(notify, words)


def test_sample_is_sent_by_hand(by_hand: Callable[..., Any], hook: Webhook) -> None:
    """And what keeps it from being taken is said."""
    hook.answers = [200, 500]
    assert by_hand("test", "team").output == "team: sent\n"
    assert hook.titles == ["sample, main: 1 of 41 tests failed"]
    refused = by_hand("test", "team")
    assert refused.exit_code == 69
    assert "error=500" in refused.output
    assert "sesame" not in refused.output
    unknown = by_hand("test", "nobody")
    assert unknown.exit_code == 2
    assert "no target 'nobody'; there are: team" in unknown.output


def test_by_hand_without_a_configuration(by_hand: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a variable of the server, and a shell may not have it."""
    monkeypatch.delenv("SUPERCHECK_CONFIG")
    for words in (("test", "team"), ("preview", "team", "r1")):
        done = by_hand(*words)
        assert done.exit_code == 2
        assert "SUPERCHECK_CONFIG is not set" in done.output


def test_preview_shows_what_is_sent_and_sends_nothing(
    by_hand: Callable[..., Any], notifying: Settings, pool: Pool, hook: Webhook
) -> None:
    """Word for word."""
    parts = Parts(notifying)
    assert parts.messenger is not None
    pool.finish("r1", 3, missing=[1])
    parts.recorder.record_next()
    shown = by_hand("preview", "team", "r1")
    assert shown.exit_code == 0, shown.output
    assert hook.messages == []
    assert parts.messenger.send_next(LATER_MS)
    [message] = hook.messages
    assert shown.output == f"{message['title']}\n\n{message['message']}\n"
    parts.close()
    assert "no recorded run 'r2'" in by_hand("preview", "team", "r2").output
    assert notifying.config is not None
    with notifying.config.open("a") as file:
        file.write('[notify.odd]\nurl = "json://localhost"\nbody = "{{ 1 / (run.passed - 2) }}"\n')
    assert "notify.odd: a template does not fit it" in by_hand("preview", "odd", "r1").output
