"""
Who ran what when → shapes to draw.

For reports and pages; knows records and nothing of HTML.  A run can have more tests than a screen has columns: tests
that would be narrower than one are drawn together, and failing ones are never hidden by others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pytest_supercheck.record import FAILING, ExecutionRecord, ItemRecord, RunRecord

#: Width of a timeline, in units of its own.
WIDTH: Final = 1000

#: Units from which a test is drawn by itself.
_BROAD: Final = 4

#: How many lanes are drawn, and how many tests by themselves.
LANES_LIMIT: Final = 50
BARS_LIMIT: Final = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A test, or a time."""

    #: Left edge and width, 0 to `WIDTH`.
    x: float
    width: float
    #: The test; None for a time in which an execution held its slot.
    item: ItemRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What one execution did; one that took over from a lost one is in the same lane."""

    #: Its number.
    n: int
    #: Where it ran, the last one.
    host: str
    #: When it held its slot.
    held: tuple[Bar, ...]
    #: Tests that are broad enough to be seen, those that failed last: they are drawn over others.
    bars: tuple[Bar, ...]
    #: Left edges and widths of what is too narrow: of tests that did not fail, and of those that did.
    narrow: tuple[tuple[int, int], ...]
    narrow_failing: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """All of a run."""

    #: Seconds that `WIDTH` is.
    span_s: float
    #: The first ones, by number.
    lanes: tuple[Lane, ...]
    #: How many there are besides.
    more: int


def timeline(record: RunRecord) -> Timeline | None:
    """A run's timeline; None when nothing of it ran."""
    started = record.summary.started_at
    if started is None:
        return None
    ends = [_end(item) for item in record.items if item.started_at]
    span_s = max((max([record.summary.ended_at, *ends]) - started).total_seconds(), 0.001)
    numbers = sorted({execution.n for execution in record.executions})
    items: defaultdict[int, list[ItemRecord]] = defaultdict(list)
    for item in record.items:
        items[item.n].append(item)
    shown = numbers[:LANES_LIMIT]
    drawer = _Drawer(started, span_s, broad=_BROAD, left=BARS_LIMIT)
    lanes = (
        drawer.lane([execution for execution in record.executions if execution.n == n], items[n], record) for n in shown
    )
    return Timeline(span_s=span_s, lanes=tuple(lanes), more=len(numbers) - len(shown))


def _end(item: ItemRecord) -> datetime:
    assert item.started_at is not None
    return item.started_at + timedelta(seconds=item.duration_s)


class _Drawer:
    """Turns times into units, and counts what is drawn."""

    def __init__(self, started: datetime, span_s: float, *, broad: float, left: int) -> None:
        self._started = started
        self._span_s = span_s
        self._broad = broad
        self._left = left

    def lane(self, executions: Sequence[ExecutionRecord], items: Iterable[ItemRecord], record: RunRecord) -> Lane:
        bars: list[Bar] = []
        narrow: dict[bool, set[int]] = {False: set(), True: set()}
        for item in items:
            if item.started_at is None:
                continue
            x, width = self._place(item.started_at, _end(item))
            if width >= self._broad and self._left > 0:
                self._left -= 1
                bars.append(Bar(x=x, width=width, item=item))
            else:
                narrow[item.outcome in FAILING].update(range(int(x), int(x + width) + 1))
        held = (
            self._place(execution.started_at, execution.ended_at or record.summary.ended_at) for execution in executions
        )
        return Lane(
            n=executions[-1].n,
            host=executions[-1].host,
            held=tuple(Bar(x=x, width=width) for x, width in held),
            bars=tuple(sorted(bars, key=lambda bar: bar.item is not None and bar.item.outcome in FAILING)),
            narrow=_runs(narrow[False]),
            narrow_failing=_runs(narrow[True]),
        )

    def _place(self, start: datetime, end: datetime) -> tuple[float, float]:
        """Left edge and width, inside of the timeline."""
        left, right = (
            min(max((at - self._started).total_seconds() / self._span_s, 0), 1) * WIDTH for at in (start, end)
        )
        return round(left, 1), round(max(right - left, 0), 1)


def _runs(columns: set[int]) -> tuple[tuple[int, int], ...]:
    """Columns side by side as one: left edge and width."""
    found: list[tuple[int, int]] = []
    for column in sorted(columns):
        if found and sum(found[-1]) == column:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((column, 1))
    return tuple(found)
