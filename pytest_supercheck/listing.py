"""
What a run consists of, told by whoever has collected it to those who have not.

Between collection and offer; `restore` is its other end.  Runs inside the user's environment: stdlib, pytest and this
package's wire format only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pytest_supercheck import events
from pytest_supercheck.events import Collected, Listed
from pytest_supercheck.recorder import describe_warning


class Lister:
    """The plugin that notes what collection says beside its items."""

    def __init__(self) -> None:
        self._reports: list[pytest.CollectReport] = []
        self._warnings: list[tuple[dict[str, Any], str, Any]] = []
        self._deselected: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Of those that passed the items tell everything."""
        if not report.passed:
            self._reports.append(report)

    def pytest_warning_recorded(self, warning_message: Any, when: str, nodeid: str, location: Any) -> None:
        """Also those from before this plugin was there: the hook is a historic one."""
        if when != "runtest":
            self._warnings.append((describe_warning(warning_message), nodeid, location))

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """By `-k`, `-m`, `--deselect` or a plugin."""
        self._deselected += [item.nodeid for item in items]

    def tell(self, session: pytest.Session, places: Sequence[int], *, trouble: bool = False) -> bytes:
        """
        The event that tells it all.

        Args:
            session: Collected.
            trouble: Whether none of it runs.
            places: Of each item, by its index in the run, its place in the session.
        """
        config = session.config
        reports = (config.hook.pytest_report_to_serializable(config=config, report=report) for report in self._reports)
        return events.encode_collected(
            Collected(
                items=tuple(Listed(item.nodeid, item.location, tuple(item.keywords)) for item in session.items),
                places=None if list(places) == list(range(len(places))) else tuple(places),
                deselected=tuple(self._deselected),
                reports=tuple(report for report in reports if report is not None),
                warnings=tuple(self._warnings),
                trouble=trouble,
            )
        )
