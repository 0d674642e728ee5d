"""
One machine's part in the pool: RQ worker processes, and the runners that their supervisors get test processes from.

Between a supervisor and a runner it only passes descriptors on.  Owned by `supercheck worker`, or by an embedded
session.  Single-threaded, because it forks.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pytest_supercheck.boot import CONTROL_FD, boot
from pytest_supercheck.keeper import Child, Keeper, Lines, Marks, kill_group, say, send, tail

logger = logging.getLogger(__name__)

#: Seconds between two signs of life of the workers.
BEAT_S: Final = 5.0

#: Seconds for which a runner without children waits for more executions of its run.
IDLE_S: Final = 30.0

#: Variables that test processes never see: they would open the service to other people's code.
SECRETS: Final = frozenset(
    {
        "SUPERCHECK_TOKEN",
        "SUPERCHECK_URL",
        "SUPERCHECK_REDIS_URL",
        "SUPERCHECK_DATABASE_URL",
        "SUPERCHECK_S3_ENDPOINT",
        "SUPERCHECK_STORE",
    }
)


@dataclass
class Request:
    """A supervisor that waits for a test process."""

    #: ``n``, ``job``, ``workerinput``, ``basetemp``: what the test process gets to know.
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


def test_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of test processes: this one without what belongs to the service."""
    return {name: value for name, value in environ.items() if name not in SECRETS}


class Host:
    """
    Runners, and the socket at which supervisors ask for test processes.

    Args:
        directory: A private directory for the socket.
        spare: Whether to keep a runner that has imported pytest ready for the next run.
    """

    def __init__(self, directory: Path, *, spare: bool) -> None:
        self.socket_path = str(directory / "host.sock")
        self.selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.socket_path)
        self._listener.listen(64)
        self.selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._keeper = Keeper(self.selector, self._on_exit)
        self._runners: dict[str, RunnerProcess] = {}
        self._own: dict[int, tuple[str, RunnerProcess]] = {}
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

    def _start(self, interpreter: str, run: str | None) -> RunnerProcess:
        ours, theirs = socket.socketpair()
        output, path = tempfile.mkstemp(prefix="supercheck-runner-")
        os.unlink(path)
        null = os.open(os.devnull, os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
        actions.append((os.POSIX_SPAWN_DUP2, theirs.fileno(), CONTROL_FD))
        command = [interpreter, *boot("pytest_supercheck.runner")]
        environ = test_environment(os.environ)
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
        keys = ("path", "argv", "cwd", "args", "start", "markup", "width")
        environ = xdist_environment(spec, n)
        self._tell(runner, {"spec": {**{key: runner.spec[key] for key in keys}, "environ": environ}})

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
        if runner is None or spec["interpreter"] != sys.executable:
            self._spare, runner = runner, self._start(spec["interpreter"], run)
        else:
            self._own[runner.pid] = (run, runner)
            self._spare_at = time.monotonic() + BEAT_S  # or when it has collected: not beside that
        self._give_spec(runner, spec, n, start)
        self._tell(runner, {"configure": node_input(spec, n)})
        return runner

    def _forget(self, run: str, runner: RunnerProcess) -> None:
        if self._runners.get(run) is runner:
            del self._runners[run]
        self._drop_control(runner)  # at which it kills its children and exits

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
                self._on_request(message["execute"], fds)
            elif "over" in message:
                self.over(message["over"])

    def _on_request(self, request: dict[str, Any], fds: list[int]) -> None:
        run, n, spec = request["run"], request["n"], request["spec"]
        execute = {"n": n, "job": request["job"], "workerinput": node_input(spec, n), "basetemp": basetemp(spec, n)}
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
            self._spare, self._spare_at = None, time.monotonic() + BEAT_S
        message = (
            f"the tests could not be collected on the worker:\n{printed}" if not runner.mode else "the runner died"
        )
        for request in runner.waiting:
            request.fail(message)
        return True

    def watched(self, pid: int) -> bool:
        """Whether the keeper reaps that process."""
        return pid in self._keeper.children

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


class Pool:
    """
    A host together with its RQ workers.

    Args:
        host: The runners.
        size: Number of RQ worker processes.
        work: What a worker process does: called in it with its name and the descriptor that ends with this process.
        dispatcher: Where workers are made known; `pytest_supercheck.dispatch.Dispatcher`.
    """

    def __init__(self, host: Host, size: int, work: Callable[[str, int], None], dispatcher: Any) -> None:
        self._host = host
        self._size = size
        self._work = work
        self._dispatcher = dispatcher
        self._workers: dict[int, str] = {}
        self._count = 0
        self._beat_at = self._fork_at = self._died_at = 0.0
        self._stopping = 0
        self._told = False
        self._leash, self._leash_held = os.pipe()
        self._wake, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
        host.selector.register(self._wake, selectors.EVENT_READ, lambda: os.read(self._wake, 512))

    def start(self) -> None:
        """Start the workers."""
        while len(self._workers) < self._size and time.monotonic() >= self._fork_at:
            self._fork()

    def _fork(self) -> None:
        self._count += 1
        name = f"{socket.gethostname()}-{os.getpid()}-{self._count}"
        self._dispatcher.join(name, host=socket.gethostname(), pid=os.getpid())
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.close(self._leash_held)
                self._host.selector.close()
                self._work(name, self._leash)
            except BaseException:
                logger.exception("worker failed", extra={"worker": name})
            finally:
                os._exit(0)
        self._workers[pid] = name

    def stop(self) -> None:
        """First: workers finish their current test and give the rest back. Second: all ends now. Safe in a handler."""
        self._stopping += 1

    def _tell_workers(self) -> None:
        self._told = True
        for pid, name in self._workers.items():
            self._try(lambda name=name: self._dispatcher.quit(name))  # type: ignore[misc]
            os.kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        """End every worker and its work-horse, at once: the leash that they watch ends."""
        os.close(self._leash_held)
        for pid in self._workers:
            kill_group(pid)

    def run(self) -> None:
        """Until stopped."""
        while self._stopping < 2 and (self._workers or not self._stopping):
            self.step()

    def step(self) -> None:
        """Wait for something to do and do it."""
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + BEAT_S
            self._try(self._beat)
        self._host.step(max(0.0, min(1.0, self._beat_at - now)))
        self._reap()
        if not self._stopping:
            self._try(self.start)
        elif not self._told:
            self._tell_workers()

    def _beat(self) -> None:
        for name in self._dispatcher.beat(list(self._workers.values())):
            self._dispatcher.join(name, host=socket.gethostname(), pid=os.getpid())

    def _try(self, call: Callable[[], object]) -> None:
        from pytest_supercheck.errors import SupercheckError

        try:
            call()
        except SupercheckError as exc:
            logger.warning("dispatcher does not answer", extra={"error": str(exc)})

    def _reap(self) -> None:
        for pid in [*self._workers, *self._host._own]:
            if self._host.watched(pid):
                continue
            ended, _ = os.waitpid(pid, os.WNOHANG)
            if ended and not self._host.reap(pid):
                name = self._workers.pop(pid)
                # One that dies is replaced at once, the next ones a second later.
                self._fork_at = (
                    max(self._fork_at, time.monotonic())
                    if time.monotonic() > self._died_at + 1
                    else time.monotonic() + 1
                )
                self._died_at = time.monotonic()
                self._try(lambda name=name: self._dispatcher.quit(name))  # type: ignore[misc]
