"""
One execution inside the test process: pulls items, runs them, tells what they reported.

Between the supervisor's connection and pytest's runtest protocol; knows nothing of Redis or of the controller.  Runs
inside the user's environment: stdlib, pytest and this package's wire format only.

Lines to the supervisor: ``C items`` (what there is to run, where it wants to know), ``A index file`` (what a test has
left behind, before its result: place, name, and why it cannot be had; else it comes along), ``R index failed event`` (a
finished test), ``N failed`` (hand out the next chunk), ``E event`` (to be passed on).  Lines from it:
``{"items": [[index, name], ...]}``, ``{"leave": why}`` (after the current test), or ``{"yield": true}`` (after the
current group, if it is in one).
"""

from __future__ import annotations

import collections
import json
import os
import platform
import socket
import sys
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from _pytest.junitxml import xml_key

from pytest_supercheck import events
from pytest_supercheck.groups import Arrangement, wire_names
from pytest_supercheck.keeper import Lines, Marks, out_of_reach, readable
from pytest_supercheck.leftovers import Leftovers
from pytest_supercheck.listing import Lister
from pytest_supercheck.recorder import JunitNotes, Recorder

#: Characters of why a run's tests could not be collected.
TROUBLE_LIMIT: Final = 20_000


@dataclass(frozen=True)
class Task:
    """An item that has been handed out."""

    #: Its index in the run.
    index: int
    #: The item.
    item: pytest.Item
    #: Whether it is of the same group as the one before.
    joined: bool


class Feed:
    """
    The items that this execution is to run, pulled in chunks.

    Args:
        connection: To the supervisor.
        items: Where an item of a name is found.
        failed: How many reports failed that have not been counted yet.
    """

    def __init__(self, connection: socket.socket, items: Items, failed: Callable[[], int]) -> None:
        self._failed = failed
        self._connection = connection
        self._lines = Lines(connection)
        self._items = items
        self._chunk: collections.deque[Task] = collections.deque()
        self._promised: Task | None = None
        self._left = self._yielding = False

    def promise(self) -> pytest.Item | None:
        """The item that will run next; once given, it will, whatever comes."""
        if self._promised is None:
            self._promised = self._next()
        return self._promised.item if self._promised else None

    def take(self) -> Task | None:
        """The next item; None when this execution is to leave."""
        taken, self._promised = self._promised or self._next(), None
        return taken

    def leave(self) -> None:
        """Take nothing more, not even what was promised: the session has ended, as pytest's own would have."""
        self._left, self._promised = True, None

    def _next(self) -> Task | None:
        if not self._left and readable(self._connection.fileno()):
            self._receive()  # told to leave in the middle of a chunk
        while not self._left and not self._chunk:
            self._connection.sendall(b"N %d\n" % self._failed())
            while not self._receive():
                pass  # a long answer comes in parts
        if self._yielding and self._chunk and not self._chunk[0].joined:
            self._left = True
        return None if self._left else self._chunk.popleft()

    def _receive(self) -> bool:
        """Read what has come; returns whether that was an answer, or the end."""
        messages = self._lines.receive()
        if messages is None:  # the supervisor has gone
            self._left = True
            return True
        answered = False
        for message, _ in messages:
            answered = answered or "yield" not in message
            if "leave" in message:
                self._left = True
            elif "yield" in message:
                self._yielding = True
            else:
                self._chunk.extend(found for row in message["items"] if (found := self._items.find(*row)))
        return answered


class Items:
    """The collected items by their name on the wire; see `groups.wire_names`."""

    def __init__(self, session: pytest.Session, failures: list[tuple[str, str]], report: Any) -> None:
        self._failures = failures
        self._report = report
        self._by_name: dict[Any, pytest.Item] = {}
        seen: collections.Counter[str] = collections.Counter()
        for item in session.items:
            nodeid = item.nodeid
            self._by_name[(nodeid, seen[nodeid])] = item
            seen[nodeid] += 1

    def find(self, index: int, name: str) -> Task | None:
        """The item of a name; when there is none this is reported as the test's result."""
        value: Any = json.loads(name)
        nodeid, number, *joined = (value, 0) if isinstance(value, str) else value
        item = self._by_name.get((nodeid, number))
        if item is None:
            self._report(index, self._reason(nodeid))
            return None
        return Task(index, item, bool(joined))

    def _reason(self, nodeid: str) -> str:
        for collector, text in self._failures:
            if nodeid == collector or nodeid.startswith((f"{collector}::", f"{collector}/")):
                return f"the worker could not collect {collector}:\n{text}"
        return "the worker did not collect this test: its id differs between the two sides, or depends on the process"


class NextItem:
    """
    Stands for the item after the current one and finds out which it is when somebody wants to know.

    pytest needs it for the teardown only.  Until then the next item may be given to whoever is free first, and this
    execution may be told to leave; then there is none, which makes pytest tear everything down within the current test.
    """

    def __init__(self, feed: Feed) -> None:
        object.__setattr__(self, "_feed", feed)

    def __bool__(self) -> bool:
        return self._feed.promise() is not None

    def __eq__(self, other: object) -> bool:
        return bool(self._feed.promise() == other)

    def __hash__(self) -> int:
        return hash(self._feed.promise())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._feed.promise(), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._feed.promise(), name, value)

    def listchain(self) -> list[Any]:
        """As of a node; what `SetupState.teardown_exact` asks for."""
        item = self._feed.promise()
        return item.listchain() if item else []


