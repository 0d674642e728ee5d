"""
The process that imports user code: collects once, then forks one child per execution.

Fourth step of the flow.  Started by a host (`boot`) and spoken to over a socket in
JSON lines; gets descriptors, never an address or a credential.  Runs inside the user's environment: stdlib, pytest and
this package's wire format only.

Messages from the host: ``spec`` (what to collect, and xdist's variables), ``configure`` (xdist's workerinput),
``execute`` (an execution, with its connection and its leash), ``interrupt`` (the test process of one).  To the host:
``ready``.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import platform
import random
import selectors
import signal
import socket
import stat
import sys
import tempfile
import threading
import warnings
from collections.abc import Generator
from typing import Any, Final, NoReturn

import _pytest.config
import pytest

from pytest_supercheck.execution import Execution
from pytest_supercheck.keeper import Child, Keeper, Lines, Marks, out_of_reach, send, tie
from pytest_supercheck.listing import Lister

#: Options that choose tests: a runner collects all that they choose from, unless it is the only one that collects.
_CHOOSING: Final[dict[str, Any]] = {"keyword": "", "markexpr": "", "deselect": None}

#: Options that order tests by what only the controller remembers, or write what only it writes.
_NEUTRAL: Final[dict[str, Any]] = {
    "lf": False,
    "failedfirst": False,
    "newfirst": False,
    "stepwise": False,
    "stepwise_skip": False,
    "stepwise_reset": False,
    "cacheclear": False,
    "maxfail": 0,
    "usepdb": False,
    "trace": False,
    "basetemp": None,
    "supercheck": False,
    # xdist's own, as its remote.py sets them in a worker
    "dist": "no",
    "distload": False,
    "numprocesses": None,
    "maxprocesses": None,
    "tx": [],
    "looponfail": False,
}


class Host:
    """The runner's side of the socket to its host."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._lines = Lines(connection)
        self._pending: list[tuple[dict[str, Any], list[int]]] = []

    def wait_for(self, name: str) -> Any:
        """Block until a message of that name has come; the host's end is ours, and that of a leash that comes along."""
        while True:
            for position, (message, fds) in enumerate(self._pending):
                if name in message:
                    del self._pending[position]
                    for fd in fds:
                        tie(out_of_reach(fd))
                        os.close(fd)
                    return message[name]
            self.read()

    def read(self) -> None:
        """Read what has come, blocking until there is something; exits when the host has gone."""
        messages = self._lines.receive()
        if messages is None:
            raise SystemExit(0)
        self._pending += messages

    def take(self) -> list[tuple[dict[str, Any], list[int]]]:
        """The messages that have been read and not been waited for."""
        pending, self._pending = self._pending, []
        return pending


