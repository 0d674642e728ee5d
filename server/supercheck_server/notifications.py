"""
What is to be sent to whom: settled once per run, in the transaction that records it, and taken up by one server.

Between the ledger, which says that a run is new, and the messenger, which sends.  Knows no text but an alert's.
A server that is killed between sending a message and noting that leaves its claim: when that lapses, the message is
sent again.  So each is sent at least once, and twice only then, or when a service takes it without saying so.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select, update

from pytest_supercheck.errors import BadJob
from pytest_supercheck.jobs import REASONS, On, Subscription, decode_job
from supercheck_server.database import Database
from supercheck_server.messages import Message
from supercheck_server.rows import Reason, RunRow
from supercheck_server.tables import jobs, notifications, run_key, runs, starts
from supercheck_server.targets import Target

logger = logging.getLogger(__name__)

#: Seconds after which a message is another server's to send: longer than sending may take.
CLAIM_S: Final = 60
#: Seconds from a try to the next one; there is one try more than there are pauses.
PAUSES_S: Final = (10, 30, 120, 600, 3600)
#: Seconds after which a message is no news any more, and after which nobody asks what became of an alert's.
STALE_S: Final = 24 * 3600
KEPT_S: Final = 30 * 24 * 3600

#: Runs of a branch among which the one is looked for with which a run is compared.
BACK: Final = 1000

#: Verdicts with which something is wrong, if not with the tests: nobody has ended these runs on purpose.
WRONG: Final = frozenset({"failed", "fatal", "lost", "timeout"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A message that a server has taken up to send."""

    #: Its number.
    no: int
    #: The run that it is about; empty for an alert's.
    run: str
    #: The target's name.
    target: str
    #: Why it is sent.
    reason: Reason
    #: What an alert says.
    title: str
    body: str
    #: Which try it is, from 1.
    tries: int


class Outbox:
    """The messages of all servers that share a database."""

    def __init__(self, database: Database, targets: Mapping[str, Target]) -> None:
        self._database = database
        self._targets = targets

    def note(self, connection: Connection, run: str) -> None:
        """Note who is to be told of a run that has just been recorded, in the transaction that does that."""
        row = next(_runs(connection, runs.c.id == run), None)
        if row is None:
            return
        job, wanted = _job(connection, run)
        subscriptions = [Subscription(to=name, on=on) for name, one in self._targets.items() for on in one.section.on]
        subscriptions += wanted
        hearing = [target for target in self._targets.values() if target.hears_of(row)]
        if not {one.to for one in subscriptions} & {target.name for target in hearing}:
            return
        # Of two runs of a branch that are recorded at once, one is the first that fails.
        self._database.lock(connection, f"{row.project}\n{row.branch}")
        for target in hearing:
            mine = [one for one in subscriptions if one.to == target.name]
            for to, reason in addressed(mine, reasons(row, _latest(connection, row, job, target))).items():
                self.put(connection, about=run_key(run), to=to, reason=reason)

    def put(
        self, connection: Connection, *, about: str, to: str, reason: Reason, message: Message | None = None
    ) -> None:
        """Note a message; the first one that a target has about something is the only one."""
        now_ms = round(time.time() * 1000)
        values = {"about": about, "target": to, "reason": reason, "state": "waiting", "made_ms": now_ms}
        text = {"title": message.title, "body": message.body} if message else {}
        statement = self._database.insert(notifications).values(**values, **text, due_ms=now_ms)
        connection.execute(statement.on_conflict_do_nothing())

    def claim(self, now_ms: float) -> Letter | None:
        """Take up a message that is due; None when there is none, or another server was faster."""
        due = select(notifications).where(
            notifications.c.state == "waiting",
            notifications.c.due_ms <= now_ms,
            notifications.c.tries <= len(PAUSES_S),
            notifications.c.target.in_(list(self._targets)),
        )
        with self._database.read() as connection:
            # A service that is away keeps nobody else waiting.
            row = connection.execute(due.order_by(notifications.c.tries, notifications.c.due_ms).limit(1)).one_or_none()
        if row is None or not self._set(row.no, row.tries, tries=row.tries + 1, due_ms=int(now_ms) + CLAIM_S * 1000):
            return None
        return Letter(
            no=row.no,
            run=row.about.removeprefix(run_key("")) if row.about.startswith(run_key("")) else "",
            target=row.target,
            reason=row.reason,
            title=row.title,
            body=row.body,
            tries=row.tries + 1,
        )

    def end(self, letter: Letter, state: Literal["sent", "failed"]) -> None:
        """Note what became of a message."""
        self._set(letter.no, letter.tries, state=state)

    def put_off(self, letter: Letter, now_ms: float) -> bool:
        """Note that a message was not taken; False when that was the last try."""
        if letter.tries > len(PAUSES_S):
            self.end(letter, "failed")
            return False
        self._set(letter.no, letter.tries, due_ms=int(now_ms) + PAUSES_S[letter.tries - 1] * 1000)
        return True

    def sweep(self, now_ms: float) -> None:
        """Give up what is no news any more, or was the last thing that a server tried; forget what alerts have said."""
        waiting = notifications.c.state == "waiting"
        stale = notifications.c.made_ms < now_ms - STALE_S * 1000
        tried = and_(notifications.c.tries > len(PAUSES_S), notifications.c.due_ms <= now_ms)
        old = notifications.c.made_ms < now_ms - KEPT_S * 1000
        with self._database.write() as connection:
            lapsed = update(notifications).where(waiting, or_(stale, tried))
            given_up = connection.execute(lapsed.values(state="failed")).rowcount
            connection.execute(delete(notifications).where(old, ~notifications.c.about.startswith(run_key(""))))
        if given_up:
            logger.warning("notifications given up", extra={"notifications": given_up})

    def _set(self, no: int, tried: int, /, **values: object) -> bool:
        """Change a message unless another server has had it since."""
        mine = (notifications.c.no == no, notifications.c.tries == tried, notifications.c.state == "waiting")
        with self._database.write() as connection:
            return connection.execute(update(notifications).where(*mine).values(values)).rowcount == 1


