"""
The pool at one moment, arranged for showing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any, Final

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.model import JobId, PoolExecution, PoolStatus, QueuedRun, QueueStatus, RunId

#: Lines of a run's log that are shown.
LOG_LINES: Final = 30
#: Stands for ids and names of what belongs to other projects; no id looks like it.
HIDDEN: Final = "?"
#: What became of a run, by the kind of its state's entry; `dispatch.lua` writes them.
LOG_WORDS: Final = {
    "submitted": "submitted",
    "promoted": "execution {n} promoted to {worker}",
    "begin": "execution {n} begins on {worker}",
    "chunk": "execution {n} takes {count} of the tests, from number {a}",
    "yield": "execution {n} is to leave: another run waits for a slot",
    "left": "execution {n} has left",
    "lapsed": "execution {n} was lost with {worker}; what it had not reported is given out again",
    "end": "ended: {outcome}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """Runs and executions together."""

    #: The figures and the runs.
    queue: QueueStatus
    #: The workers and the executions.
    pool: PoolStatus

    @classmethod
    def look(cls, dispatcher: Dispatcher, project: str = "") -> QueueView:
        """
        Ask the dispatcher, twice: something may have happened between.

        Args:
            project: Of what belongs to others, only that it exists is shown; empty for all.
        """
        queue = dispatcher.queue()
        runs = tuple(one if project in ("", one.project) else _hide_run(one) for one in queue.runs)
        return cls(queue=replace(queue, runs=runs), pool=look_at_pool(dispatcher, project))

    def executions_by_run(self) -> dict[str, list[PoolExecution]]:
        """The executions of each run that is not hidden, by number."""
        found = defaultdict[str, list[PoolExecution]](list)
        for execution in self.pool.executions:
            if execution.run != HIDDEN:
                found[execution.run].append(execution)
        return dict(found)


def look_at_pool(dispatcher: Dispatcher, project: str = "") -> PoolStatus:
    """
    The workers and the executions, with the ids of their tests as pytest has them.

    Args:
        project: As of `QueueView.look`.
    """
    pool = dispatcher.pool()
    executions = [replace(one, nodeid=nodeid_of(one.nodeid) if one.nodeid else "") for one in pool.executions]
    if not project:
        return replace(pool, executions=tuple(executions))
    shown = {"", *(one.job for one in executions if one.project == project)}
    return replace(
        pool,
        workers=tuple(one if one.job in shown else replace(one, job=HIDDEN) for one in pool.workers),
        executions=tuple(one if one.job in shown else _hide_execution(one) for one in executions),
    )


def _hide_run(run: QueuedRun) -> QueuedRun:
    """That a run exists: its place and slots in the pool, nothing of whose it is and how it goes."""
    return replace(
        run, run=RunId(HIDDEN), project=HIDDEN, done=0, total=None, eta_s=None, submitted_ms=0, started_ms=None,
        waits_for=HIDDEN if run.waits_for else "",
    )  # fmt: skip


def _hide_execution(execution: PoolExecution) -> PoolExecution:
    return replace(
        execution, job=JobId(HIDDEN), run=RunId(HIDDEN), project=HIDDEN, n=0, attempt=0, item=None, nodeid=""
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """What happened to a run."""

    #: When, ms since 1970.
    at_ms: int
    #: In words.
    text: str


def log_of(dispatcher: Dispatcher, run: RunId) -> list[LogLine]:
    """What happened to a run lately, the newest first; empty when that is not known any more."""
    lines = []
    for raw in dispatcher.last_states(run, LOG_LINES):
        state = json.loads(raw)
        words = LOG_WORDS.get(state["t"], state["t"])
        lines.append(LogLine(at_ms=state["at"], text=words.format_map(defaultdict(str, _words(state)))))
    return lines


def _words(state: dict[str, Any]) -> dict[str, Any]:
    words = {name: str(value) for name, value in state.items()}
    words["n"] = str(state.get("job", "")).rpartition("-")[0].rpartition("-")[2]
    words["count"] = str(state.get("b", 0) - state.get("a", 0) + 1)
    return words


def nodeid_of(name: str) -> str:
    """
    The nodeid of an item, from its name on the wire.

    Args:
        name: As `transcript.wire_nodeids` has it, or whatever else a client has sent.
    """
    try:
        parsed = json.loads(name)
    except (ValueError, RecursionError):
        return name
    return str(parsed[0]) if isinstance(parsed, list) and parsed else str(parsed)
