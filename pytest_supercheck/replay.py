"""
Events → the local session's ordinary hooks.

Sixth step of the flow.  Runs in the controller's main thread; knows events and pytest, not where events come from.  The
first result of a test counts, later ones are dropped.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Generator, Sequence
from io import StringIO
from typing import Any, Final

import pytest
from _pytest._code.code import TerminalRepr
from _pytest._io import TerminalWriter
from _pytest.junitxml import xml_key

from pytest_supercheck import events, postmortem
from pytest_supercheck.events import Crash, Missing, Passed, Result
from pytest_supercheck.recorder import failed_subtests

_STANDARD_SECTIONS: Final = ("Captured stdout", "Captured stderr")

#: Keys of pytest's serialised reports that it leaves behind as attributes of the reports it builds from them.
_FORMAT_ONLY: Final = ("$report_type", "_report_type", "_subtest.context")


class RemoteRepr(TerminalRepr):
    """
    What a failure looks like that is not represented by a traceback, such as a doctest's.

    Args:
        text: As written to a terminal.
        coloured: The same for one with colours, where the session has one.
    """

    def __init__(self, text: str, coloured: str = "") -> None:
        self._text = text
        self._coloured = coloured

    def __str__(self) -> str:
        return self._text.strip()

    def toterminal(self, tw: TerminalWriter) -> None:
        """Called by reporters that print it."""
        tw.write((tw.hasmarkup and self._coloured) or self._text)


class Replay:
    """
    The results of one run.

    Args:
        session: The local session, collected.
        places: Of each item, by its index in the run, its place in the session.
        show_output: Print what tests print when they end, as ``-s`` would, instead of keeping it in their reports.
        in_order: Replay in the order of collection, up to the test at which the session stops: ``--sw`` remembers where
            that was, and tests after it that happened to run elsewhere must not move it.
    """

    def __init__(
        self, session: pytest.Session, places: Sequence[int], *, show_output: bool, in_order: bool = False
    ) -> None:
        self._session = session
        self._config = session.config
        self._items = session.items
        self._places = places
        self._show_output = show_output
        self._in_order = in_order
        self._held: dict[int, Passed | Result | Missing | Crash] = {}
        self._due = 0
        self._suite_properties: dict[tuple[str, str], int] = {}
        self._seen: set[int] = set()
        #: Per failing test: its id, and the number of the execution that ran it.
        self.failures: dict[str, int] = {}
        #: Per test its duration in seconds: setup, call and teardown.
        self.durations_s: dict[str, float] = {}

    @property
    def missing(self) -> list[str]:
        """The ids of tests without a result."""
        return [item.nodeid for place, item in enumerate(self._items) if place not in self._seen]

    @property
    def count(self) -> int:
        """How many tests have a result."""
        return len(self._seen)

    def play(self, event: Passed | Result | Missing | Crash) -> None:
        """Call the hooks of one finished test, now or when its turn has come."""
        place = self._places[event.index]
        if place in self._seen:
            return
        self._seen.add(place)
        if not self._in_order:
            self._play(place, event)
            return
        self._held[place] = event
        while self._due in self._held and not self.stopped:
            self._play(self._due, self._held.pop(self._due))
            self._due += 1

    def flush(self) -> None:
        """No more will come: play what waits for its turn."""
        for place in sorted(self._held):
            if not self.stopped:
                self._play(place, self._held.pop(place))

    @property
    def stopped(self) -> str:
        """Why a plugin of the local session wants it to end, such as `-x`; empty if none does."""
        return str(self._session.shouldfail or self._session.shouldstop or "")

    def _play(self, place: int, event: Passed | Result | Missing | Crash) -> None:
        item = self._items[place]
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        finished = False
        for kind, value in self._calls(item, event):
            if kind == "aborted":
                finished = True
                continue
            if kind == "warning" and not finished:  # pytest records warnings when the protocol is over
                self._finish(item)
                finished = True
            self._call(item, event.n, kind, value)
        if not finished:
            self._finish(item)

    def _finish(self, item: pytest.Item) -> None:
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def _calls(self, item: pytest.Item, event: Passed | Result | Missing | Crash) -> list[tuple[str, Any]]:
        match event:
            case Passed():
                return [("report", report) for report in passing_reports(item, event)]
            case Result():
                return [self._revive(kind, value) for kind, value in event.calls]
            case Missing():
                text = f"{event.reason}\n\n(the test {item.nodeid} was collected here but not on the worker)"
                return [("report", report) for report in failing_reports(item, "setup", text)]
            case Crash():
                phase = events.PHASES[min(event.post_mortem.get("phase", 1), 2)]
                return [("report", report) for report in failing_reports(item, phase, postmortem.words(event))]

    def _revive(self, kind: str, value: Any) -> tuple[str, Any]:
        if kind != "report":
            return kind, value
        longrepr, subtests = value.pop("$longrepr", None), value.pop("$failed_subtests", 0)
        kind = "captured" if value.pop("$captured", False) else "report"
        report = self._config.hook.pytest_report_from_serializable(config=self._config, data=value)
        if report is None:
            raise events.WireError(f"no plugin reads this report: {value!r}")
        if "_subtest.context" in value:  # pytest 9.2 takes the repr of the values, which are reprs, once more
            object.__setattr__(report.context, "kwargs", value["_subtest.context"]["kwargs"])
        if subtests:
            failed_subtests(self._config)[getattr(report, "id", report.nodeid)] = subtests
        if longrepr:
            report.longrepr = RemoteRepr(*longrepr)
        for name in _FORMAT_ONLY:
            vars(report).pop(name, None)
        return kind, report

    def _call(self, item: pytest.Item, n: int, kind: str, value: Any) -> None:
        if kind in ("report", "captured"):
            if type(value) is pytest.TestReport:  # a subtest's is of another one, and within its test's call
                self.durations_s[item.nodeid] = self.durations_s.get(item.nodeid, 0.0) + value.duration
            if value.failed and not hasattr(value, "wasxfail"):
                self.failures.setdefault(item.nodeid, n)
            if self._show_output:
                self._print_output(value)
            with self._unseen() if kind == "captured" else contextlib.nullcontext():
                item.ihook.pytest_runtest_logreport(report=value)
        elif kind == "warning":
            described, nodeid, location = value
            item.ihook.pytest_warning_recorded.call_historic(
                kwargs={
                    "warning_message": revive_warning(described),
                    "when": "runtest",
                    "nodeid": nodeid,
                    "location": location,
                }
            )
        elif kind == "junit":
            self._tell_junit(item, n, *value)
        else:
            self._write(value)

    def _tell_junit(self, item: pytest.Item, n: int, where: str, name: str, value: str) -> None:
        xml: Any = self._config.stash.get(xml_key, None)
        if xml is None:
            return
        if where == "test":
            xml.node_reporter(getattr(item, "id", item.nodeid)).add_attribute(name, value)
        elif self._suite_properties.setdefault((name, value), n) == n:  # a session fixture says it on each execution
            xml.add_global_property(name, value)

    def _print_output(self, report: pytest.TestReport) -> None:
        """With ``-s`` a report has no captured sections; their text goes to the terminal, each phase's once."""
        texts = [(heading, text) for heading, text in report.sections if heading.startswith(_STANDARD_SECTIONS)]
        report.sections = [section for section in report.sections if section not in texts]
        self._write("".join(text for heading, text in texts if heading.endswith(report.when)))

    @contextlib.contextmanager
    def _unseen(self) -> Generator[None, None, None]:
        """What the terminal would show has been captured where the test ran, and is among its sections."""
        writer: Any = self._config.get_terminal_writer()
        shown, writer._file = writer._file, StringIO()
        try:
            yield
        finally:
            writer._file = shown

    def _write(self, text: str) -> None:
        if text and self._config.pluginmanager.has_plugin("terminalreporter"):
            self._config.get_terminal_writer().write(text, flush=True)


