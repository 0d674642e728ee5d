"""
Values in the words that people read: in pages and in the terminal.

Pure; must not know who shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_supercheck.record import OUTCOMES


def seconds(value: float) -> str:
    """A duration, in the unit that it is read in."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def printable(text: str) -> str:
    """A text for a terminal, which obeys what it is shown: what cannot be printed is a question mark."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def ordered(counts: Mapping[Any, int]) -> list[tuple[str, int]]:
    """Counts by outcome, bad ones first, without zeros."""
    return [(outcome, counts[outcome]) for outcome in OUTCOMES if counts.get(outcome)]
