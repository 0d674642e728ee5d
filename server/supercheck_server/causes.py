"""
What a failure is of: its first line without what differs from one time to the next.

Pure functions.
"""

from __future__ import annotations

import re
from typing import Final

from pytest_supercheck.record import FAILING, ItemRecord

#: Characters of a message that are kept, and of one that are looked at.
MESSAGE_LIMIT: Final = 300

_VARYING: Final = (
    (re.compile(r"0x[0-9a-fA-F]+"), "0x…"),
    (re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b"), "…"),
    (re.compile(r"(?:/[\w.@+-]+){2,}/"), "…/"),
    (re.compile(r"\b[0-9a-f]{12,}\b"), "…"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "…"),
)


def failure_of(item: ItemRecord) -> tuple[str, str]:
    """
    The phase and the message of what went wrong first in a test.

    Returns:
        Empty texts for a test in which nothing did.
    """
    if item.failures:
        first = item.failures[0]
        return first.phase, first.message[:MESSAGE_LIMIT]
    if item.crash is not None:
        return "crash", item.crash.words[:MESSAGE_LIMIT]
    return ("", "failed without a word") if item.outcome in FAILING else ("", "")


def cause_of(message: str) -> str:
    """
    A message without numbers, addresses, directories and ids: the same for failures of one kind.

    Args:
        message: One line.
    """
    text = message[:MESSAGE_LIMIT]
    for pattern, instead in _VARYING:
        text = pattern.sub(instead, text)
    return " ".join(text.split()) or "failed without a word"
