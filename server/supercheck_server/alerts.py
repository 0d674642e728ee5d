"""
What operators are told of the pool: the section `[alerts]`, and who looks when at what it names.

Looked at once a minute by one of the servers that share a database; that keeps what is known from look to look.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final, Literal

from pydantic import Field, model_validator
from sqlalchemy import Connection, literal, or_, select, update

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import Unreachable
from supercheck_server.database import Database
from supercheck_server.history import History
from supercheck_server.ledger import key_of, short
from supercheck_server.messages import Message, make_message, plain
from supercheck_server.notifications import WRONG, Outbox
from supercheck_server.render import seconds_text
from supercheck_server.rows import Reason
from supercheck_server.section import Section
from supercheck_server.tables import alerts

#: Seconds that have passed at least since the last look, by whichever server.
LOOK_S: Final = 55


class AlertSection(Section):
    """What every alert has."""

    #: Seconds that it has to be so before somebody is told.
    for_: float = Field(default=0, ge=0)
    #: Seconds from one message that it is so to the next.
    cool_down: float = Field(default=3600, ge=0)


class Above(AlertSection):
    """It is not as it should be while a figure is greater than this."""

    above: float = Field(ge=0)


class Below(AlertSection):
    """It is not as it should be while a figure is less than this."""

    below: int = Field(ge=1)


class Rate(AlertSection):
    """It is not as it should be while a share of the latest runs is greater than this."""

    above: float = Field(ge=0, lt=1)
    #: Seconds that runs count from their submission on.
    window: float = Field(default=3600, ge=60)
    #: Fewer runs say nothing.
    at_least: int = Field(default=5, ge=1)


class Missed(Section):
    """Starts of jobs by schedule that did not happen, or failed."""

    #: Seconds from one message about a job to the next.
    cool_down: float = Field(default=0, ge=0)


class AlertsSection(Section):
    """The section; what is missing is not looked at."""

    #: Names of targets.
    to: tuple[str, ...] = ()
    #: Runs that wait.
    queue: Above | None = None
    #: Seconds for which the run has waited that has waited longest.
    wait: Above | None = None
    #: Runs that failed or were lost.
    failures: Rate | None = None
    #: Worker processes that take work.
    workers: Below | None = None
    #: Starts of jobs by schedule that were missed, or have failed.
    missed: Missed = Missed()

    @model_validator(mode="after")
    def _somebody_is_told(self) -> AlertsSection:
        if self.model_fields_set and not self.to:
            raise ValueError("'to' has to name who is told")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at something has found."""

    #: The alert's name.
    name: str
    #: Its rule.
    rule: AlertSection
    #: Whether it is not as it should be; None when that cannot be said.
    is_bad: bool | None
    #: How it is, in words.
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is known of an alert."""

    #: Since when it is not as it should be, ms since 1970; None while it is.
    since_ms: int | None = None
    #: When that was told last; None for never.
    told_ms: int | None = None
    #: Whether the end of that is still to be told.
    is_open: bool = False


def step(state: State, look: Look, now_ms: int) -> tuple[State, Literal["alert", "resolved"] | None]:
    """What is known after one more look, and what is to be told."""
    if look.is_bad is None:
        return state, None
    if not look.is_bad:
        return State(told_ms=state.told_ms), "resolved" if state.is_open else None
    since_ms = now_ms if state.since_ms is None else state.since_ms
    has_lasted = now_ms - since_ms >= look.rule.for_ * 1000
    is_cool = state.told_ms is None or now_ms - state.told_ms >= look.rule.cool_down * 1000
    if state.is_open or not (has_lasted and is_cool):
        return State(since_ms=since_ms, told_ms=state.told_ms, is_open=state.is_open), None
    return State(since_ms=since_ms, told_ms=now_ms, is_open=True), "alert"


class Alerts:
    """The looks, and who is told what they find."""

    def __init__(
        self,
        *,
        rules: AlertsSection,
        dispatcher: Dispatcher,
        database: Database,
        history: History,
        outbox: Outbox,
        public_url: str,
    ) -> None:
        self._rules = rules
        self._dispatcher = dispatcher
        self._database = database
        self._history = history
        self._outbox = outbox
        self._link = f"{public_url}/queue" if public_url else ""

    def look(self, now_ms: float) -> None:
        """
        Look at everything that the configuration names, unless a server has just done so.

        Args:
            now_ms: The time, ms since 1970.

        Raises:
            SupercheckError: The database cannot be used, or the pool breaks.
        """
        for look in [*self._look_at_pool(now_ms), *self._look_at_runs(now_ms)]:
            self._note(look, round(now_ms))

    def missed(self, connection: Connection, job: str, due_ms: int, reason: str) -> None:
        """
        Tell that a job was not started when it was due, in the transaction that notes it; harmless to repeat.

        Args:
            job: Its name, with its project's.
            due_ms: When, ms since 1970.
            reason: Why not.
        """
        if not self._rules.to:
            return
        name, now_ms = short(f"missed {job}"), round(time.time() * 1000)
        about = f"missed {key_of(job, str(due_ms))}"
        body = f"It was due at {_clock(due_ms)}: {plain(reason)}"
        last = now_ms - self._rules.missed.cool_down * 1000
        self._know(connection, name)
        # Without a cool-down another server's clock, ahead of ours, keeps nothing back.
        cool = or_(literal(not self._rules.missed.cool_down), alerts.c.told_ms.is_(None), alerts.c.told_ms <= last)
        if connection.execute(update(alerts).where(alerts.c.name == name, cool).values(told_ms=now_ms)).rowcount:
            self._tell(connection, about, "missed", f"Missed: {plain(job)} was not started", body)

    def _look_at_pool(self, now_ms: float) -> Iterator[Look]:
        queue, wait, workers = self._rules.queue, self._rules.wait, self._rules.workers
        if not (queue or wait or workers):
            return
        try:
            seen = self._dispatcher.queue()
        except Unreachable:
            if workers is not None:
                words = f"the pool cannot be reached; {workers.below} worker processes should take work"
                yield Look(name="workers", rule=workers, is_bad=True, words=words)
            return
        if queue is not None:
            words = f"{seen.figures.waiting} runs wait; {queue.above:g} may"
            yield Look(name="queue", rule=queue, is_bad=seen.figures.waiting > queue.above, words=words)
        if wait is not None:
            waits = [now_ms - run.submitted_ms for run in seen.runs if run.state == "waiting"]
            wait_s = max(waits, default=0) / 1000
            words = f"the longest wait of a run is {seconds_text(wait_s)}; {seconds_text(wait.above)} may be"
            yield Look(name="wait", rule=wait, is_bad=wait_s > wait.above, words=words)
        if workers is not None:
            words = f"{seen.figures.workers} worker processes take work; {workers.below} should"
            yield Look(name="workers", rule=workers, is_bad=seen.figures.workers < workers.below, words=words)

    def _look_at_runs(self, now_ms: float) -> Iterator[Look]:
        rule = self._rules.failures
        if rule is None:
            return
        verdicts = self._history.verdicts(int(now_ms - rule.window * 1000))
        bad = sum(verdicts.get(verdict, 0) for verdict in WRONG)
        count = bad + verdicts.get("passed", 0)
        window = seconds_text(rule.window)
        words = f"{bad} of {count} runs of the last {window} failed or were lost; {rule.above:.0%} may"
        is_bad = bad / count > rule.above if count >= rule.at_least else None
        yield Look(name="failures", rule=rule, is_bad=is_bad, words=words)

    def _note(self, look: Look, now_ms: int) -> None:
        with self._database.write() as connection:
            self._know(connection, look.name)
            mine = (alerts.c.name == look.name, alerts.c.looked_ms <= now_ms - LOOK_S * 1000)
            if not connection.execute(update(alerts).where(*mine).values(looked_ms=now_ms)).rowcount:
                return
            row = connection.execute(select(alerts).where(alerts.c.name == look.name)).one()
            known = State(since_ms=row.since_ms, told_ms=row.told_ms, is_open=bool(row.is_open))
            state, news = step(known, look, now_ms)
            values = {"since_ms": state.since_ms, "told_ms": state.told_ms, "is_open": int(state.is_open)}
            connection.execute(update(alerts).where(alerts.c.name == look.name).values(values))
            if news is not None:
                since = f"It was so from {_clock(known.since_ms or now_ms)} on."
                about = f"{news} {look.name} {now_ms}"
                self._tell(connection, about, news, f"{news.capitalize()}: {look.words}", since)

    def _know(self, connection: Connection, name: str) -> None:
        connection.execute(self._database.insert(alerts).values(name=name).on_conflict_do_nothing())

    def _tell(self, connection: Connection, about: str, reason: Reason, title: str, body: str) -> None:
        message: Message = make_message(title, f"{body}\n{self._link}", tone="bad")
        for name in self._rules.to:
            self._outbox.put(connection, about=about, to=name, reason=reason, message=message)


def _clock(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
