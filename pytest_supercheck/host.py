"""
The runners of one machine, from which its supervisors get test processes.

Between a supervisor and a runner it only passes descriptors on.  Owned by `supercheck worker`, or by an embedded
session, which have RQ workers beside it (`pool`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from pytest_supercheck.boot import CONTROL_FD, boot
from pytest_supercheck.discard import discard
from pytest_supercheck.errors import CannotIsolate
from pytest_supercheck.isolation import Cell, Isolation, Open
from pytest_supercheck.keeper import Child, Keeper, Lines, Marks, kill_group, readable, send, tail
from pytest_supercheck.runners import (
    Outbox,
    Request,
    RunnerProcess,
    fail,
    node_input,
    test_environment,
    worker_id,
    xdist_environment,
)
from pytest_supercheck.sandbox import Places
from pytest_supercheck.warden import WARDEN_FD

logger = logging.getLogger(__name__)

#: Seconds after the last one went to a run, or died, until a new spare runner is started.
SPARE_S: Final = 5.0

#: Seconds for which a runner without children waits for more executions of its run.
IDLE_S: Final = 30.0

#: Seconds between two looks for workspaces that nobody uses any more.
SWEEP_S: Final = 5.0

#: Seconds that a supervisor has to say what it wants.
HEARD_S: Final = 5.0

#: Bytes of a message from a runner, at most.
MESSAGE_BYTES: Final = 1 << 20

_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE


class Host:
    """
    Runners, and the socket at which supervisors ask for test processes.

    Args:
        directory: A private directory for the socket.
        spare: Whether to keep a runner that has imported pytest ready for the next run.
        workspaces: Where supervisors make the workspaces of runs, by their ids; None where all runs are in place.
        withheld: Environment variables that test processes do not see, beside `SECRETS`.
        isolation: What keeps runs apart; by default nothing.
    """

    def __init__(
        self,
        directory: Path,
        *,
        spare: bool,
        withheld: frozenset[str] = frozenset(),
        workspaces: Path | None = None,
        isolation: Isolation | None = None,
    ) -> None:
        self._withheld = withheld
        self._isolation: Isolation = Open() if isolation is None else isolation
        self._cells: dict[str, Cell] = {}
        self.socket_path = str(directory / "host.sock")
        self.selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.socket_path)
        self._listener.listen(64)
        self.selector.register(self._listener, _READ, self._accept)
        self._keeper = Keeper(self.selector, self._on_exit)
        self._runners: dict[str, RunnerProcess] = {}
        self._own: dict[int, tuple[str, RunnerProcess]] = {}
        self._kept: dict[int, tuple[str, RunnerProcess]] = {}
        self._workspaces = workspaces
        self._sweep_at = 0.0
        self._keep_spare = spare and self._isolation.spare
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
        self._isolation.tidy()

    def _retire(self) -> None:
        now = time.monotonic()
        for run, runner in [*self._runners.items(), *self._own.values()]:
            idle_s = 0.0 if runner.over else IDLE_S
            if runner.used_at and not runner.served and now > runner.used_at + idle_s:
                self._forget(run, runner)
        needed = {*self._runners, *(run for run, _ in (*self._own.values(), *self._kept.values()))}
        for run in self._cells.keys() - needed:
            self._cells.pop(run).release()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            self._sweep()
        if self._keep_spare and self._spare is None and now >= self._spare_at:
            self._prepare_spare(now)

    def _prepare_spare(self, now: float) -> None:
        cell = None
        try:
            cell = self._isolation.cell()
            self._spare = self._start(sys.executable, "", cell, None)
        except (CannotIsolate, OSError) as exc:  # a disk is full, or a table: the next one may have more luck
            logger.info("no spare runner", extra={"reason": str(exc)})
            self._spare_at = now + SPARE_S
            if cell:
                cell.release()

    def close(self) -> None:
        """Kill every runner and what it runs."""
        self._keeper.kill_all()
        for pid in self._own:
            kill_group(pid)
        for cell in {*self._cells.values(), *([self._spare.cell] if self._spare else [])}:
            cell.release()
        self._isolation.close()

    # -- runners

    def prepare(self, run: str, spec: dict[str, Any]) -> None:
        """Start a run's runner before anybody asks for it; `configure` must follow."""
        cell = self._cells[run] = self._isolation.cell()
        runner = self._runners[run] = self._start(spec["interpreter"], run, cell, None)
        self._give_spec(runner, spec, 1)

    def configure(self, run: str, workerinput: dict[str, Any]) -> None:
        """Let a prepared runner go on, with the first execution's `workerinput`."""
        self._tell(self._runners[run], {"configure": workerinput})

    def over(self, run: str) -> None:
        """The run hands out no more work: its runner is of no use once it has no children."""
        for of_run, runner in [*self._runners.items(), *self._own.values()]:
            runner.over = runner.over or of_run == run

    def _start(
        self, interpreter: str, run: str, cell: Cell, places: Places | None, environ: dict[str, str] | None = None
    ) -> RunnerProcess:
        module = "pytest_supercheck.warden" if cell.walled else "pytest_supercheck.runner"
        environ = test_environment(os.environ, self._withheld) if environ is None else environ
        command, environ = cell.command([interpreter, *boot(module)], environ, places)
        ours, theirs = socket.socketpair()
        warden, inside = socket.socketpair() if cell.walled else (None, None)
        output = _temporary_file("supercheck-runner-")
        null = os.open(os.devnull, os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
        actions.append((os.POSIX_SPAWN_DUP2, theirs.fileno(), CONTROL_FD))
        if inside:
            actions.append((os.POSIX_SPAWN_DUP2, inside.fileno(), WARDEN_FD))
        try:
            pid = os.posix_spawn(command[0], command, environ, file_actions=actions, setsid=True)
        except BaseException:
            os.close(output)
            for end in (ours, warden):
                if end:
                    end.close()
            raise
        finally:
            os.close(null)
            theirs.close()
            if inside:
                inside.close()
        runner = RunnerProcess(pid, ours, output, cell, Outbox(ours), warden)
        lines = Lines(ours, fds=0, limit=MESSAGE_BYTES)
        self.selector.register(ours, _READ, lambda: self._on_message(runner, lines))
        self._own[pid] = (run, runner)
        return runner

    def _give_spec(self, runner: RunnerProcess, spec: dict[str, Any], n: int, start: str = "") -> None:
        runner.spec = {**spec, "start": start or spec["start"]}
        runner.configured_for = n
        keys = ("path", "argv", "cwd", "args", "start", "collect", "markup", "width")
        known = {key: runner.spec[key] for key in keys} | {"before": spec.get("before", [])}
        known |= {"environ": xdist_environment(spec, n)}
        leash, runner.leash = os.pipe()
        self._tell(runner, {"spec": known}, [leash])
        os.close(leash)

    def _tell(
        self, runner: RunnerProcess, message: dict[str, Any], fds: list[int] | None = None, *, warden: bool = False
    ) -> None:
        try:
            if warden and runner.warden:
                send(runner.warden, message, fds)  # no user code, and words that are short
            else:
                runner.outbox.put(message, fds or [])
                self._push(runner)
        except OSError:
            logger.warning("runner gone", extra={"pid": runner.pid})  # its exit is on its way to us
            runner.outbox.close()

    def _push(self, runner: RunnerProcess) -> None:
        runner.outbox.push()
        key = self.selector.get_key(runner.control)
        self.selector.modify(runner.control, _READ | (_WRITE if runner.outbox.waits else 0), key.data)

    def _obtain(self, run: str, spec: dict[str, Any], n: int) -> RunnerProcess:
        """The run's runner, started if need be."""
        if run not in self._runners:
            self._runners[run] = self._launch(run, spec, n)
        return self._runners[run]

    def _launch(self, run: str, spec: dict[str, Any], n: int, start: str = "") -> RunnerProcess:
        places, cell, runner = Places.of(spec), self._cells.get(run), self._spare
        if runner is not None and self._fits(runner, spec, cell):
            self._spare = None
            self._own[runner.pid] = (run, runner)
            self._spare_at = time.monotonic() + SPARE_S  # or when it has collected: not beside that
        else:
            runner = None
        try:
            if cell is None:
                cell = self._cells[run] = runner.cell if runner else self._isolation.cell()
                cell.admit(places)
            runner = runner or self._start(spec["interpreter"], run, cell, places, spec.get("environment"))
            self._give_spec(runner, spec, n, start)
            self._tell(runner, {"configure": node_input(spec, n)})
        except BaseException:
            if runner:  # nobody will ask for it, nor for its cell, which goes with it
                self._kill(runner)
            raise
        return runner

    @staticmethod
    def _fits(spare: RunnerProcess, spec: dict[str, Any], cell: Cell | None) -> bool:
        """Whether a spare runner is as good as a new one."""
        return spec["interpreter"] == sys.executable and "environment" not in spec and cell in (None, spare.cell)

    def _sweep(self) -> None:
        """Remove the workspaces of runs that have no runner here, nor a supervisor that is about to ask for one."""
        try:
            entries = list(os.scandir(self._workspaces)) if self._workspaces else []
        except OSError as exc:
            logger.warning("workspaces cannot be looked at", extra={"reason": str(exc)})
            return
        used = self._runners.keys() | self._cells.keys()
        for entry in entries:
            if entry.is_dir() and "." not in entry.name and entry.name not in used:
                discard(entry.path, Path(self.socket_path).parent)

    def _forget(self, run: str, runner: RunnerProcess) -> None:
        if self._runners.get(run) is runner:
            del self._runners[run]
        self._drop_control(runner)
        self._kill(runner)

    def _kill(self, runner: RunnerProcess) -> None:
        """Kill a runner, if it lives; its children go with it."""
        if runner.pid in self._own:
            kill_group(runner.pid)

    def _drop_control(self, runner: RunnerProcess) -> None:
        if runner.control.fileno() >= 0:
            self.selector.unregister(runner.control)
            runner.control.close()
        runner.outbox.close()

    # -- what comes in

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(HEARD_S)
        lines = Lines(connection)
        try:
            with connection:
                messages = lines.receive()
                while messages == []:
                    messages = lines.receive()
        except OSError as exc:  # where memory is short somebody may not come to say a word for seconds
            logger.warning("a supervisor says nothing", extra={"reason": str(exc)})
            for fd in lines.fds:
                os.close(fd)
            return
        for message, fds in messages or []:
            if "execute" in message:
                self._on_request(message["execute"], fds)
            elif "interrupt" in message:
                self._interrupt(message["interrupt"])
            elif "over" in message:
                self.over(message["over"])

    def _on_request(self, asked: dict[str, Any], fds: list[int]) -> None:
        try:
            request = self._request(asked, fds)
        except Exception as exc:  # noqa: BLE001
            # A client's spec, a tree that tests have had, an interpreter that is no more: others have to go on.
            logger.warning("no runner", extra={"run_id": asked.get("run"), "reason": repr(exc)})
            told = str(exc) if isinstance(exc, CannotIsolate) else repr(exc)
            fail(fds, f"this worker cannot start the run's tests: {told}")
            return
        self._follow(request)
        request.runner.waiting.append(request)
        self._serve(asked["run"], request.runner)

    def _request(self, asked: dict[str, Any], fds: list[int]) -> Request:
        run, n, spec = asked["run"], asked["n"], asked["spec"]
        runner = self._obtain(run, spec, n)
        runner.used_at = time.monotonic()
        runner.spec = {**spec, "start": runner.spec["start"]}  # a prepared one began with less
        temporary = spec.get("basetemp") if "workspace" in spec else runner.cell.temporary or spec.get("basetemp")
        execute = {"n": n, "job": asked["job"], "workerinput": node_input(spec, n), "artifacts": spec["artifacts"],
                   "basetemp": f"{temporary}/popen-{worker_id(n)}" if temporary else "",
                   "collects": asked["collects"], "group": spec["group"]}  # fmt: skip
        return Request(execute, fds, runner)

    def _follow(self, request: Request) -> None:
        """
        Note that a runner is needed until the supervisor lets go of the leash.

        Never by what the runner says, or by process ids that it names: it runs user code.
        """
        request.leash = os.dup(request.fds[1])
        request.runner.served.append(request)
        request.runner.used_at = time.monotonic()
        self.selector.register(request.leash, _READ, lambda: self._let_go(request))

    def _let_go(self, request: Request) -> None:
        self.selector.unregister(request.leash)
        os.close(request.leash)
        runner = request.runner
        runner.served.remove(request)
        runner.used_at = time.monotonic()
        if request in runner.waiting:
            runner.waiting.remove(request)
            request.close()

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
                try:
                    self._become(runner, request)
                except OSError as exc:
                    fail(request.fds, str(exc))
            else:
                self._hand_over(run, request)

    def _hand_over(self, run: str, request: Request) -> None:
        """Start another runner for a request, as the one that was asked can serve one only."""
        runner = request.runner
        try:
            another = self._launch(run, runner.spec, request.execute["n"], "spawn")
        except Exception as exc:  # noqa: BLE001 - as above
            fail(request.fds, str(exc))
            return
        another.unforkable = runner.unforkable
        another.waiting.append(request)
        another.served.append(request)
        runner.served.remove(request)
        request.runner, another.used_at = another, time.monotonic()

    def _pass_on(self, runner: RunnerProcess, request: Request) -> None:
        self._tell(runner, {"execute": request.execute}, request.fds)
        request.close()

    def _interrupt(self, job: str) -> None:
        """Have SIGINT sent to the test process of an execution, by its parent."""
        self._keeper.interrupt(job)
        for _, runner in self._own.values():
            if any(request.execute["job"] == job for request in runner.served):
                self._tell(runner, {"interrupt": job}, warden=runner.became)

    def _become(self, runner: RunnerProcess, request: Request) -> None:
        """
        Let a runner that does not fork be the test process itself.

        Raises:
            OSError: There is no room for what it notes, or for watching it; the descriptors are the caller's still.
        """
        page = _temporary_file("supercheck-marks-")
        marks, job = Marks(page), request.execute["job"]
        runner.became = True
        if runner.warden:  # which can wait for it, and is to know before it begins
            self._tell(runner, {"keep": job}, [*request.fds, page], warden=True)
        self._tell(runner, {"execute": {**request.execute, "spawn": runner.unforkable}}, [*request.fds, page])
        if runner.warden:
            marks.close()
            request.close()
            return
        connection = socket.socket(fileno=request.fds[0])
        outputs = {"process": runner.output}
        try:
            self._keeper.adopt(Child(runner.pid, connection, request.fds[1], marks, outputs, job))
        except OSError:
            connection.detach()
            marks.close()
            self._kill(runner)
            raise
        self._kept[runner.pid] = self._own.pop(runner.pid)

    def _on_message(self, runner: RunnerProcess, lines: Lines) -> None:
        if runner.control.fileno() < 0:
            return  # dropped by what came before in the same look
        with contextlib.suppress(OSError):  # where it has gone, there is an end to read
            self._push(runner)
        try:
            messages = lines.receive() if readable(runner.control.fileno()) else []
            said = None if messages is None else [str(message["ready"].get("spawn", "")) for message, _ in messages]
        except Exception:  # noqa: BLE001 - it runs user code, which may send anything
            logger.warning("a runner sends nonsense", extra={"pid": runner.pid})
            self._kill(runner)
            said = None
        if said is None:
            self._drop_control(runner)
            return
        run = self._own.get(runner.pid, ("", runner))[0]
        for reason in said:
            if not runner.mode:
                runner.unforkable = runner.unforkable or reason
                runner.mode = "spawn" if runner.unforkable else "fork"
                self._spare_at = 0.0
                self._serve(run, runner)

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
        printed = tail(runner.output)
        os.close(runner.output)
        if runner.leash >= 0:
            os.close(runner.leash)
        if runner.warden:
            runner.warden.close()
        if runner.became:
            self._drop_control(runner)  # it stays, as the run's memory that it must not fork
        else:
            self._forget(run, runner)
        if runner is self._spare:
            self._spare, self._spare_at = None, time.monotonic() + SPARE_S
            runner.cell.release()
        message = (
            f"the tests could not be collected on the worker:\n{printed}" if not runner.mode else "the runner died"
        )
        waiting, runner.waiting = runner.waiting, []
        for request in waiting:
            fail(request.fds, message)
        return True

    def unwatched(self) -> list[int]:
        """The runners that the keeper does not reap."""
        return [pid for pid in self._own if pid not in self._keeper.children]

    def _on_exit(self, child: Child) -> None:
        _, runner = self._kept.pop(child.pid)
        os.close(runner.leash)
        self._drop_control(runner)  # it stays, as the run's memory that it must not fork


def _temporary_file(prefix: str) -> int:
    fd, path = tempfile.mkstemp(prefix=prefix)
    os.unlink(path)
    return fd
