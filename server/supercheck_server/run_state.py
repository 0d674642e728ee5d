"""
Where a run stands, alive or recorded, and whose it is.

Between the dispatcher and the history, which know it together, and routes and pages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import UnknownRun
from pytest_supercheck.model import RunId
from supercheck_server.api import RUN_ID
from supercheck_server.history import History
from supercheck_server.rows import RunRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run, alive or recorded."""

    #: Its id and whose it is.
    run: str
    project: str
    #: `waiting`, `running`, `stopping` or `ended`.
    state: str
    #: `live`, `passed`, `failed`, or what ended it.
    verdict: str
    #: What ended it, and in words; empty while it lives.
    outcome: str
    message: str
    #: Tests reported, tests in all (null while unknown), and the share in percent.
    done: int
    total: int | None
    percent: float
    #: Executions that hold a slot; place in the queue from 1, 0 for none; seconds until a slot is likely.
    held: int
    position: int
    eta_s: float | None
    #: The concurrency group in which it waits for its turn, where it has the position; empty when it does not.
    waits_for: str
    #: Executions that have begun so far, each a number and how often it was given out.
    attempts: tuple[str, ...]
    #: Times, ms since 1970.
    submitted_ms: int | None
    started_ms: int | None
    ended_ms: int | None
    #: The run's row in the history; null while there is none.
    record: RunRow | None


def look_at_run(dispatcher: Dispatcher, history: History, run: str) -> Run:
    """
    Look where a run stands, in the pool or in the history.

    Raises:
        UnknownRun: Neither knows it.
    """
    record = history.run(run)
    details = dispatcher.details(RunId(run))
    status = dispatcher.look(RunId(run)) if details else None
    if details is None or status is None or status.state == "gone":
        if record is None:
            raise UnknownRun
        return _recorded(record)
    return Run(
        run=run,
        project=details.project,
        state=status.state,
        verdict=record.verdict if record else "live",
        outcome=status.outcome,
        message=status.message,
        done=status.done,
        total=status.total,
        percent=_percent(status.done, status.total),
        held=status.held,
        position=status.position,
        eta_s=status.eta_s,
        waits_for=status.waits_for,
        attempts=details.attempts,
        submitted_ms=details.submitted_ms,
        started_ms=details.started_ms,
        ended_ms=details.ended_ms,
        record=record,
    )


def _recorded(record: RunRow) -> Run:
    return Run(
        run=record.id,
        project=record.project,
        state="ended",
        verdict=record.verdict,
        outcome=record.outcome,
        message=record.message,
        done=record.done,
        total=record.total,
        percent=_percent(record.done, record.total),
        held=0,
        position=0,
        eta_s=None,
        waits_for="",
        attempts=(),
        submitted_ms=record.submitted_ms,
        started_ms=record.started_ms,
        ended_ms=record.ended_ms,
        record=record,
    )


def _percent(done: int, total: int | None) -> float:
    if total is None:
        return 0.0
    return round(100 * done / total, 1) if total else 100.0


def projects_of(dispatcher: Dispatcher, history: History, run: str) -> set[str]:
    """
    The projects that a run's id belongs to, as the pool and the history know it.

    Ids are made by clients: of two, somebody has taken the id of another's run.
    """
    if not re.match(RUN_ID, run):
        return set()
    record = history.run(run)
    return {name for name in (dispatcher.project(RunId(run)), record.project if record else None) if name is not None}


def cancel_run(dispatcher: Dispatcher, run: str, *, visitor: str, now: bool) -> None:
    """
    Cancel a run in somebody's name.

    Args:
        visitor: Who it was; goes into the run's message.
        now: Kill the tests that run instead of letting them finish.
    """
    words = f"cancelled through the server by {visitor}"
    dispatcher.cancel(RunId(run), outcome="cancelled", how="kill" if now else "leave", message=words)