class Runner:
    """The pytest plugin that turns this process's session into a source of executions."""

    #: Told to `plugin`, which sees the same command line as in the controller.
    is_supercheck_runner = True

    def __init__(self, host: Host, spec: dict[str, Any], threads: int) -> None:
        self.host = host
        self.lister = Lister()
        self.spec = spec
        self.failures: list[tuple[str, str]] = []
        self.execution: Execution | None = None
        self.watched = WatchedEnviron()
        self._threads = threads
        self._random = random.getstate()
        self._maxfail = 0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> Generator[None, object, object]:
        """Before anything is configured: options and workerinput as xdist's remote.py has them."""
        self._maxfail = config.getoption("maxfail")
        collects = self.spec["collect"] == "remote"
        for name, value in (_NEUTRAL if collects else {**_NEUTRAL, **_CHOOSING}).items():
            if hasattr(config.option, name):
                setattr(config.option, name, value)
        workerinput = self.host.wait_for("configure")
        config.workerinput = self.watched.input = WatchedInput(workerinput)  # type: ignore[attr-defined]
        config.workeroutput = {}  # type: ignore[attr-defined]
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """The reporter plugins expect stays there, mute: what is printed is the controller's business."""
        from pytest_supercheck.recorder import mute

        mute(session.config, markup=self.spec["markup"], width=self.spec["width"])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep why a module could not be collected: it is the reason why its tests are missing."""
        if report.failed:
            self.failures.append((report.nodeid, report.longreprtext))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """After collection: serve executions. Returns in a child, when its execution has run."""
        self.watched.stop()
        gc.freeze()  # also: pages shared with the children stay shared
        gc.enable()
        start = self.spec["start"]
        reason = "asked for" if start == "spawn" else self.unforkable() if start == "auto" else ""
        if reason:
            send(self.host.connection, {"ready": {"spawn": reason}})
            message, fds = self._one_execution()
            self.execution = Execution(socket.socket(fileno=fds[0]), message["execute"], Marks(fds[2]), {})
        else:
            send(self.host.connection, {"ready": {}})
            self.execution = self._serve(session.config)
        session.config.option.maxfail = self._maxfail  # what fails here alone can be enough, in the middle of a test
        return self.execution.run(session, self.failures, self.lister)

    def _one_execution(self) -> tuple[dict[str, Any], list[int]]:
        while True:
            for message, fds in self.host.take():
                if "execute" in message:
                    tie(out_of_reach(fds[1]))  # the host watches it too, for as long as it lives
                    return message, fds
            self.host.read()

    def unforkable(self) -> str:
        """Why this process must not be forked, or an empty string."""
        if sys.platform == "darwin":
            return "macOS system libraries do not survive a fork"
        if threading.active_count() > self._threads:
            names = ", ".join(t.name for t in threading.enumerate() if t is not threading.main_thread())
            return f"collection left threads running ({names})"
        if (extra := _kernel_threads() - threading.active_count()) > 0 and not _is_idle_pool(extra):
            return f"a library started {extra} threads during collection"
        if _inet_sockets():
            return "collection left network connections open"
        if self.watched.read:
            return f"collection read the worker's id ({self.watched.read})"
        if sys.modules.get("coverage") and _measures_coverage():
            return "coverage is measuring"
        return ""

    def _serve(self, config: pytest.Config) -> Execution:
        selector = selectors.DefaultSelector()
        keeper = Keeper(selector, lambda _child: None)
        selector.register(self.host.connection, selectors.EVENT_READ, self.host.read)
        seeded = random.getstate()[1][:-1] != self._random[1][:-1]
        try:
            while True:
                for key, _ in selector.select(keeper.poll_s):
                    key.data()
                keeper.look()
                for message, fds in self.host.take():
                    if "interrupt" in message:
                        keeper.interrupt(message["interrupt"])
                    elif execution := self._fork(message["execute"], fds, keeper, seeded):
                        _take_output(execution.outputs, config)
                        selector.close()
                        self.host.connection.close()
                        return execution
        except SystemExit:  # the host has gone, or has no more use for us
            keeper.kill_all()
            os._exit(0)

    def _fork(self, spec: dict[str, Any], fds: list[int], keeper: Keeper, seeded: bool) -> Execution | None:
        """Fork a child. Returns its execution in the child, None in the runner."""
        connection, leash = socket.socket(fileno=fds[0]), fds[1]
        marks = Marks()
        tied, bond = os.pipe()
        outputs = {name: _temporary_file() for name in ("stdout", "stderr", "process")}
        state = random.getstate()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns of threads; `unforkable` has looked
            pid = os.fork()
        if pid:
            keeper.adopt(Child(pid, connection, leash, marks, outputs, spec["job"], bond))
            os.close(tied)
            return None
        os.setsid()
        if seeded:
            random.setstate(state)
        keeper.abandon()
        os.close(bond)
        for fd in (leash, tied):  # neither the supervisor's end nor this runner's leaves it behind
            tie(out_of_reach(fd))
            os.close(fd)
        return Execution(connection, spec, marks, outputs)


def _reader() -> str:
    """The module that looks something up, beyond the standard library's mapping classes."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_globals.get("__name__") in ("os", "_collections_abc", "collections.abc"):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "?"))


#: Modules that only ask whether there is a worker at all, not which one it is.
_HARMLESS: Final = frozenset({"pytest_benchmark.session"})


class WatchedInput(dict[str, Any]):
    """xdist's workerinput, which notes whether somebody asks for the worker's id before the worker exists."""

    watched: str = ""

    def __getitem__(self, key: str) -> Any:
        if key == "workerid" and (reader := _reader()) not in _HARMLESS:
            self.watched = f"config.workerinput['workerid'], in {reader}"
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dict."""
        return self[key] if key in self else default  # noqa: SIM401 - by way of `__getitem__`


class _EnvironData(dict[Any, Any]):
    """The mapping inside `os.environ`, which notes look-ups of the worker's id."""

    watched: str = ""

    def __getitem__(self, key: Any) -> Any:
        if key == b"PYTEST_XDIST_WORKER" and (reader := _reader()) not in _HARMLESS:
            self.watched = f"$PYTEST_XDIST_WORKER, in {reader}"
        return super().__getitem__(key)


