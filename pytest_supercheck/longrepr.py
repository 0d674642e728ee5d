"""
pytest's serialised tracebacks → text, as pytest itself would write it to a file.

Used where reports are recorded, which may be far from any pytest session: stdlib only.

Source: the `toterminal` methods of _pytest/_code/code.py, and `_report_to_json` of _pytest/reports.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

#: Columns of lines.
_WIDTH: Final = 80


def longrepr_text(longrepr: Any) -> str:
    """
    The text of a report's ``longrepr``.

    Args:
        longrepr: As `pytest_report_to_serializable` has it: a text, a skip's path, line and reason, or a traceback.

    Returns:
        The text, without colours and without blank lines around it; empty for None.

    Raises:
        KeyError, TypeError: It is a traceback of a form that pytest does not have.
    """
    if longrepr is None:
        return ""
    if isinstance(longrepr, (tuple, list)):
        return str(longrepr[-1])
    if not isinstance(longrepr, dict):
        return str(longrepr).strip("\n")
    return "\n".join(_chain(longrepr)).strip("\n")


def _chain(longrepr: dict[str, Any]) -> Iterator[str]:
    """Its lines: tracebacks, each perhaps with a line that leads over to the next."""
    for traceback, _crash, leading_over in longrepr.get("chain") or [(longrepr["reprtraceback"], None, None)]:
        yield from _traceback(traceback)
        if leading_over is not None:
            yield from ("", leading_over)
    for name, content, separator in longrepr.get("sections") or ():
        yield _ruler(separator, f" {name} ")
        yield content


def _traceback(traceback: dict[str, Any]) -> Iterator[str]:
    entries = traceback["reprentries"]
    for place, entry in enumerate(entries):
        style = entry["data"].get("style", "native")
        if style == "long":
            yield ""
        yield from _entry(entry["data"], style)
        after = entries[place + 1]["data"].get("style") if place + 1 < len(entries) else None
        if after and (style == "long" or (style == "short" and after == "long")):
            yield _ruler("_ ", "")
    if traceback["extraline"]:
        yield traceback["extraline"]


def _entry(entry: dict[str, Any], style: str) -> Iterator[str]:
    lines, local_names, place = entry["lines"], entry.get("reprlocals"), _place(entry.get("reprfileloc"))
    if style == "native":
        yield "".join(lines).rstrip("\n")
        return
    if style == "short":
        yield from place
        yield from lines
        yield from (" " * 8 + line for line in (local_names or {}).get("lines", ()))
        return
    arguments = (entry.get("reprfuncargs") or {}).get("args")
    if arguments:
        yield from _arguments(arguments)
        yield ""
    yield from lines
    if local_names:
        yield from ("", *local_names["lines"])
    if place:
        yield from ("", *place) if lines else place


def _arguments(arguments: Sequence[Sequence[str]]) -> Iterator[str]:
    """As many in a line as fit."""
    line = ""
    for name, value in arguments:
        argument = f"{name} = {value}"
        if line and len(line) + len(argument) + 2 > _WIDTH:
            yield line
            line = argument
        else:
            line = f"{line}, {argument}" if line else argument
    yield line


def _place(location: dict[str, Any] | None) -> list[str]:
    if not location:
        return []
    message = str(location["message"]).partition("\n")[0]
    return [f"{location['path']}:{location['lineno']}: {message}"]


def _ruler(separator: str, title: str) -> str:
    if not title:
        return (separator * _WIDTH)[:_WIDTH].rstrip()
    return f"{title:{separator[:1] or '-'}^{_WIDTH}}"
