"""
The pool at one moment, arranged for showing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any, Final

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.model import PoolExecution, PoolStatus, QueueStatus, RunId

#: Lines of a run's log that are shown.
LOG_LINES: Final = 30
#: What became of a run, by the kind of its state's entry; `dispatch.lua` writes them.
LOG_WORDS: Final = {
    "submitted": "submitted",
    "promoted": "execution {n} promoted to {worker}",
    "begin": "execution {n} begins on {worker}",
    "chunk": "execution {n} takes {count} of the tests, from number {a}",
    "yield": "execution {n} is to leave: run {for} waits for a slot",
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
    def look(cls, dispatcher: Dispatcher) -> QueueView:
        """Ask the dispatcher, twice: something may have happened between."""
        return cls(queue=dispatcher.queue(), pool=look_at_pool(dispatcher))

    def executions_by_run(self) -> dict[str, list[PoolExecution]]:
        """The executions of each run, by number."""
        found = defaultdict[str, list[PoolExecution]](list)
        for execution in self.pool.executions:
            found[execution.run].append(execution)
        return dict(found)


def look_at_pool(dispatcher: Dispatcher) -> PoolStatus:
    """The workers and the executions, with the ids of their tests as pytest has them."""
    pool = dispatcher.pool()
    executions = (replace(one, nodeid=nodeid_of(one.nodeid) if one.nodeid else "") for one in pool.executions)
    return replace(pool, executions=tuple(executions))


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
