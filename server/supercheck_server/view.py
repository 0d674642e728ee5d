"""
The pool at one moment, arranged for showing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

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
        return cls(queue=dispatcher.queue(), pool=dispatcher.pool())

    def executions_by_run(self) -> dict[str, list[PoolExecution]]:
        """The executions of each run, by number."""
        found = defaultdict[str, list[PoolExecution]](list)
        for execution in self.pool.executions:
            found[execution.run].append(execution)
        return dict(found)
