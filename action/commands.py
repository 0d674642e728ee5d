"""
Workflow commands: lines of the log that GitHub acts upon.

Pure.  What is in them may come from anywhere. Source: "Workflow commands" in the documentation of GitHub Actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from action.outcome import Failure, Outcome

#: How many annotations of a kind GitHub shows of a step.
SHOWN: Final = 10
#: Characters of a message.
MESSAGE_LIMIT: Final = 2000


def command(name: str, message: str = "", **properties: str | int) -> str:
    """
    One command.

    Args:
        message: With any characters.
        properties: Empty ones are left out.
    """
    given = ",".join(f"{key}={_property(str(value))}" for key, value in properties.items() if value)
    return f"::{name}{' ' if given else ''}{given}::{_message(message[:MESSAGE_LIMIT])}"


def annotate(outcome: Outcome) -> Iterator[str]:
    """
    What is shown beside the lines of the repository, and above the log: as many as GitHub shows.

    New failures are errors; those that are known to be no fault of this change are warnings, which have their own room.
    """
    if outcome.state not in ("passed", "failed", "detached"):
        yield command("error", outcome.why or outcome.state, title="supercheck")
    room = {"error": SHOWN - (outcome.state != "failed"), "warning": SHOWN}
    for failure in outcome.failures:
        level = "warning" if failure.kind in ("known", "flaky") else "error"
        if room[level] > 0:
            room[level] -= 1
            yield _annotation(level, failure)


def _annotation(level: str, failure: Failure) -> str:
    words = {"known": "fails on the base branch already: ", "flaky": "known to be flaky: "}.get(failure.kind, "")
    return command(
        level, words + failure.message, file=failure.file, line=failure.line, title=failure.nodeid[:200]
    )  # fmt: skip


def _message(text: str) -> str:
    # Of a lone surrogate there is no UTF-8, which the log is.
    text = text.encode("utf-8", "replace").decode()
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
