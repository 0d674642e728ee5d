"""
The event that tells what a run consists of → a session that has not collected it itself.

Before replay, in the local session; `listing` is its other end.  Knows pytest's collection, not where events come from.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_supercheck import events
from pytest_supercheck.events import Collected, Listed
from pytest_supercheck.replay import RemoteRepr, revive_warning


class RemoteItem(pytest.Item):
    """A test that has been collected elsewhere, and runs there."""

    _told: tuple[str, int | None, str] = ("", None, "")

    @classmethod
    def of(cls, session: pytest.Session, listed: Listed) -> RemoteItem:
        """Make the item."""
        path, name = session.config.rootpath / listed.location[0], listed.nodeid.rpartition("::")[2]
        made: RemoteItem = cls.from_parent(session, name=name, nodeid=listed.nodeid, path=path)
        made.keywords = dict.fromkeys(listed.keywords, 1)
        made._told = listed.location
        return made

    @property
    def location(self) -> tuple[str, int | None, str]:
        """As where it was collected."""
        return self._told

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """As of an item."""
        return self.path, self._told[1], self._told[2]

    def runtest(self) -> None:
        """Never called: its results come from elsewhere."""
        raise NotImplementedError


def restore(session: pytest.Session, collected: Collected) -> None:
    """Make a session what it would be if it had collected the run's tests itself, by the hooks that tell of it."""
    config = session.config
    session.items = [RemoteItem.of(session, listed) for listed in collected.items]
    session.testscollected = len(session.items)
    gone = [RemoteItem.of(session, Listed(nodeid, ("", None, nodeid), ())) for nodeid in collected.deselected]
    found = pytest.CollectReport(nodeid="", outcome="passed", longrepr=None, result=[*session.items, *gone])
    config.hook.pytest_collectreport(report=found)
    for data in collected.reports:
        report = config.hook.pytest_report_from_serializable(config=config, data=data)
        if report is None:
            raise events.WireError(f"no plugin reads this report: {data!r}")
        if isinstance(report.longrepr, str):  # a failure that is no traceback, which summaries do not quote
            report.longrepr = RemoteRepr(report.longrepr + "\n")
        config.hook.pytest_collectreport(report=report)
    if gone:
        config.hook.pytest_deselected(items=gone)
    for described, nodeid, location in collected.warnings:
        config.hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": revive_warning(described),
                "when": "collect",
                "nodeid": nodeid,
                "location": location,
            }
        )