class Execution:
    """An execution in its process."""

    def __init__(self, connection: socket.socket, spec: dict[str, Any], marks: Marks, outputs: dict[str, int]) -> None:
        self.connection = connection
        self.outputs = outputs
        self._spec = spec
        self._marks = marks
        self._move_connection()

    def _move_connection(self) -> None:
        """Out of the reach of tests that close the low descriptors."""
        high = out_of_reach(self.connection.fileno())
        self.connection.close()
        self.connection = socket.socket(fileno=high)

    def run(self, session: pytest.Session, failures: list[tuple[str, str]], lister: Lister) -> bool:
        """Run items until told to leave; the body of `pytest_runtestloop`."""
        config, n = session.config, self._spec["n"]
        self._become_worker(config)
        leftovers = Leftovers(str(config.rootpath), self._spec["artifacts"])
        recorder = Recorder(config, self.connection, n, self._marks, leftovers)
        recorder.show_disabled()
        if config.getoption("xmlpath", None):
            notes: Any = JunitNotes(config, recorder.note)
            config.stash[xml_key] = notes
        feed = Feed(self.connection, Items(session, failures, recorder.missing), recorder.take_failed)
        config.pluginmanager.register(recorder, "supercheck-recorder")
        config.pluginmanager.register(_Farewell(recorder), "supercheck-farewell")
        recorder.tell({"t": "ready", "pid": os.getpid(), "info": events.pack(worker_info()),
                       "spawn": self._spec.get("spawn", "")})  # fmt: skip
        if self._spec["collects"]:
            self._list(session, failures, lister)
        while task := feed.take():
            self._run_one(task, feed, recorder, config)
            if session.shouldfail or session.shouldstop:  # a test or plugin said so, or `maxfail`
                how = "shouldfail" if session.shouldfail else "shouldstop"
                recorder.tell({"t": "stop", "how": how, "message": str(getattr(session, how))})
                feed.leave()
        return True

    def _list(self, session: pytest.Session, failures: list[tuple[str, str]], lister: Lister) -> None:
        """Tell what there is to run: nobody else has collected it."""
        arrangement = Arrangement(session.items, self._spec["group"])
        places, joined = arrangement.places, arrangement.joined
        trouble = bool(failures) and not session.config.option.continue_on_collection_errors
        told: dict[str, Any] = {"listing": lister.tell(session, places, trouble=trouble).decode("ascii")}
        if trouble:
            texts = "\n".join(events.cut(text, TROUBLE_LIMIT // len(failures)) for _, text in failures)
            told["trouble"] = f"the tests could not be collected:\n{texts}"
        else:
            names = wire_names(session.items, places, joined)
            single = len(names) if session.config.getoption("maxfail") else 0
            told |= {"names": names, "joined": joined, "single": single}
        self.connection.sendall(b"C %s\n" % events.line(told))

    def _run_one(self, task: Task, feed: Feed, recorder: Recorder, config: pytest.Config) -> None:
        recorder.start(task.index, task.item)
        try:
            config.hook.pytest_runtest_protocol(item=task.item, nextitem=NextItem(feed))
        except pytest.exit.Exception as exc:
            recorder.finish(aborted=True)
            recorder.tell({"t": "stop", "how": "exit", "message": exc.msg, "code": exc.returncode})
            raise
        except KeyboardInterrupt as exc:
            recorder.finish(aborted=True)
            place = traceback.extract_tb(exc.__traceback__)[-1]
            recorder.tell({"t": "stop", "how": "interrupt", "message": f"{place.filename}:{place.lineno}"})
            raise
        recorder.finish()

    def _become_worker(self, config: pytest.Config) -> None:
        """Take the execution's own identity: xdist's variables and workerinput, and its own temporary directory."""
        workerinput = self._spec["workerinput"]
        os.environ["PYTEST_XDIST_WORKER"] = workerinput["workerid"]
        config.workerinput = workerinput  # type: ignore[attr-defined]
        factory = getattr(config, "_tmp_path_factory", None)
        if factory is not None and self._spec.get("basetemp"):
            factory._given_basetemp = Path(self._spec["basetemp"])
            factory._basetemp = None


class _Farewell:
    """Tells what plugins left in ``config.workeroutput``, after all their `pytest_sessionfinish`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None, object, object]:
        """The outermost wrapper; xdist's worker adds the same three keys."""
        output = session.config.workeroutput  # type: ignore[attr-defined]
        output.update(exitstatus=int(exitstatus), shouldfail=session.shouldfail, shouldstop=session.shouldstop)
        try:
            return (yield)
        finally:
            self._recorder.tell({"t": "output", "output": events.pack(output)})


def worker_info() -> dict[str, Any]:
    """This process as xdist's ``workerinfo`` describes it (xdist's remote.py, `getinfodict`)."""
    return {
        "version": sys.version,
        "version_info": tuple(sys.version_info),
        "sysplatform": sys.platform,
        "platform": platform.platform(),
        "executable": sys.executable,
        "cwd": os.getcwd(),
        "host": socket.gethostname(),
    }
