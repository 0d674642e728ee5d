"""
Small charts as SVG: numbers in, shapes for the templates out.

Pure functions; templates write the markup, so that everything is escaped in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from supercheck_server.history import LOAD_MINUTES
from supercheck_server.outcomes import LETTERS
from supercheck_server.rows import ExecutionRow, Load

#: Units of a chart's width and height.
WIDTH: Final = 600
HEIGHT: Final = 100
#: Minutes that a bar of the pool's load stands for.
LOAD_STEP: Final = 10
#: Points that a line has at least.
_LEAST: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point of a chart."""

    #: From the left and from the top.
    x: float
    y: float
    #: The letter of an outcome.
    letter: str
    #: The value in seconds.
    value_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """A chart of durations."""

    #: The oldest first.
    points: tuple[Point, ...]
    #: What the top stands for, in seconds.
    most_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar of a chart, on its bottom."""

    #: From the left.
    x: float
    #: How high.
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadChart:
    """How full the pool was."""

    #: Executions and queued runs, the highest of every ten minutes.
    running: tuple[Bar, ...]
    queued: tuple[Bar, ...]
    #: Longest waits.
    waits: tuple[Bar, ...]
    #: What the top stands for: executions and runs, and seconds.
    most: int
    most_wait_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A bar of a timeline."""

    #: Who ran.
    n: int
    host: str
    #: From the left, and how wide, in percent.
    left: float
    width: float
    #: How long, in seconds; None when it was lost.
    seconds: float | None


def load(loads: Sequence[Load], now_minute: int) -> LoadChart | None:
    """
    Charts of how full the pool was in the last 48 hours; None when nothing is known.

    Args:
        loads: The oldest first.
        now_minute: Where the charts end, minutes since 1970.
    """
    shown = [one for one in loads if now_minute - LOAD_MINUTES < one.minute <= now_minute]
    if not shown:
        return None
    steps: dict[int, list[Load]] = {}
    for one in shown:
        steps.setdefault((one.minute - now_minute + LOAD_MINUTES - 1) // LOAD_STEP, []).append(one)
    most = max(max(one.running, one.queued) for one in shown)
    most_wait_s = max(one.wait_s for one in shown)

    def bars(value: Callable[[Load], int], top: int) -> tuple[Bar, ...]:
        highest = ((at, max(value(one) for one in some)) for at, some in steps.items())
        return tuple(Bar(x=at * LOAD_STEP / LOAD_MINUTES * WIDTH, height=n / top * HEIGHT) for at, n in highest if n)

    return LoadChart(
        running=bars(lambda one: one.running, most),
        queued=bars(lambda one: one.queued, most),
        waits=bars(lambda one: one.wait_s, most_wait_s),
        most=most,
        most_wait_s=most_wait_s,
    )


def pass_rates(rates: Sequence[float]) -> str:
    """
    A line of pass rates.

    Args:
        rates: 0 to 1, the oldest first.

    Returns:
        The points of a polyline in 600 by 100; empty when there are fewer than two.
    """
    if len(rates) < _LEAST:
        return ""
    step = WIDTH / (len(rates) - 1)
    return " ".join(f"{at * step:.1f},{5 + (1 - rate) * (HEIGHT - 10):.1f}" for at, rate in enumerate(rates))


def strip_paths(recent: str) -> list[tuple[str, str]]:
    """
    The bars of a strip, one path for all of a letter: a page has fifty strips.

    Args:
        recent: A letter for each run, the oldest first.

    Returns:
        Each letter and its path, for bars of 5 by 16 that are 6 apart.
    """
    bars: dict[str, list[str]] = {}
    for at, letter in enumerate(recent):
        bars.setdefault(letter, []).append(f"M{at * 6} 0h5v16h-5z")
    return [(letter, "".join(parts)) for letter, parts in bars.items()]


def durations(results: Sequence[tuple[str, float]]) -> Durations:
    """
    A chart of what a test takes.

    Args:
        results: Outcome and seconds, the oldest first.
    """
    most_s = max((seconds for _, seconds in results), default=0.0) or 1.0
    step = WIDTH / max(1, len(results))
    points = (
        Point(
            x=round((at + 0.5) * step, 1),
            y=round(HEIGHT - 4 - seconds / most_s * (HEIGHT - 8), 1),
            letter=LETTERS.get(outcome, "S"),
            value_s=seconds,
        )
        for at, (outcome, seconds) in enumerate(results)
    )
    return Durations(points=tuple(points), most_s=most_s)


def timeline(executions: Sequence[ExecutionRow], started_ms: int | None, ended_ms: int | None) -> tuple[Span, ...]:
    """Who ran when, between the start and the end of the run."""
    if started_ms is None or ended_ms is None:
        return ()
    all_ms = max(1, ended_ms - started_ms)
    spans = []
    for execution in executions:
        end_ms = execution.ended_ms or ended_ms
        left = min(100.0, max(0.0, 100 * (execution.started_ms - started_ms) / all_ms))
        width = max(0.5, min(100 - left, 100 * (end_ms - execution.started_ms) / all_ms))
        seconds = (execution.ended_ms - execution.started_ms) / 1000 if execution.ended_ms else None
        spans.append(
            Span(n=execution.n, host=execution.host, left=round(left, 2), width=round(width, 2), seconds=seconds)
        )
    return tuple(spans)
