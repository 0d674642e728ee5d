"""
The death of a test's process, in words.

Knows what keepers and the dispatcher tell of one (`events.Crash`), and nothing of who shows it.
"""

from __future__ import annotations

import signal
from typing import Any

from pytest_supercheck.events import Crash


def words(event: Crash) -> str:
    """What is known of a test's crash, its last output included."""
    known = event.post_mortem
    lines = [summary(event)]
    for name, text in known.get("output", {}).items():
        lines.append(f"----- last output ({name}) -----\n{text.rstrip()}")
    return "\n".join(lines)


def summary(event: Crash) -> str:
    """The same without the output."""
    known = event.post_mortem
    where = f"on execution {event.n}, host {known.get('host', 'unknown')}"
    if known.get("reason") == "lost":
        text = f"The test process was lost three times while this test was running, last {where}."
    else:
        text = f"The test process died while this test was running, twice, last {where}: {manner(known)}."
    if rss_kb := known.get("max_rss_kb"):
        text += f"\nIt had used {rss_kb / 1024:.0f} MiB of memory at most."
    return text


def manner(known: dict[str, Any]) -> str:
    """How a process died: in words of whoever ended it, or by which signal, or with which exit code."""
    if reason := known.get("reason"):
        return str(reason)
    if "signal" not in known:
        return f"it exited with code {known['exit_code']}" if "exit_code" in known else "how is not known"
    try:
        name = signal.Signals(known["signal"]).name
    except ValueError:
        name = "unknown"
    text = f"killed by signal {known['signal']} ({name})"
    if known.get("oom"):
        return f"{text}, by the kernel because memory ran out"
    return f"{text}, perhaps because memory ran out" if known["signal"] == signal.SIGKILL else text
