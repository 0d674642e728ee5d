"""
From measurements to rows of the table: pairs, medians, ratios, verdicts.

Pure arithmetic and text, but for `alternate`, which calls the two sides in turn. Knows no figure.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, TypeVar

T = TypeVar("T")

_HEAD: Final = ("figure", "at most", "value", "ours", "peer", "spread", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured."""

    #: Pairs per figure; None for each figure's own number.
    runs: int | None = None
    #: Small sizes and few pairs: shows that everything works, not how fast it is.
    quick: bool = False

    def pick(self, full: int, quick: int) -> int:
        """A size: the full one, or the quick one."""
        return quick if self.quick else full

    def pairs(self, full: int, quick: int = 1) -> int:
        """A number of pairs, unless the user has given one."""
        return self.runs or self.pick(full, quick)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    #: What is measured.
    figure: str
    #: Highest value that is good.
    target: float
    #: What was measured.
    value: float
    #: Unit of target and value; empty for a ratio.
    unit: str = ""
    #: Median of our side.
    ours: str = ""
    #: Median of the other side.
    peer: str = ""
    #: Lowest and highest of the values whose median is shown.
    spread: str = ""

    @property
    def reached(self) -> bool:
        """Whether the value is good."""
        return self.value <= self.target

    def cells(self) -> tuple[str, ...]:
        """As texts, in the order of the head."""
        unit = f" {self.unit}" if self.unit else ""
        target, value = f"{self.target:g}{unit}", f"{number(self.value)}{unit}"
        return (self.figure, target, value, self.ours, self.peer, self.spread, "OK" if self.reached else "MISSED")


def number(value: float) -> str:
    """A number with as many decimals as mean something."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def seconds(value: float) -> str:
    """A duration in a unit that reads well."""
    if value < 0.001:
        return f"{value * 1e6:.0f} us"
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.2f} s"


def spread(values: Sequence[float], show: Callable[[float], str] = number) -> str:
    """Lowest and highest of some values, and how many there are."""
    return f"{show(min(values))} to {show(max(values))}, n={len(values)}"


def ratio_row(
    figure: str, target: float, pairs: Sequence[tuple[float, float]], show: Callable[[float], str] = seconds
) -> Row:
    """
    The row of a comparison.

    Args:
        pairs: Ours and the peer's, measured one after the other; the value is the median of their ratios.
        show: How both are written.
    """
    ratios = [ours / peer for ours, peer in pairs]
    return Row(
        figure=figure,
        target=target,
        value=median(ratios),
        ours=show(median(ours for ours, _ in pairs)),
        peer=show(median(peer for _, peer in pairs)),
        spread=spread(ratios),
    )


def value_row(figure: str, target: float, values: Sequence[float], unit: str) -> Row:
    """The row of a figure that has no peer; the value is the median."""
    return Row(figure=figure, target=target, value=median(values), unit=unit, spread=spread(values))


def alternate(ours: Callable[[], T], peer: Callable[[], T], pairs: int, *, warm: bool = True) -> list[tuple[T, T]]:
    """
    Measure two sides in turn; which goes first changes from pair to pair.

    Args:
        warm: Call both once before, for bytecode and the file cache.
    """
    if warm:
        ours(), peer()
    found = []
    for pair in range(pairs):
        say(f"  pair {pair + 1} of {pairs}")
        if pair % 2:
            theirs = peer()
            found.append((ours(), theirs))
        else:
            found.append((ours(), peer()))
    return found


def say(text: str) -> None:
    """Tell how far it is, where that does not get into the table."""
    print(text, file=sys.stderr, flush=True)


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [_HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    rule = tuple("-" * width for width in widths)
    padded = (
        (cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (lines[0], rule, *lines[1:])
    )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every script has."""
    parser.add_argument("--runs", type=int, metavar="N", help="pairs, or repetitions, of every figure")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, not how fast it is")


def end_in_order() -> None:
    """Let SIGTERM do what Ctrl-C does: end what was started, remove what was written."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def alone(measure: Callable[[Scale], list[Row]]) -> int:
    """Run one figure's script; returns the exit status."""
    parser = argparse.ArgumentParser()
    arguments(parser)
    given = parser.parse_args()
    end_in_order()
    try:
        rows = measure(Scale(runs=given.runs, quick=given.quick))
    except KeyboardInterrupt:
        return 130
    print(markdown(rows))
    return 0 if all(row.reached for row in rows) else 1
