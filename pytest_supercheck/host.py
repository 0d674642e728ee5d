"""
The runners of one machine, from which its supervisors get test processes.

Between a supervisor and a runner it only passes descriptors on.  Owned by `supercheck worker`, or by an embedded
session, which have RQ workers beside it (`pool`).
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pytest_supercheck.boot import CONTROL_FD, boot
from pytest_supercheck.discard import discard
from pytest_supercheck.keeper import Child, Keeper, Lines, Marks, kill_group, say, send, tail
from pytest_supercheck.variables import SECRETS

logger = logging.getLogger(__name__)

#: Seconds after the last one went to a run, or died, until a new spare runner is started.
SPARE_S: Final = 5.0

#: Seconds between two looks for workspaces that nobody uses any more.
SWEEP_S: Final = 5.0

#: Seconds for which a runner without children waits for more executions of its run.
IDLE_S: Final = 30.0


@dataclass
class Request:
    """A supervisor that waits for a test process."""

    #: ``n``, ``job``, ``workerinput``, ``basetemp``, ``artifacts``, ``collects``, ``group``: what the test process gets
    #: to know.
    execute: dict[str, Any]
    #: Its end of the connection, and the leash.
    fds: list[int]

    def close(self) -> None:
        """Close our copies of the descriptors."""
        for fd in self.fds:
            os.close(fd)

    def fail(self, message: str) -> None:
        """Tell the supervisor that there is no test process to be had, ever."""
        with socket.socket(fileno=self.fds[0]) as connection:
            say(connection, b"F", {"message": message})
        os.close(self.fds[1])


@dataclass
class RunnerProcess:
    """A runner and what waits for it."""

    #: Its process id.
    pid: int
    #: The socket to it.
    control: socket.socket
    #: What it prints outside of pytest's capture.
    output: int
    #: The run's specification once it has one.
    spec: dict[str, Any] = field(default_factory=dict)
    #: The execution whose identity it collects with, 0 when it can be none any more.
    configured_for: int = 0
    #: Empty while it collects, then ``fork`` or ``spawn``.
    mode: str = ""
    #: Why it does not fork.
    unforkable: str = ""
    #: Supervisors that wait.
    waiting: list[Request] = field(default_factory=list)
    #: How many it has been asked to fork and has not yet.
    forking: int = 0
    #: The children it forked.
    children: set[int] = field(default_factory=set)
    #: When its last execution went to it.
    used_at: float = field(default_factory=time.monotonic)
    #: Whether its run hands out no more work.
    over: bool = False


def test_environment(environ: Mapping[str, str], withheld: frozenset[str]) -> dict[str, str]:
    """The environment of test processes: this one without what belongs to the service, or is withheld besides."""
    return {name: value for name, value in environ.items() if name not in SECRETS | withheld}


class Host:
    """
    Runners, and the socket at which supervisors ask for test processes.

    Args:
        directory: A private directory for the socket.
        spare: Whether to keep a runner that has imported pytest ready for the next run.
        workspaces: Where supervisors make the workspaces of runs, by their ids; None where all runs are in place.
        withheld: Environment variables that test processes do not see, beside `SECRETS`.
    """

    def __init__(
        self, directory: Path, *, spare: bool, withheld: frozenset[str] = frozenset(), workspaces: Path | None = None
    ) -> None:
        self._withheld = withheld
        self.socket_path = str(directory / "host.sock")
        self.selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.socket_path)
        self._listener.listen(64)
        self.selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._keeper = Keeper(self.selector, self._on_exit)
        self._runners: dict[str, RunnerProcess] = {}
        self._own: dict[int, tuple[str, RunnerProcess]] = {}
        self._workspaces = workspaces
        self._sweep_at = 0.0
        self._keep_spare = spare
        self._spare: RunnerProcess | None = None
        self._spare_at = 0.0

    # -- the loop

    def step(self, wait_s: float) -> None:
        """Handle what comes within `wait_s` seconds, at most until something has come."""
        poll_s = self._keeper.poll_s
        for key, _ in self.selector.select(min(wait_s, poll_s) if poll_s else wait_s):
            key.data()
        self._keeper.look()
        self._retire()

    def _retire(self) -> None:
        now = time.monotonic()
        for run, runner in list(self._runners.items()):
            idle_s = 0.0 if runner.over else IDLE_S
            busy = runner.children or runner.waiting or runner.forking
            if runner.mode and not busy and now > runner.used_at + idle_s:
                self._forget(run, runner)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            self._sweep()
        if self._keep_spare and self._spare is None and now >= self._spare_at:
            self._spare = self._start(sys.executable, None)

    def close(self) -> None:
        """Kill every runner and what it runs."""
        self._keeper.kill_all()
        for runner in [*self._runners.values(), *([self._spare] if self._spare else [])]:
            for pid in (runner.pid, *runner.children):
                kill_group(pid)

    # -- runners

    def prepare(self, run: str, spec: dict[str, Any]) -> None:
        """Start a run's runner before anybody asks for it; `configure` must follow."""
        runner = self._runners[run] = self._start(spec["interpreter"], run)
        self._give_spec(runner, spec, 1)

    def configure(self, run: str, workerinput: dict[str, Any]) -> None:
        """Let a prepared runner go on, with the first execution's `workerinput`."""
        self._tell(self._runners[run], {"configure": workerinput})

    def over(self, run: str) -> None:
        """The run hands out no more work: its runner is of no use once it has no children."""
        if runner := self._runners.get(run):
            runner.over = True

    def _start(self, interpreter: str, run: str | None, environ: dict[str, str] | None = None) -> RunnerProcess:
        ours, theirs = socket.socketpair()
        output, path = tempfile.mkstemp(prefix="supercheck-runner-")
        os.unlink(path)
        null = os.open(os.devnull, os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
        actions.append((os.POSIX_SPAWN_DUP2, theirs.fileno(), CONTROL_FD))
        command = [interpreter, *boot("pytest_supercheck.runner")]
        environ = test_environment(os.environ, self._withheld) if environ is None else environ
        pid = os.posix_spawn(interpreter, command, environ, file_actions=actions, setsid=True)
        os.close(null)
        theirs.close()
        runner = RunnerProcess(pid, ours, output)
        lines = Lines(ours)
        self.selector.register(ours, selectors.EVENT_READ, lambda: self._on_message(runner, lines))
        self._own[pid] = (run or "", runner)
        return runner

    def _give_spec(self, runner: RunnerProcess, spec: dict[str, Any], n: int, start: str = "") -> None:
        runner.spec = {**spec, "start": start or spec["start"]}
        runner.configured_for = n
        keys = ("path", "argv", "cwd", "args", "start", "collect", "markup", "width")
        known = {key: runner.spec[key] for key in keys} | {"before": spec.get("before", [])}
        self._tell(runner, {"spec": {**known, "environ": xdist_environment(spec, n)}})

    def _tell(self, runner: RunnerProcess, message: dict[str, Any], fds: list[int] | None = None) -> None:
        try:
            send(runner.control, message, fds)
        except OSError:
            logger.warning("runner gone", extra={"pid": runner.pid})  # its exit is on its way to us

    def _obtain(self, run: str, spec: dict[str, Any], n: int) -> RunnerProcess:
        """The run's runner, started if need be."""
        if run not in self._runners:
            self._runners[run] = self._launch(run, spec, n)
        return self._runners[run]

    def _launch(self, run: str, spec: dict[str, Any], n: int, start: str = "") -> RunnerProcess:
        runner, self._spare = self._spare, None
        if runner is None or spec["interpreter"] != sys.executable or "environment" in spec:
            self._spare, runner = runner, self._start(spec["interpreter"], run, spec.get("environment"))
        else:
            self._own[runner.pid] = (run, runner)
            self._spare_at = time.monotonic() + SPARE_S  # or when it has collected: not beside that
        self._give_spec(runner, spec, n, start)
        self._tell(runner, {"configure": node_input(spec, n)})
        return runner

    def _forget(self, run: str, runner: RunnerProcess) -> None:
        if self._runners.get(run) is runner:
            del self._runners[run]
        self._drop_control(runner)  # at which it kills its children and exits

    def _sweep(self) -> None:
        """Remove the workspaces of runs that have no runner here, nor a supervisor that is about to ask for one."""
        try:
            entries = list(os.scandir(self._workspaces)) if self._workspaces else []
        except OSError as exc:
            logger.warning("workspaces cannot be looked at", extra={"reason": str(exc)})
            return
        for entry in entries:
            if entry.is_dir() and "." not in entry.name and entry.name not in self._runners:
                discard(entry.path)

    def _drop_control(self, runner: RunnerProcess) -> None:
        if runner.control.fileno() >= 0:
            self.selector.unregister(runner.control)
            runner.control.close()

    # -- what comes in

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(5)
        lines = Lines(connection)
        with connection:
            messages = lines.receive()
            while messages == []:
                messages = lines.receive()
        for message, fds in messages or []:
            if "execute" in message:
                try:
                    self._on_request(message["execute"], fds)
                except (OSError, ValueError, LookupError, TypeError) as exc:
                    # A client's spec, or an interpreter that is no more: it must not cost the others theirs.
                    logger.warning("no runner", extra={"run_id": message["execute"].get("run"), "reason": repr(exc)})
                    Request({}, fds).fail(f"this worker cannot start the run's tests: {exc!r}")
            elif "over" in message:
                self.over(message["over"])

    def _on_request(self, request: dict[str, Any], fds: list[int]) -> None:
        run, n, spec = request["run"], request["n"], request["spec"]
        execute = {"n": n, "job": request["job"], "workerinput": node_input(spec, n), "basetemp": basetemp(spec, n),
                   "artifacts": spec["artifacts"], "collects": request["collects"], "group": spec["group"]}  # fmt: skip
        runner = self._obtain(run, spec, n)
        runner.spec = {**spec, "start": runner.spec["start"]}  # a prepared one began with less
        runner.waiting.append(Request(execute, fds))
        self._serve(run, runner)

    def _serve(self, run: str, runner: RunnerProcess) -> None:
        """Pass on what waits, once the runner has collected."""
        waiting, runner.waiting = runner.waiting, []
        for request in waiting:
            if not runner.mode:
                runner.waiting.append(request)
            elif runner.mode == "fork":
                self._pass_on(runner, request)
            elif request.execute["n"] == runner.configured_for:
                runner.configured_for = 0  # it can be this one execution, once
                self._become(runner, request)
            else:
                another = self._launch(run, runner.spec, request.execute["n"], "spawn")
                another.unforkable = runner.unforkable
                another.waiting.append(request)

    def _pass_on(self, runner: RunnerProcess, request: Request) -> None:
        runner.used_at = time.monotonic()
        runner.forking += 1
        self._tell(runner, {"execute": request.execute}, request.fds)
        request.close()

    def _become(self, runner: RunnerProcess, request: Request) -> None:
        """Let a runner that does not fork be the test process itself."""
        page, path = tempfile.mkstemp(prefix="supercheck-marks-")
        os.unlink(path)
        marks = Marks(page)
        self._tell(runner, {"execute": {**request.execute, "spawn": runner.unforkable}}, [*request.fds, page])
        os.close(page)
        connection = socket.socket(fileno=request.fds[0])
        del self._own[runner.pid]
        runner.children.add(runner.pid)
        self._keeper.adopt(Child(runner.pid, connection, request.fds[1], marks, {"process": runner.output}))

    def _on_message(self, runner: RunnerProcess, lines: Lines) -> None:
        messages = lines.receive()
        if messages is None:
            self._drop_control(runner)
            return
        run = self._own.get(runner.pid, ("", runner))[0]
        for message, _ in messages:
            if "ready" in message:
                runner.unforkable = runner.unforkable or message["ready"].get("spawn", "")
                runner.mode = "spawn" if runner.unforkable else "fork"
                self._spare_at = 0.0
                self._serve(run, runner)
            elif "forked" in message:
                runner.forking -= 1
                runner.children.add(message["forked"])
            elif "exited" in message:
                runner.children.discard(message["exited"])
                runner.used_at = time.monotonic()

    # -- what ends

    def reap(self, pid: int) -> bool:
        """
        Take note of the exit of a process of ours that the keeper does not watch.

        Returns:
            Whether it was a runner.
        """
        if pid not in self._own:
            return False
        run, runner = self._own.pop(pid)
        for child in runner.children:
            kill_group(child)
        printed = tail(runner.output)
        os.close(runner.output)
        self._forget(run, runner)
        if runner is self._spare:
            self._spare, self._spare_at = None, time.monotonic() + SPARE_S
        message = (
            f"the tests could not be collected on the worker:\n{printed}" if not runner.mode else "the runner died"
        )
        for request in runner.waiting:
            request.fail(message)
        return True

    def unwatched(self) -> list[int]:
        """The runners that the keeper does not reap."""
        return [pid for pid in self._own if pid not in self._keeper.children]

    def _on_exit(self, child: Child) -> None:
        for _run, runner in list(self._runners.items()):
            if runner.pid == child.pid:
                runner.children.discard(child.pid)
                self._drop_control(runner)  # it stays, as the run's memory that it must not fork


def node_input(spec: dict[str, Any], n: int) -> dict[str, Any]:
    """Xdist's workerinput of execution `n`: what the controller and its plugins put there, and the worker's own id."""
    nodes: list[dict[str, Any]] = spec["nodes"]
    return {**nodes[min(n, len(nodes)) - 1], "workerid": worker_id(n)}


def xdist_environment(spec: dict[str, Any], n: int) -> dict[str, str]:
    """Xdist's variables for execution `n`; its remote.py sets them before anything of the project is imported."""
    return {
        "PYTEST_XDIST_WORKER": worker_id(n),
        "PYTEST_XDIST_WORKER_COUNT": str(spec["count"]),
        "PYTEST_XDIST_TESTRUNUID": spec["uid"],
    }


def worker_id(n: int) -> str:
    """The execution's name as plugins know it from xdist."""
    return f"gw{n - 1}"


def basetemp(spec: dict[str, Any], n: int) -> str:
    """Where execution `n` has its temporary directories, as xdist names them; empty for wherever pytest would."""
    return f"{spec['basetemp']}/popen-{worker_id(n)}" if spec.get("basetemp") else ""
