"""
The pool at one moment, arranged for showing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.model import PoolExecution, PoolStatus, QueueStatus


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
