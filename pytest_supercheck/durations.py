"""
How long tests took the last time, and what follows for the order in which they are handed out.

Between collection and offer, and again at the session's end, in the controller.  Kept in pytest's cache, so that
``--cache-clear`` and ``-p no:cacheprovider`` mean what they always mean.  Knows neither items' groups nor the pool.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest

#: The key in pytest's cache: an object of nodeid -> seconds, those measured last at its end.
KEY: Final = "supercheck/durations"

#: Seconds below which a duration is not worth keeping.
LEAST_S: Final = 0.01

#: How many are kept at most.
KEPT: Final = 50_000

#: A test is long when it takes more than this part of what an execution has to do on average.
LONG: Final = 1 / 20


def load(config: pytest.Config) -> Mapping[str, float]:
    """What is known: seconds by nodeid; empty without a cache, or when what is there cannot be read."""
    cache = getattr(config, "cache", None)
    known: Any = cache.get(KEY, None) if cache is not None else None
    if not isinstance(known, dict):
        return {}
    return {nodeid: value for nodeid, value in known.items() if isinstance(value, (int, float)) and value > 0}


def save(config: pytest.Config, measured: Mapping[str, float]) -> None:
    """
    Keep what was measured for the next session; does nothing without a cache.

    Args:
        measured: Seconds by nodeid, of every test that has run.
    """
    cache = getattr(config, "cache", None)
    if cache is None:
        return
    known = load(config)
    kept = {nodeid: value for nodeid, value in known.items() if nodeid not in measured}
    kept.update((nodeid, round(value, 3)) for nodeid, value in measured.items() if value >= LEAST_S)
    if kept != known:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where the cache cannot be written pytest's own plugins say so
            cache.set(KEY, dict(list(kept.items())[-KEPT:]))


def long_first(durations_s: Sequence[float], executions: int) -> list[int]:
    """
    Which tests, or groups of tests, are to be begun before the others, so that none of them ends the run alone.

    Args:
        durations_s: How long each takes, 0 where that is not known, in collection order.
        executions: How many there may be at a time.

    Returns:
        Their places, the longest first; empty when there is nothing to choose.
    """
    if executions < 2 or len(durations_s) <= executions:
        return []
    share_s = sum(durations_s) / executions
    # By steps of a factor of 1.4: those that take about as long stay in collection order.
    steps = {place: round(2 * math.log2(value)) for place, value in enumerate(durations_s) if value > share_s * LONG}
    return sorted(steps, key=lambda place: -steps[place])
