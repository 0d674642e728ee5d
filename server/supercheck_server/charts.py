"""
Small charts as SVG: numbers in, shapes for the templates out.

Pure functions; templates write the markup, so that everything is escaped in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from supercheck_server.history import ExecutionRow
from supercheck_server.outcomes import LETTERS

#: Units of a chart's width and height.
WIDTH: Final = 600
HEIGHT: Final = 100
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
