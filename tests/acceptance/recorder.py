"""
A pytest plugin that writes down what a session's hooks were told; loaded into both of the sessions that are compared.

Copied beside the suite and loaded by name, so it knows pytest only.  Test processes do not record what they report,
only that it was they who ran the tests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import pytest


def _append(path: str, *row: object) -> None:
    with open(path, "a", encoding="ascii") as file:
        file.write(json.dumps(row, default=repr) + "\n")


class Where:
    """Notes which process ran a test."""

    def __init__(self, path: str) -> None:
        self.path = path

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Called where the test runs."""
        _append(self.path, item.nodeid, os.getpid())


class Recorder:
    """Notes everything that reporting plugins of the local session get to see."""

    def __init__(self, path: str, config: pytest.Config) -> None:
        self.path = path
        self.config = config

    def pytest_runtest_logstart(self, nodeid: str, location: Sequence[Any]) -> None:
        """A test begins."""
        _append(self.path, "start", nodeid, location)

    def pytest_runtest_logfinish(self, nodeid: str, location: Sequence[Any]) -> None:
        """A test has ended."""
        _append(self.path, "finish", nodeid, location)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase has ended."""
        status: Any = self.config.hook.pytest_report_teststatus(report=report, config=self.config)
        own = {name: value for name, value in vars(report).items() if name not in ("start", "stop", "duration")}
        own["keywords"] = sorted(own["keywords"])
        own["longrepr"] = report.longreprtext
        _append(
            self.path, "report", report.nodeid, type(report).__name__, list(status or ("", "", "")), sorted(own.items())
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Something was collected."""
        if not report.passed:
            _append(self.path, "collect", report.nodeid, report.outcome, report.longreprtext)

    def pytest_warning_recorded(self, warning_message: Any, when: str, nodeid: str, location: object) -> None:
        """A warning was issued."""
        kinds = [kind.__name__ for kind in warning_message.category.__mro__]
        where = [warning_message.filename, warning_message.lineno]
        _append(self.path, "warning", nodeid, when, kinds, str(warning_message.message), where, location)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Tests were left out."""
        for item in items:
            _append(self.path, "deselected", item.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """The end."""
        figures = [int(exitstatus), session.testscollected, session.testsfailed]
        _append(self.path, "session", "", *figures, session.shouldfail, session.shouldstop)


def pytest_configure(config: pytest.Config) -> None:
    """Called in every process that loads the plugin."""
    path = os.environ["ACCEPTANCE_RECORD"]
    config.pluginmanager.register(Where(f"{path}.where"))
    if not hasattr(config, "workerinput"):
        _append(f"{path}.where", "", os.getpid())
        config.pluginmanager.register(Recorder(path, config))
