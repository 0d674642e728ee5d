"""
Runs a suite twice, with plain pytest and with `--supercheck`, and compares all that a user or a plugin can see.
"""

from __future__ import annotations

import collections
import itertools
import json
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

#: Seconds after which a session that hangs is given up.
GUARD_S: Final = 240

#: What differs from one session to the next anyway, or is this plugin's own: (pattern, replacement).
_NOISE: Final = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"\x1b\[[0-9;]*m", ""),
        (r"pytest-of-[^/]+/pytest-\d+(/popen-gw\d)?", "BASETEMP"),
        (r"0x[0-9a-f]{6,}", "ADDRESS"),
        (r" *\b\d+\.\d+(s|ms|us)\b( \(\d:\d\d:\d\d\))?", " TIME"),
        (r"^supercheck: (run [0-9a-f-]{36}, .*|each execution collects .*)\n", ""),
        (r"^-+ supercheck: where failing tests ran -+\n(.* of run [0-9a-f-]{36}, host .*\n)*", ""),
        (r"cache from [\d:]+ ago", "cache from TIME ago"),
        (r"^=+ (.*?) =+$", r"= \1 ="),
    )
)

#: Letters of the progress, with or without the file that plain pytest names in front.
_PROGRESS: Final = re.compile(r"^(\S+\.\w+ ?)?[.FEsxXuR,-]*( *\[ *(\d+%|\d+/\d+)\])?$")
_PERCENT: Final = re.compile(r" *\[ *(\d+%|\d+/\d+)\]$")


@dataclass(frozen=True, kw_only=True)
class Session:
    """What one session showed."""

    #: Its exit status.
    code: int
    #: What it printed.
    output: str
    #: What it printed to standard error.
    errors: str
    #: What its hooks were told, in order: kind, nodeid, and more.
    record: tuple[tuple[Any, ...], ...]
    #: Which process ran which test: nodeid and process id; the first row, without nodeid, is the session's own.
    where: tuple[tuple[str, int], ...]
    #: Its junit file, as `junit_cases` has it; empty without one.
    junit: dict[str, list[Any]]

    @property
    def counts(self) -> dict[str, int]:
        """Results by pytest's own category, as the last line has them; passing set-ups and teardowns do not count."""
        kinds = collections.Counter(row[3][0] for row in self.record if row[0] == "report" and row[3][0])
        deselected = sum(row[0] == "deselected" for row in self.record)
        return dict(kinds) | ({"deselected": deselected} if deselected else {})

    @property
    def stopped(self) -> str:
        """Why it ended before its time; empty when it did not."""
        return "".join(row[5] or row[6] or "" for row in self.record if row[0] == "session")

    @property
    def lines(self) -> list[str]:
        """The lines that it printed, but for empty ones and the progress, without what differs anyway, sorted."""
        lines = (line for line in clean(self.output).splitlines() if line.strip() and not _PROGRESS.match(line))
        return sorted(_PERCENT.sub("", line.rstrip()) for line in lines)

    @property
    def hooks(self) -> dict[str, list[Any]]:
        """What hooks were told: by nodeid, in order where a test has begun; of the rest the order does not matter."""
        told: dict[str, list[list[Any]]] = collections.defaultdict(list)
        for kind, nodeid, *rest in self.record:
            row = json.loads(clean(json.dumps([kind, *rest])))
            if kind in ("report", "finish") and told[nodeid]:
                told[nodeid][-1].append(row)
            else:
                told[nodeid].append([row])
        return {nodeid: sorted(groups, key=repr) for nodeid, groups in told.items()}


def clean(text: str) -> str:
    """The text without what differs from one session to the next."""
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    return text


def junit_cases(path: Path) -> dict[str, list[Any]]:
    """A junit file as plain values, by test, without times and host names."""
    if not path.exists():
        return {}
    suite = ET.parse(path).getroot()[0]
    totals = {name: value for name, value in suite.attrib.items() if name not in ("time", "timestamp", "hostname")}
    cases: dict[str, list[Any]] = {"": [totals, *(_plain(child) for child in suite if child.tag != "testcase")]}
    for case in suite.iter("testcase"):
        cases.setdefault(f"{case.get('classname')}::{case.get('name')}", []).append(_plain(case))
    return {name: sorted(found, key=repr) for name, found in cases.items()}


def _plain(element: ET.Element) -> list[Any]:
    attributes = {name: clean(value) for name, value in element.attrib.items() if name != "time"}
    return [element.tag, attributes, clean(element.text or ""), [_plain(child) for child in element]]