def passing_reports(item: pytest.Item, event: Passed) -> list[pytest.TestReport]:
    """The three reports of a passing test; what its compact event lacks, the local item has."""
    # pytest 9.2 has a structured id, which it would parse from the text each time.
    nodeid: Any = getattr(item, "id", item.nodeid)
    location, keywords = item.location, dict.fromkeys(item.keywords, 1)
    report: Any = pytest.TestReport
    return [
        report(nodeid, location, dict(keywords), "passed", None, when, (), duration, start, stop)
        for when, (start, stop), duration in zip(events.PHASES, event.spans, event.durations, strict=True)
    ]


def failing_reports(item: pytest.Item, phase: str, text: str) -> list[pytest.TestReport]:
    """Reports of a test that could not tell itself: failed in `phase`, the others passed."""
    report: Any = pytest.TestReport
    return [
        report(
            nodeid=item.nodeid,
            location=item.location,
            keywords=dict.fromkeys(item.keywords, 1),
            outcome="failed" if when == phase else "passed",
            longrepr=text if when == phase else None,
            when=when,
        )
        for when in events.PHASES
        if not (phase == "setup" and when == "call")
    ]


def revive_warning(described: dict[str, Any]) -> warnings.WarningMessage:
    """
    The warning that was recorded elsewhere, as `recorder.describe_warning` tells of it.

    Its category is the real class where that can be imported here, else one of the same name and bases; its text is the
    same.
    """
    category = _category(described["module"], described["name"], described["bases"])
    message = _message(category, described["text"])
    filename, lineno, line = described["filename"], described["lineno"], described["line"]
    return warnings.WarningMessage(message, category, filename, lineno, line=line)


def _message(category: type[Warning], text: str) -> Warning:
    """A warning of that category and text, without its constructor, which may want other arguments."""
    message = category.__new__(category)
    message.args = (text,)
    with contextlib.suppress(Exception):  # its class may make the text of attributes that its constructor sets
        if str(message) == text:
            return message
    members = {"__str__": lambda _: text, "__module__": category.__module__}
    shaped: type[Warning] = type(category.__name__, (category,), members)
    return shaped.__new__(shaped)


def _category(module: str, name: str, bases: list[tuple[str, str]]) -> type[Warning]:
    if found := _find_category(module, name):
        return found
    base = next((found for place in bases if (found := _find_category(*place))), Warning)
    return type(name.rpartition(".")[2], (base,), {"__module__": module, "__qualname__": name})


def _find_category(module: str, name: str) -> type[Warning] | None:
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception:  # noqa: BLE001 - an import can raise anything; the name is what counts
        return None
    return found if isinstance(found, type) and issubclass(found, Warning) else None
