"""
Records and events as tests need them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from pytest_supercheck import events
from pytest_supercheck.record import (
    ExecutionRecord,
    Failure,
    ItemRecord,
    Origin,
    Outcome,
    RunRecord,
    RunSummary,
    Text,
)
from pytest_supercheck.transcript import Submitted

#: When everything begins.
START = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)

#: The same in milliseconds.
START_MS = round(START.timestamp() * 1000)


def make_item(index: int = 0, outcome: Outcome = "passed", **fields: Any) -> ItemRecord:
    """A test that ran for 30 ms, a second after the one before it; one that failed has a traceback."""
    told: dict[str, Any] = {
        "nodeid": f"test_it.py::test_{index}",
        "phases_s": (0.01, 0.02, 0.0),
        "n": 1,
        "host": "worker-1",
        "started_at": START + timedelta(seconds=index),
    }
    if outcome in ("failed", "error"):
        told["failures"] = (make_failure(),)
    return ItemRecord(index=index, outcome=outcome, **{**told, **fields})


def make_failure(
    text: str = "    def test_it():\n>       assert 0\nE       assert 0\n\ntest_it.py:2: AssertionError",
) -> Failure:
    """What pytest says of a failing test."""
    return Failure(phase="call", message="assert 0", path="/shop/test_it.py", line=2, trace=Text(text=text))


def make_record(items: Sequence[ItemRecord] = (), **fields: Any) -> RunRecord:
    """A finished run of those tests; further fields are its summary's."""
    numbers = sorted({item.n for item in items}) or [1]
    ended_at = max([START, *(item.started_at for item in items if item.started_at)]) + timedelta(seconds=1)
    told: dict[str, Any] = {
        "id": "0195-run",
        "project": "shop",
        "outcome": "finished",
        "submitted_at": START - timedelta(seconds=2),
        "started_at": START,
        "ended_at": ended_at,
        "total": len(items),
        "counts": dict(Counter(item.outcome for item in items)),
        "executions": len(numbers),
        "supercheck": "0.1.0",
    }
    executions = tuple(
        ExecutionRecord(n=n, job=f"0195-run-{n}-1", host=f"worker-{n}", started_at=START, ended_at=ended_at)
        for n in numbers
    )
    return RunRecord(summary=RunSummary(**{**told, **fields}), executions=executions, items=tuple(items))


def make_submitted(**fields: Any) -> Submitted:
    """A run that was submitted two seconds before everything begins."""
    told: dict[str, Any] = {
        "id": "0195-run",
        "project": "shop",
        "origin": Origin(user="ada"),
        "submitted_at": START - timedelta(seconds=2),
    }
    return Submitted(**{**told, **fields})


# -- events


def begin(n: int = 1, attempt: int = 1, at_s: float = 0, host: str = "worker-1") -> bytes:
    """An execution starts."""
    at = START_MS + round(at_s * 1000)
    job = f"0195-run-{n}-{attempt}"
    return events.line({"t": "begin", "v": 1, "at": at, "n": n, "job": job, "worker": "w", "host": host})


def left(n: int = 1, attempt: int = 1, at_s: float = 9) -> bytes:
    """It gives its slot back."""
    job = f"0195-run-{n}-{attempt}"
    return events.line({"t": "left", "at": START_MS + round(at_s * 1000), "n": n, "job": job})


def end(outcome: str = "finished", message: str = "", at_s: float = 10) -> bytes:
    """The run is over."""
    return events.line({"t": "end", "at": START_MS + round(at_s * 1000), "outcome": outcome, "message": message})


def passed(index: int, n: int = 1, at_s: float = 1) -> bytes:
    """A test passed: 10 ms of setup, 20 ms of call, none of teardown."""
    start = START.timestamp() + at_s
    marks = [(start, start + 0.01, 0.01), (start + 0.01, start + 0.03, 0.02), (start + 0.03, start + 0.03, 0.0)]
    return events.encode_passed(index, n, marks)


def report(when: str = "call", outcome: str = "passed", **fields: Any) -> dict[str, Any]:
    """A report as pytest serialises it."""
    told: dict[str, Any] = {
        "nodeid": "test_it.py::test_it",
        "when": when,
        "outcome": outcome,
        "longrepr": None,
        "sections": [],
        "user_properties": [],
        "duration": 0.5,
        "start": START.timestamp() + 1,
        "stop": START.timestamp() + 1.5,
    }
    return {**told, **fields}


def result(index: int, *reports: dict[str, Any], n: int = 1, more: Sequence[tuple[str, Any]] = ()) -> bytes:
    """A test has these reports, and whatever else is to be replayed."""
    return events.encode_result(index, n, [*(("report", one) for one in reports), *more])
