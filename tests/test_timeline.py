"""
Who ran what when, as shapes.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from pytest_supercheck.record import ExecutionRecord
from pytest_supercheck.timeline import BARS_LIMIT, LANES_LIMIT, WIDTH, timeline
from tests.records import START, make_item, make_record


def at(seconds: float, duration_s: float, **fields: Any) -> dict[str, Any]:
    """A test that started then and took so long."""
    return {"started_at": START + timedelta(seconds=seconds), "phases_s": (0.0, duration_s, 0.0), **fields}


def test_tests_are_where_they_ran() -> None:
    """From the start of the first execution to the end of the run."""
    items = [make_item(0, **at(0, 5, n=1)), make_item(1, "failed", **at(5, 5, n=2))]
    drawn = timeline(make_record(items, ended_at=START + timedelta(seconds=10)))
    assert drawn is not None
    assert drawn.span_s == 10
    assert [(lane.n, lane.host) for lane in drawn.lanes] == [(1, "worker-1"), (2, "worker-2")]
    assert [[(bar.x, bar.width) for bar in lane.bars] for lane in drawn.lanes] == [[(0, 500)], [(500, 500)]]
    assert [(bar.x, bar.width) for bar in drawn.lanes[0].held] == [(0, 600)]


def test_short_tests_are_drawn_together() -> None:
    """Side by side as one; those that failed by themselves."""
    items = [make_item(number, **at(number / 100, 0.01)) for number in range(100)]
    items.append(make_item(100, "failed", **at(500, 0.01)))
    drawn = timeline(make_record(items, ended_at=START + timedelta(seconds=1000)))
    assert drawn is not None
    [lane] = drawn.lanes
    assert (lane.bars, lane.narrow, lane.narrow_failing) == ((), ((0, 2),), ((500, 1),))


def test_failures_are_drawn_over_others() -> None:
    """Where clocks let two tests of an execution seem to overlap."""
    items = [make_item(0, "failed", **at(0, 5)), make_item(1, **at(0, 5))]
    drawn = timeline(make_record(items))
    assert drawn is not None
    assert [bar.item.outcome for bar in drawn.lanes[0].bars if bar.item] == ["passed", "failed"]


def test_a_slot_that_was_lost_and_taken_over() -> None:
    """Both are in one lane, which has the last host's name; a lost one is drawn to the end."""
    record = make_record([make_item(0, **at(0, 1))], ended_at=START + timedelta(seconds=10))
    lost = replace(record.executions[0], ended_at=None)
    after = ExecutionRecord(n=1, job="j", host="worker-9", started_at=START + timedelta(seconds=5))
    drawn = timeline(replace(record, executions=(lost, after)))
    assert drawn is not None
    [lane] = drawn.lanes
    assert lane.host == "worker-9"
    assert [(bar.x, bar.width) for bar in lane.held] == [(0, 1000), (500, 500)]


def test_times_outside_of_the_run_are_moved_into_it() -> None:
    """Clocks of workers differ."""
    items = [make_item(0, **at(-5, 1)), make_item(1, **at(99, 1)), make_item(2, started_at=None)]
    drawn = timeline(make_record(items, ended_at=START + timedelta(seconds=10)))
    assert drawn is not None
    assert drawn.span_s == 100
    assert all(0 <= bar.x <= bar.x + bar.width <= WIDTH for lane in drawn.lanes for bar in lane.bars)


def test_nothing_ran() -> None:
    """There is nothing to draw."""
    assert timeline(make_record(started_at=None)) is None


def test_what_is_drawn_is_bounded() -> None:
    """In lanes and in tests by themselves."""
    items = [make_item(number, **at(number % 20, 1, n=number // 20 + 1)) for number in range(4000)]
    drawn = timeline(make_record(items, ended_at=START + timedelta(seconds=20)))
    assert drawn is not None
    assert (len(drawn.lanes), drawn.more) == (LANES_LIMIT, 200 - LANES_LIMIT)
    assert sum(len(lane.bars) for lane in drawn.lanes) <= BARS_LIMIT