class Twins:
    """
    A suite, and its two sessions.

    Args:
        pytester: Where the suite is.
        spare: A directory beside it.
    """

    def __init__(self, pytester: pytest.Pytester, spare: Path) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self._spare = spare
        self._count = 0
        #: Options that both sessions get, before all others. Other plugins are loaded by name only: some take long.
        self.options: tuple[str, ...] = ("-p", "supercheck", "-p", "acceptance_recorder")
        #: How many executions there are.
        self.executions = 2
        #: Environment variables that both sessions get.
        self.environ: dict[str, str] = {}
        (self.path / "pytest.ini").write_text("[pytest]\n")
        (spare / "plugins").mkdir()
        shutil.copy(Path(__file__).with_name("recorder.py"), spare / "plugins" / "acceptance_recorder.py")

    def files(self, **sources: str) -> None:
        """Python files of the suite: name without suffix, and source."""
        self.pytester.makepyfile(**sources)

    def ini(self, text: str) -> None:
        """The lines of pytest.ini."""
        (self.path / "pytest.ini").write_text("[pytest]\n" + text)

    def same(self, *args: str, local: bool = False) -> Session:
        """
        Run both and require that nobody sees a difference.

        Args:
            local: Whether `--supercheck` is to run nothing on workers.

        Returns:
            What plain pytest's session showed.
        """
        plain, other = self.both(args)
        assert_same(plain[0], other[0], local=local)
        return plain[0]

    def same_each(self, *sessions: tuple[str, ...]) -> list[Session]:
        """As `same`, for sessions that follow each other in one directory."""
        plain, other = self.both(*sessions)
        for one, another in zip(plain, other, strict=True):
            assert_same(one, another)
        return plain

    def both(self, *sessions: tuple[str, ...]) -> tuple[list[Session], list[Session]]:
        """The sessions one after the other, plain; the same from the start again with `--supercheck`."""
        before = self._spare / f"before-{self._count}"
        shutil.copytree(self.path, before, symlinks=True)
        plain = [self.run(*args) for args in sessions]
        for entry in self.path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        shutil.copytree(before, self.path, symlinks=True, dirs_exist_ok=True)
        return plain, [self.supercheck(*args) for args in sessions]

    def supercheck(self, *args: str, **environ: str) -> Session:
        """One session on workers."""
        return self.run("--supercheck", f"--supercheck-executions={self.executions}", *args, **environ)

    def run(self, *args: str, **environ: str) -> Session:
        """One session."""
        self._count += 1
        record, junit = self._spare / f"record-{self._count}", self._spare / f"junit-{self._count}.xml"
        own = {"ACCEPTANCE_RECORD": str(record), "PYTHONPATH": str(self._spare / "plugins"), "COLUMNS": "120",
               "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # fmt: skip
        command = [sys.executable, "-m", "pytest", f"--junitxml={junit}", *self.options, *args]
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**own, **self.environ, **environ}.items():
                patch.setenv(name, value)
            result = self.pytester.run(*command, timeout=GUARD_S)
        texts = ("\n".join(lines) + "\n" for lines in (result.outlines, result.errlines))
        output, errors = (text.replace(str(junit), "JUNIT") for text in texts)
        return Session(
            code=int(result.ret),
            output=output,
            errors=errors,
            record=tuple(map(tuple, _rows(record))),
            where=tuple(map(tuple, _rows(Path(f"{record}.where")))),
            junit=junit_cases(junit),
        )


def _rows(path: Path) -> list[list[Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()] if path.exists() else []


def assert_same(plain: Session, other: Session, *, local: bool = False) -> None:
    """Require that two sessions showed the same, and that the other one's tests ran on workers."""
    __tracebackhide__ = True
    for name in ("code", "counts", "hooks", "junit", "lines", "errors"):
        one, another = getattr(plain, name), getattr(other, name)
        if one != another:
            pytest.fail(f"{name} differ\n{_difference(one, another)}")
    ran, wanted = (collections.Counter(nodeid for nodeid, _ in session.where) for session in (other, plain))
    assert not wanted - ran, "tests did not run"
    assert plain.stopped or not ran - wanted, "tests ran that should not"
    own = dict(other.where).get("")
    assert local or own not in [pid for nodeid, pid in other.where if nodeid], "tests ran in the local session"


def _difference(one: Any, another: Any) -> str:
    if isinstance(one, list):
        left, right = (collections.Counter(lines) for lines in (one, another))
        found = [*(f"  plain: {line}" for line in left - right), *(f"  other: {line}" for line in right - left)]
        return "\n".join(found)
    parts = itertools.islice(_differences(one, another, ""), 8)
    return "\n".join(f"{where}\n  plain: {left!r}\n  other: {right!r}" for where, left, right in parts)


def _differences(one: Any, another: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """The smallest parts that differ, and where they are."""
    if isinstance(one, dict) and isinstance(another, dict):
        for key in {**one, **another}:
            yield from _differences(one.get(key), another.get(key), f"{where}[{key!r}]")
    elif isinstance(one, list) and isinstance(another, list) and one and another:
        for position, pair in enumerate(itertools.zip_longest(one, another)):
            yield from _differences(*pair, f"{where}[{position}]")
    elif isinstance(one, str) and isinstance(another, str):
        if one != another:
            same = next((n for n, pair in enumerate(zip(one, another, strict=False)) if pair[0] != pair[1]), 0)
            start = max(0, same - 60)
            yield f"{where}[{start}:]", one[start : start + 200], another[start : start + 200]
    elif one != another:
        yield where, one, another
