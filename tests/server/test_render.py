"""
Values as pages of the server show them.
"""

from __future__ import annotations

import pytest

from supercheck_server.render import seconds_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "\N{EN DASH}"),
        (0.012, "12 ms"),
        (3.44, "3.4 s"),
        (59.97, "1 min 0 s"),
        (303, "5 min 3 s"),
        (7500, "2 h 5 min"),
        (48 * 3600 - 60, "47 h 59 min"),
        (3.5 * 86400, "3 days"),
    ],
)
def test_durations_are_told_in_the_unit_that_they_are_read_in(seconds: float | None, text: str) -> None:
    """As in reports, and in days where they are long."""
    assert seconds_text(seconds) == text
