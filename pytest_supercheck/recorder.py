"""
What the running test reports, kept until it has finished and sent as one event.

Inside the test process, between pytest's hooks and the wire; its counterpart in the local session is `replay`.  Runs
inside the user's environment: stdlib, pytest and this package's wire format only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Generator
from io import StringIO
from typing import Any, Final

import pytest
from _pytest._io import TerminalWriter

from pytest_supercheck import events
from pytest_supercheck.keeper import Marks
from pytest_supercheck.leftovers import Leftovers, open_file

#: What a report of a passing phase consists of, when nobody added to it (pytest 8 has ``nodeid``, 9.2 ``_id``).
_PLAIN: Final = tuple(
    frozenset({name, "location", "keywords", "outcome", "longrepr", "when", "user_properties", "sections",
               "duration", "start", "stop"})
    for name in ("nodeid", "_id")
)  # fmt: skip

#: Seconds until a file is sent again that was one too many on its way.
_CROWDED_S: Final = 0.01

_PHASE: Final = {"setup": 0, "call": 1, "teardown": 2}


class Recorder:
    """The plugin that keeps what the current test reports and sends it when the test has finished."""

    def __init__(
        self, config: pytest.Config, connection: socket.socket, n: int, marks: Marks, leftovers: Leftovers
    ) -> None:
        self._config = config
        self._leftovers = leftovers
        self._capture = global_capture(config)
        self._connection = connection
        self._n = n
        self._marks = marks
        self._calls: list[tuple[str, Any]] = []
        self._index = -1
        self._keywords: frozenset[str] = frozenset()
        self._failed = 0
        # A plugin that serialises reports its own way gets every report.
        serialisers = config.hook.pytest_report_to_serializable.get_hookimpls()
        self._compact = all(plugin.plugin_name in ("reports", "subtests") for plugin in serialisers)
        reporter: Any = config.pluginmanager.getplugin("terminalreporter")  # None with `-p no:terminal`
        self._sink = reporter._tw._file if reporter else None
        self._markup = bool(reporter and reporter._tw.hasmarkup)
        self._width = reporter._tw.fullwidth if reporter else 80
        self._reported = _Reported()
        if reporter:
            reporter._progress_nodeids_reported = self._reported

    def start(self, index: int, item: pytest.Item) -> None:
        """A test begins."""
        self._take_text()  # printed between tests: the controller's own reporter has said it
        self._index = index
        self._keywords = frozenset(item.keywords)
        self._calls = []
        self._failed = 0
        self._leftovers.begin(item)
        self._reported.begin(index)
        self._marks.set(index, 0)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """For each report of the running test."""
        self._take_text()
        self._marks.set(self._index, min(_PHASE.get(report.when, 1) + 1, 2))
        failed = report.failed and not hasattr(report, "wasxfail")
        self._failed += failed
        self._leftovers.look(failed=failed)
        captured = self._capture is not None and self._capture.is_started()
        self._calls.append(("captured" if captured else "report", report))

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: Any, when: str, nodeid: str, location: Any) -> None:
        """For each warning; those of collection and configuration are the controller's."""
        if when == "runtest" and self._index >= 0:
            self._take_text()
            self._calls.append(("warning", (describe_warning(warning_message), nodeid, location)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self, excrepr: object) -> None:
        """A plugin's hook raised: pytest ends such a session, so the whole run ends."""
        self.tell({"t": "stop", "how": "internalerror", "message": str(excrepr)})

    def note(self, kind: str, value: object) -> None:
        """Keep something else that is to be replayed among the running test's reports."""
        self._take_text()
        self._calls.append((kind, value))

    def show_disabled(self) -> None:
        """Let what is printed with capturing disabled, as by ``capsys.disabled()``, reach the controller's terminal."""
        capture: Any = self._config.pluginmanager.getplugin("capturemanager")
        if capture is None:
            return
        disabled = capture.global_and_fixture_disabled

        @contextlib.contextmanager
        def shown() -> Generator[None, None, None]:
            with disabled():
                start = _end_of_output()
                try:
                    yield
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    if text := os.pread(1, max(0, _end_of_output() - start), start):
                        self.note("text", text.decode("utf-8", "replace"))

        capture.global_and_fixture_disabled = shown

    def take_failed(self) -> int:
        """How many reports of the running test failed since this was last asked."""
        failed, self._failed = self._failed, 0
        return failed

    def finish(self, *, aborted: bool = False) -> None:
        """
        The test has ended: send its result.

        Args:
            aborted: It ended the whole session; pytest does not call it finished then.
        """
        self._take_text()
        if aborted:
            self._calls.append(("aborted", None))
        if self._calls:
            for directory, name in self._leftovers.named():
                self._send_file(directory, name)
            body = self._passed() or events.encode_result(self._index, self._n, [self._serial(*c) for c in self._calls])
            self._send(self._index, self.take_failed(), body)
        self._marks.set(-1, 0)
        self._index = -1

    def missing(self, index: int, reason: str) -> None:
        """Report a test that is not here: an error of its setup."""
        self._send(index, 1, events.line({"t": "missing", "i": index, "n": self._n, "reason": reason}))

    def tell(self, event: dict[str, Any]) -> None:
        """Send an event that is not a result."""
        self._connection.sendall(b"E " + events.line({**event, "n": self._n}) + b"\n")

    def _send(self, index: int, failed: int, body: bytes) -> None:
        self._connection.sendall(b"R %d %d %b\n" % (index, failed, body))

    def _send_file(self, directory: str, name: str) -> None:
        fd, why = open_file(directory, name)
        place = os.path.relpath(os.path.realpath(directory), os.path.realpath(self._config.rootpath))
        frame = b"A %d %b\n" % (self._index, events.line([place, name, why]))
        try:
            self._connection.sendall(frame[_send_with(self._connection, frame, fd) :])
        finally:
            if fd >= 0:
                os.close(fd)

    def _take_text(self) -> None:
        if isinstance(self._sink, StringIO) and self._sink.tell():
            self._calls.append(("text", self._sink.getvalue()))
            self._sink.seek(0)
            self._sink.truncate()

    def _passed(self) -> bytes | None:
        """The short form, if this is an ordinary passing test."""
        if not self._compact or len(self._calls) != 3:
            return None
        phases = []
        for (kind, report), when in zip(self._calls, events.PHASES, strict=True):
            if (
                kind != "report"
                or type(report) is not pytest.TestReport
                or report.when != when
                or report.outcome != "passed"
                or report.sections
                or report.user_properties
                or report.longrepr is not None
                or report.__dict__.keys() not in _PLAIN
                or report.keywords.keys() != self._keywords
            ):
                return None
            phases.append((report.start, report.stop, report.duration))
        return events.encode_passed(self._index, self._n, phases)

    def _serial(self, kind: str, value: Any) -> tuple[str, Any]:
        if kind not in ("report", "captured"):
            return kind, value
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=value)
        if data is None:
            raise TypeError(f"no plugin serialises {value!r}: pytest_report_to_serializable returned None")
        if data.get("sections"):
            data["sections"] = [(heading, events.cut(text)) for heading, text in data["sections"]]
        data.update(self._unserialised(value, data))
        if kind == "captured":
            data["$captured"] = True
        return "report", data

    def _unserialised(self, report: Any, data: dict[str, Any]) -> dict[str, Any]:
        """What a report is in its own process and pytest's serialised form of it lacks; see `events.Result`."""
        extra: dict[str, Any] = {}
        longrepr = report.longrepr
        if hasattr(longrepr, "toterminal") and isinstance(data.get("longrepr"), str):
            colours = (False, True) if self._markup else (False,)
            extra["$longrepr"] = [self._written(longrepr, colour) for colour in colours]
        elif longrepr is not None and not isinstance(data.get("longrepr"), (str, tuple, dict)):
            extra["longrepr"] = str(longrepr)
        if count := failed_subtests(self._config).get(getattr(report, "id", report.nodeid)):
            extra["$failed_subtests"] = count
        return extra

    def _written(self, longrepr: Any, colour: bool) -> str:
        file = StringIO()
        writer = TerminalWriter(file)
        writer.hasmarkup, writer.fullwidth = colour, self._width
        longrepr.toterminal(writer)
        return file.getvalue()


