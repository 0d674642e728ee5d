"""
The file of a project's jobs: where it is, what it defines, and in which line something is that makes no sense.

Text that a person has written → `Job`.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from pathlib import Path
from typing import Any, Final

from pytest_supercheck.errors import BadJob
from pytest_supercheck.jobs import BadDefinition, Job, Where, check_job, unknown
from pytest_supercheck.pyproject import LIMIT_BYTES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The files that define jobs, and the tables of them that do; the first one that is there and has one counts.
FILES: Final = (("supercheck.toml", ("jobs",)), ("pyproject.toml", ("tool", "supercheck", "jobs")))


def find_jobs(directory: Path) -> Path:
    """
    The file that defines the jobs of a directory.

    Raises:
        BadJob: There is none.
    """
    for name, where in FILES:
        file = directory / name
        if file.is_file() and (name == FILES[0][0] or _get(_parse(file, _read(file)), where) is not None):
            return file
    raise BadJob(f"{directory} has no jobs: no supercheck.toml, and no [tool.supercheck.jobs] in its pyproject.toml")


def read_jobs(file: Path) -> list[Job]:
    """
    Read the jobs that a file defines.

    Args:
        file: A `supercheck.toml`, or a `pyproject.toml`.

    Raises:
        BadJob: It cannot be read, or something in it makes no sense; a line for each such thing, ``FILE:LINE: words``.
    """
    text = _read(file)
    table = _parse(file, text)
    above = dict(FILES).get(file.name, FILES[0][1])
    lines = _Lines(text)
    troubles: list[str] = []
    found: list[Job] = []

    def note(wrong: BadDefinition, where: Where) -> None:
        troubles.append(f"{file.name}:{lines.find(where)}: {wrong}")

    top = _get(table, above[:-1]) or {}
    for key in [key for key in top if key != above[-1]] if isinstance(top, dict) else ():
        note(BadDefinition(unknown(key, above[-1:]), key), (*above[:-1], key))
    jobs = _get(table, above)
    if jobs is not None and not isinstance(jobs, dict):
        note(BadDefinition("it must be a table of jobs: [jobs.NAME]", "jobs"), above)
        jobs = None
    for name, one in (jobs or {}).items():
        try:
            found.append(check_job(name, one))
        except BadDefinition as exc:
            note(BadDefinition(exc.words, "jobs", name, *exc.where), (*above, name, *exc.where))
    if troubles:
        raise BadJob("\n".join(troubles))
    return found


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > LIMIT_BYTES:
            raise BadJob(f"{file.name} is larger than {LIMIT_BYTES // 1_000_000} MB")
        return file.read_text("utf-8")
    except (OSError, ValueError) as exc:
        raise BadJob(f"{file.name} cannot be read: {exc}"[:500]) from exc


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        line = re.search(r"at line (\d+)", str(exc))
        number = line[1] if line else len(text.splitlines())
        raise BadJob(f"{file.name}:{number}: this is no TOML: {exc}"[:500]) from exc
    return table


class _Lines:
    """
    In which line of a TOML file something is.

    TOML's parser does not tell. But it reads the beginning of a file, too, if that ends with a statement: where a value
    is for the first time, its statement ends.
    """

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines(keepends=True)
        self._known: dict[int, tuple[int, dict[str, Any]]] = {}

    def find(self, where: Where) -> int:
        """The line, from 1; of something that is not there, that of what it would be in."""
        while where and _get(self._before(len(self._lines))[1], where) is None:
            where = where[:-1]
        if not where:
            return 1
        there = bisect_left(
            range(len(self._lines) + 1), True, key=lambda count: _get(self._before(count)[1], where) is not None
        )
        start = self._before(there - 1)[0]
        while start < there and self._lines[start].strip()[:1] in ("", "#"):
            start += 1
        return start + 1

    def _before(self, count: int) -> tuple[int, dict[str, Any]]:
        """Of the first so many lines, those that are whole statements: how many they are, and what they say."""
        for size in range(count, 0, -1):
            if size not in self._known:
                try:
                    self._known[size] = size, tomllib.loads("".join(self._lines[:size]))
                except ValueError:
                    continue
            return self._known[size]
        return 0, {}


def _get(value: Any, where: Where) -> Any:
    for key in where:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value