def reasons(run: RunRow, latest: RunRow | None) -> frozenset[On]:
    """
    The reasons to tell of a run.

    Args:
        latest: The last submitted one of the other runs that it is compared with, which have a verdict of their tests.
            Where that is newer than the run, the run is overtaken and begins and ends nothing.
    """
    found: set[On] = {"always"}
    if run.verdict in WRONG:
        found.add("failure")
    is_overtaken = latest is not None and (latest.submitted_ms, latest.no) > (run.submitted_ms, run.no)
    if run.total and not is_overtaken:
        was_failing = latest is not None and latest.verdict == "failed"
        if run.verdict == "failed" and not was_failing:
            found.add("first-failure")
        if run.verdict == "passed" and was_failing:
            found.add("recovery")
    return frozenset(found)


def addressed(subscriptions: Iterable[Subscription], found: frozenset[On]) -> dict[str, On]:
    """Who is told, and the most telling reason that each has asked for."""
    told: dict[str, On] = {}
    for one in sorted(subscriptions, key=lambda one: REASONS.index(one.on)):
        if one.on in found:
            told.setdefault(one.to, one.on)
    return told


def _job(connection: Connection, run: str) -> tuple[int | None, list[Subscription]]:
    """The number of the job whose run it is, None for nobody's, and who is told because the job says so."""
    found = select(jobs.c.no, jobs.c.name, jobs.c.definition).join(starts, starts.c.job_no == jobs.c.no)
    row = connection.execute(found.where(starts.c.run == run)).first()
    if row is None:
        return None, []
    try:
        job = decode_job(row.name, json.loads(row.definition))
    except (BadJob, ValueError):  # of another release
        return row.no, []
    return row.no, [Subscription(to=one.to, on=one.on) for one in job.notify]


def _latest(connection: Connection, run: RunRow, job: int | None, target: Target) -> RunRow | None:
    """
    What a run is compared with, as a target has heard of it.

    A job's runs are compared with each other, and all others of the branch: they run other tests. So are those of a
    pull request, whose branch may be a fork's and have the name of one of ours. Nobody looks back further than `BACK`.
    """
    its_runs = select(starts.c.run).where(starts.c.job_no == job) if job is not None else select(starts.c.run)
    is_alike = runs.c.id.in_(its_runs) if job is not None else runs.c.id.not_in(its_runs)
    others = _runs(
        connection,
        is_alike,
        runs.c.project == run.project,
        runs.c.branch == run.branch,
        runs.c.pull_request == run.pull_request,
        runs.c.verdict.in_(("passed", "failed")),
        runs.c.total > 0,
        runs.c.no != run.no,
    )
    with contextlib.closing(others):
        return next((other for other in islice(others, BACK) if target.hears_of(other)), None)


def _runs(connection: Connection, *conditions: ColumnElement[bool]) -> Generator[RunRow, None, None]:
    """Runs, the last submitted first, read as far as somebody wants them."""
    query = select(*(runs.c[name] for name in RunRow.__slots__)).where(*conditions)
    query = query.order_by(runs.c.submitted_ms.desc(), runs.c.no.desc())
    with connection.execute(query, execution_options={"stream_results": True, "max_row_buffer": 20}) as found:
        for row in found.mappings():
            yield RunRow(**{**row, "delivered": bool(row["delivered"])})
