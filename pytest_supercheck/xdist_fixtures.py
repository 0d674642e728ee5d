"""
xdist's two fixtures, for sessions where xdist is not installed (pytest-xdist 3.8, plugin.py).
"""

from __future__ import annotations

import pytest


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
