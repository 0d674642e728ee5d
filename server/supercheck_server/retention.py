"""
Which runs go, by age and by number, and that they go from the store and the history together.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from supercheck_server.history import History, RunFilter
from supercheck_server.ledger import Ledger
from supercheck_server.rows import RunRow
from supercheck_server.shelf import Shelf

logger = logging.getLogger(__name__)

#: Runs that go in one sweep, so that recording does not wait for long; the next sweep goes on.
SWEEP: Final = 50


class Retention:
    """The rule and its execution; without a rule, everything stays."""

    def __init__(
        self, *, history: History, ledger: Ledger, shelf: Shelf, days: int | None, runs_per_project: int | None
    ) -> None:
        self._history = history
        self._ledger = ledger
        self._shelf = shelf
        self._days = days
        self._runs_per_project = runs_per_project

    def sweep(self, now_ms: float) -> int:
        """
        Remove runs that are too old or too many, some at a time; harmless to repeat.

        Args:
            now_ms: The time, ms since 1970.

        Returns:
            How many went.

        Raises:
            SupercheckError: The store or the database cannot be used; what is left goes later.
        """
        gone = 0
        for row in self._too_many(now_ms):
            if gone == SWEEP:
                break
            # The store first: a row without files is repaired by the next sweep, files without a row by nobody.
            self._shelf.remove(row.folder)
            self._ledger.forget(row.id)
            gone += 1
        if gone:
            logger.info("runs removed", extra={"runs": gone})
        if self._days is not None and gone < SWEEP:
            self._ledger.forget_tests(_before(now_ms, self._days))
        return gone

    def _too_many(self, now_ms: float) -> Iterator[RunRow]:
        if self._days is not None:
            yield from self._recorded(self._history.oldest(before_ms=_before(now_ms, self._days), limit=SWEEP))
        if self._runs_per_project is not None:
            for project in self._history.choices("project"):
                kept = self._history.nth(project, self._runs_per_project)
                if kept is not None:
                    yield from self._recorded(self._history.runs(RunFilter(project=project), after=kept.key))

    def _recorded(self, rows: list[RunRow]) -> Iterator[RunRow]:
        return (row for row in rows if row.folder)


def _before(now_ms: float, days: int) -> int:
    return int(now_ms - days * 86_400_000)
