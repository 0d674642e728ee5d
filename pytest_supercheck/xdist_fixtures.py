"""
What other plugins find where xdist is loaded, for sessions where it is not: two fixtures and its hooks.

A plugin of every session, with `--supercheck` or without, and of test processes, so that a suite which uses them runs
anywhere; stdlib and pytest only.  As in pytest-xdist 3.8.
"""

from __future__ import annotations

from typing import Any

import pytest


class Hookspecs:
    """The hooks of xdist's newhooks.py that concern executions; `node` is a `xdist_protocol.Node`."""

    def pytest_configure_node(self, node: Any) -> None:
        """Before a node is instantiated: the place to put something into ``node.workerinput``."""

    def pytest_testnodeready(self, node: Any) -> None:
        """A node's test process is there."""

    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """A node has ended; ``node.workeroutput`` holds what its plugins left there."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Called at registration, which is before conftest files are loaded."""
    pluginmanager.add_hookspecs(Hookspecs)


@pytest.fixture(scope="session")
def worker_id(request: pytest.FixtureRequest) -> str:
    """The execution's name (``gw0``, ``gw1``, …), or ``master`` where tests run in the local session."""
    workerinput = getattr(request.config, "workerinput", None)
    return workerinput["workerid"] if workerinput else "master"


@pytest.fixture(scope="session")
def testrun_uid(request: pytest.FixtureRequest) -> str:
    """A name of the run that all its executions share."""
    workerinput = getattr(request.config, "workerinput", None)
    if workerinput:
        uid: str = workerinput["testrunuid"]
        return uid
    import uuid

    return uuid.uuid4().hex
