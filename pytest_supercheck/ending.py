"""
How a session ends: as pytest's own loop would have ended it, or with trouble that is not a test's.

Last step of the flow, in the local session.  Knows pytest, and nothing of pools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_supercheck.errors import Fatal, Infrastructure, RunTimeout, SupercheckError

if TYPE_CHECKING:
    from pytest_supercheck.events import End, Stop
    from pytest_supercheck.replay import Replay


class Refusal:
    """Ends a session that cannot have a run, at the first moment at which pytest ends with an exit code of ours."""

    def __init__(self, config: pytest.Config, error: SupercheckError) -> None:
        self._config = config
        self._error = error

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> NoReturn:
        """Called before anything is collected."""
        fail(self._config, self._error)


def conclude(session: pytest.Session, replay: Replay, stop: Stop | None, end: End) -> None:
    """
    Return when pytest's own loop would have, or raise what it would have raised.

    Args:
        session: The local session.
        replay: What was reported.
        stop: Why a test process ended its session early, None if none did.
        end: How the run ended.
    """
    replay.flush()
    if stop is not None and end.outcome != "cancelled":  # who cancels a run may have its tests interrupted
        _raise_stop(session, stop)
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
    done = f"{replay.count} of {len(session.items)} tests were reported"
    if end.outcome != "finished" or replay.missing:
        explain(session.config, end, done)


def explain(config: pytest.Config, end: End, done: str) -> NoReturn:
    """
    End the session of a run that has not run as far as it was meant to.

    Args:
        end: How it ended.
        done: What had been done by then, in words.
    """
    if end.outcome == "timeout":
        fail(config, RunTimeout(f"{end.message or 'the time limit of the run is over'}; {done}"))
    if end.outcome == "cancelled":
        why = f": {end.message}" if end.message else ""
        raise pytest.Session.Interrupted(f"supercheck: the run was cancelled{why}; {done}")
    lost = {"lost": "the workers were lost, more often than is tried again"}
    first, _, details = (end.message or lost.get(end.outcome, end.outcome)).partition("\n")
    kind = Fatal if end.outcome == "fatal" else Infrastructure
    fail(config, kind(f"{first.rstrip(':')}; {done}"), details)


def _raise_stop(session: pytest.Session, stop: Stop) -> NoReturn:
    if stop.how == "shouldfail":
        session.shouldfail = session.shouldfail or stop.message  # with `-x` this session has counted, too
        raise session.Failed(session.shouldfail)
    if stop.how == "exit":
        pytest.exit(stop.message, returncode=stop.code)
    if stop.how == "interrupt":
        _interrupt_at(*stop.message.rpartition(":")[::2])
    if stop.how == "internalerror":
        raise RuntimeError(f"in the test process of execution {stop.n}:\n{stop.message}")
    session.shouldstop = stop.message
    raise session.Interrupted(stop.message)


def _interrupt_at(path: str, line: str) -> NoReturn:
    """Raise KeyboardInterrupt as if a line of another file had: pytest tells the place of the innermost frame."""
    exec(compile("\n" * (int(line) - 1) + "raise KeyboardInterrupt", path, "exec"))
    raise KeyboardInterrupt


def fail(config: pytest.Config, error: SupercheckError, details: str = "") -> NoReturn:
    """End the session for a reason that is not a test; `details` go above the closing line."""
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    if details and reporter is not None:
        reporter.section("supercheck: what the worker said", red=True)
        reporter.write_line(details)
    pytest.exit(f"supercheck: {error}", returncode=error.exit_code)