def _send_with(connection: socket.socket, frame: bytes, fd: int) -> int:
    """Send the beginning of a frame together with a descriptor, if there is one; returns how much of it."""
    while fd >= 0:
        try:
            return socket.send_fds(connection, [frame], [fd])
        except OSError as exc:
            if exc.errno != errno.ETOOMANYREFS:  # more of this user's are on their way than may be: unix(7)
                raise
        time.sleep(_CROWDED_S)
    return 0


class JunitNotes:
    """
    Stands for the junit file's writer, which is in the controller, where fixtures look for it.

    Source: pytest's `record_xml_attribute` and `record_testsuite_property` (junitxml.py).
    """

    def __init__(self, config: pytest.Config, note: Callable[[str, object], None]) -> None:
        self.family = config.getini("junit_family")
        self._note = note

    def node_reporter(self, _test: object) -> JunitNotes:
        """The writer of the running test."""
        return self

    def add_attribute(self, name: str, value: object) -> None:
        """An attribute of the running test."""
        self._note("junit", ("test", name, str(value)))

    def add_global_property(self, name: str, value: object) -> None:
        """A property of the whole suite."""
        self._note("junit", ("suite", name, str(value)))


def _end_of_output() -> int:
    """The size of the file that descriptors 1 and 2 lead to while nothing is captured."""
    try:
        return os.fstat(1).st_size
    except OSError:  # with `--capture=sys` a test may have closed it
        return 0


