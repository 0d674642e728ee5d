"""
How tests end, as one letter each: what a test's row keeps of its last runs, and what follows from that.

Pure functions; the letters are the first of pytest's words, so that they can be read.
"""

from __future__ import annotations

import itertools
from typing import Final

#: How many of a test's last results count.
RECENT: Final = 50
#: Share of a new duration in a test's mean.
WEIGHT: Final = 0.2

LETTERS: Final = {"failed": "F", "error": "E", "passed": "P", "skipped": "S", "xfailed": "x", "xpassed": "X"}

#: Letters of what counts as failing, and of what says nothing.
FAILING: Final = frozenset("FE")
_SILENT: Final = frozenset("S")


def add_recent(recent: str, outcome: str) -> str:
    """The letters after one more result, 50 at most."""
    return (recent + LETTERS[outcome])[-RECENT:]


def flakiness(recent: str) -> float:
    """
    How often a test changes between passing and failing.

    Args:
        recent: Letters, the newest last; skipped ones do not count.

    Returns:
        Changes divided by the changes that there could be, 0 to 1; 0 for fewer than three results. A test that begins
        to fail and goes on failing, or is mended, has changed once: that is no flakiness and counts as 0.
    """
    verdicts = [letter in FAILING for letter in recent if letter not in _SILENT]
    changes = sum(one != other for one, other in itertools.pairwise(verdicts))
    return changes / (len(verdicts) - 1) if changes > 1 else 0.0


def mean_us(before: int, duration_us: int) -> int:
    """A test's mean after one more duration, in microseconds; the first one stands for all before."""
    return round(before + WEIGHT * (duration_us - before)) if before else duration_us