class WatchedEnviron:
    """
    Notices code that reads the worker's id while it is collected: a fork would give all executions the same answer.
    """

    def __init__(self) -> None:
        self.input: WatchedInput | None = None
        self._data: _EnvironData | None = None

    @property
    def read(self) -> str:
        """What was read, or an empty string."""
        return (self.input.watched if self.input else "") or (self._data.watched if self._data else "")

    def start(self) -> None:
        """Start to look, where `os.environ` is built as in CPython."""
        data = getattr(os.environ, "_data", None)
        if type(data) is dict:
            self._data = _EnvironData(data)
            self._put(self._data)

    def stop(self) -> None:
        """Put the plain mapping back; what has been noted stays."""
        if getattr(os.environ, "_data", None) is self._data and self._data is not None:
            self._put(dict(self._data))

    @staticmethod
    def _put(mapping: dict[Any, Any]) -> None:
        os.environ._data = os.environb._data = mapping  # type: ignore[attr-defined]


def _kernel_threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def _is_idle_pool(extra: int) -> bool:
    """Whether the kernel threads can be those of OpenBLAS, which stops its pool before a fork and restarts it after."""
    if extra >= 2 * (os.cpu_count() or 1):
        return False
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        return "openblas" in maps.read()


def _inet_sockets() -> bool:
    return any(_has_port(int(name)) for name in os.listdir("/dev/fd"))


def _has_port(fd: int) -> bool:
    """Whether a descriptor is a TCP or UDP socket in use."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        with socket.socket(fileno=os.dup(fd)) as connection:
            return connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getsockname()[1] != 0
    except OSError:  # the directory's own descriptor, closed by now
        return False


def _measures_coverage() -> bool:
    current = getattr(sys.modules["coverage"], "Coverage", None)
    return current is not None and current.current() is not None


def _temporary_file() -> int:
    fd, path = tempfile.mkstemp(prefix="supercheck-")
    os.unlink(path)
    return fd


def _take_output(outputs: dict[str, int], config: pytest.Config) -> None:
    """
    Give this process output files of its own.

    Forked siblings share the runner's: its own stdout and stderr (also where faulthandler holds a copy), and the files
    behind pytest's capture.  The new ones are put in their place, under the same descriptors.
    """
    shared = _identity(1)
    for name in os.listdir("/dev/fd"):
        if _identity(int(name)) == shared:
            os.dup2(outputs["process"], int(name), inheritable=int(name) < 3)
    capture = getattr(config.pluginmanager.getplugin("capturemanager"), "_global_capturing", None)
    for stream, name in (("out", "stdout"), ("err", "stderr")):
        file = getattr(getattr(capture, stream, None), "tmpfile", None)
        try:
            os.dup2(outputs[name], file.fileno(), inheritable=False)  # type: ignore[union-attr]
        except (AttributeError, OSError, ValueError):
            continue  # captured in memory, or not at all


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def main(fd: int) -> int:
    """Be a runner on socket `fd` until the host goes; returns the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    host = Host(socket.socket(fileno=fd))
    threads = threading.active_count()
    _prepare()
    spec = host.wait_for("spec")
    sys.path[:] = spec["path"] or [*spec["before"], *sys.path]
    sys.argv[:] = spec["argv"]
    os.chdir(spec["cwd"])
    os.environ.update(spec["environ"])
    runner = Runner(host, spec, threads)
    runner.watched.start()
    gc.disable()  # until the items are there: it would look at them again and again, and they stay
    plugins: list[object] = [runner, runner.lister] if spec["collect"] == "remote" else [runner]
    code = int(pytest.main(spec["args"], plugins=plugins))
    if runner.execution:
        leave_process()
    return code or 1


def _prepare() -> None:
    """What takes a while and no run can change: a spare runner does it before it is needed."""
    for name in _pytest.config.default_plugins:
        importlib.import_module(f"_pytest.{name}")
    platform.platform()  # kept by that module: every test process tells it


def leave_process() -> NoReturn:
    """
    End a process as Python does, without taking its modules down, which takes long and is of no use.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0)