def failed_subtests(config: pytest.Config) -> dict[Any, int]:
    """
    How many subtests of each test have failed, as pytest itself counts them.

    Source: `pytest_report_teststatus` of _pytest/subtests.py (pytest 9), which fails tests by it that passed otherwise.
    """
    try:
        from _pytest.subtests import failed_subtests_key
    except ImportError:
        return {}
    return config.stash.get(failed_subtests_key, {})


def describe_warning(warning: Any) -> dict[str, Any]:
    """A `warnings.WarningMessage` in plain values; an argument that has no plain form becomes text."""
    category = warning.category or type(warning.message)
    return {
        "text": str(warning.message),
        "module": category.__module__,
        "name": category.__qualname__,
        "bases": [(base.__module__, base.__qualname__) for base in category.__mro__[1:-1]],
        "filename": warning.filename,
        "lineno": warning.lineno,
        "line": warning.line,
    }


class _Reported(set[Any]):
    """What the terminal reporter counts for its percentages, as if all tests before the running one were in it."""

    _before = 0

    def begin(self, index: int) -> None:
        """The test at that place in the run begins."""
        self._before = index
        self.clear()

    def __len__(self) -> int:
        return self._before + super().__len__()


def global_capture(config: pytest.Config) -> Any:
    """What captures this process's output; None with ``-p no:capture``."""
    return getattr(config.pluginmanager.getplugin("capturemanager"), "_global_capturing", None)


def mute(config: pytest.Config, *, markup: bool, width: int) -> None:
    """
    Let the terminal reporter print nothing by itself, and what others print through it go to a buffer.

    A report that comes while output is captured (of a unittest's subtest) is the exception: pytest's reporter writes
    its letter into what is being captured, so that it becomes part of the test's sections, and so does this one.  With
    ``-v`` that is a line, begun when the test starts; without, where lines end depends on all the tests before.

    Args:
        markup: Whether the controller's terminal shows colours.
        width: Its width in columns.
    """
    manager = config.pluginmanager
    reporter: Any = manager.unregister(name="terminalreporter")
    if reporter is None:
        return
    capture = global_capture(config)
    kind: Any = type(reporter)
    writer = reporter._tw
    stdout, buffer = writer._file, StringIO()

    def pytest_runtest_logreport(self: Any, report: pytest.TestReport) -> None:
        if capture is not None and capture.is_started():
            writer._file = stdout
            kind.pytest_runtest_logreport(self, report)
            writer._file = buffer

    def pytest_runtest_logstart(self: Any, nodeid: str, location: Any) -> None:
        writer._file = StringIO()
        kind.pytest_runtest_logstart(self, nodeid, location)
        writer._file = buffer

    hooks: dict[str, Any] = {name: None for name in dir(kind) if name.startswith("pytest_")}
    hooks["pytest_runtest_logreport"] = pytest_runtest_logreport
    if reporter.showlongtestinfo:
        hooks["pytest_runtest_logstart"] = pytest_runtest_logstart
    else:
        reporter._show_progress_info = False
    reporter.__class__ = type("MuteReporter", (kind,), hooks)
    writer._file, writer.hasmarkup, writer.fullwidth = buffer, markup, width
    manager.register(reporter, "terminalreporter")
