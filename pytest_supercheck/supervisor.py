"""
The RQ job: one execution, from the side that holds the lease.

Third step of the flow.  Runs in the work-horse; moves bytes between the dispatcher and the test process and knows
deadlines, cancelling and killing.  It never imports user code and does not decode what tests report.

Frames from the test process (`execution`): ``C items``, ``A index file``, ``R index failed event``, ``N failed``,
``E event``; from its parent (`keeper`): ``X ended``, after which nothing follows; from the host: ``F message`` when
there is no runner to be had.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import Fatal, SupercheckError, Unreachable
from pytest_supercheck.events import encode_note
from pytest_supercheck.keeper import CUT
from pytest_supercheck.mailbox import Mailbox
from pytest_supercheck.model import Begun, Chunk, Gone, JobId, Leave, Next, Offer, Recycle, Wait
from pytest_supercheck.process import TestProcess, tell_host
from pytest_supercheck.workplace import Workplace, misplaced

if TYPE_CHECKING:
    from pytest_supercheck.artifacts import Artifacts
    from pytest_supercheck.preparation import Preparation

logger = logging.getLogger(__name__)

#: Seconds between renewals of the lease, and after which an unrenewed one has lapsed (see `dispatch.lua`).
RENEW_S: Final = 5.0
LEASE_S: Final = 15.0

#: Seconds in which what tests report is gathered before it crosses to Redis, where tests are shorter than that.
GATHER_S: Final = 0.01

#: Seconds that a test process has to exit once its session is over, and after an interrupt.
EXIT_S: Final = 5.0

#: What a spec gets on the worker alone; from a client nobody takes it.
OURS: Final = frozenset({"workspace", "environment", "readable", "before"})

#: Test processes in a row that may die without having started a test.
FUTILE: Final = 3

#: The workplace of this worker process: RQ calls `supervise` by name, so nothing can be handed to it.
workplace: Workplace | None = None


def supervise(job_id: str) -> str:
    """
    Serve one execution; the function that RQ calls, by name and with JSON arguments.

    Returns:
        Why it ended: ``left``, ``gone``, ``fatal``.
    """
    from rq import get_current_job

    job = get_current_job()
    if job is None or workplace is None:
        raise SupercheckError("supervise() runs as an RQ job of a supercheck worker only")
    dispatcher = Dispatcher(workplace.connect())
    begun = dispatcher.begin(JobId(job_id), worker=job.worker_name or "")
    if begun is None:
        return "gone"
    mailbox = Mailbox(dispatcher, begun.job)
    _CURRENT.append(mailbox)
    try:
        return Supervisor(dispatcher, begun, mailbox.fd, workplace).run()
    except Exception:
        logger.exception("supervisor failed", extra={"job_id": job_id})
        dispatcher.lapse(begun.job)  # somebody else may have more luck, sooner than its lease would tell
        raise


#: The mailbox of the execution that this work-horse serves, for its signal handler.
_CURRENT: list[Mailbox] = []


def on_signal(_signum: int, _frame: object) -> None:
    """SIGTERM of the worker process, passed on to its work-horse: finish the current test and give the rest back."""
    for mailbox in _CURRENT:
        mailbox.put("leave")


@dataclass
class Batch:
    """What test processes reported and Redis has not got yet."""

    lines: list[bytes] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    failed: int = 0


class Supervisor:
    """
    One execution.

    Args:
        dispatcher: Where it holds its slot.
        begun: What it is to do.
        mail_fd: Delivers words line by line.
        place: The worker process that it runs in.
    """

    def __init__(self, dispatcher: Dispatcher, begun: Begun, mail_fd: int, place: Workplace) -> None:
        self._dispatcher = dispatcher
        self._begun = begun
        self._mail_fd = mail_fd
        self._host_socket = place.host_socket
        self._host_leash = place.host_leash
        told: dict[str, Any] = json.loads(begun.spec)
        self._spec = {key: value for key, value in told.items() if key not in OURS}
        self._seq = 0
        self._batch = Batch()
        self._leaving = ""
        self._futile = self._failed = 0
        self._wants = self._asked = False
        self._ahead: Next | None = None
        self._ended: dict[str, Any] = {}
        self._kill_at: float | None = None
        self._renewed_at = time.monotonic()
        self._read_at = 0.0
        self._limit_s = begun.timeout_s or place.execution_timeout_s
        taken_s = (begun.now_ms - begun.started_ms) / 1000
        self._deadline_at = time.monotonic() + self._limit_s - taken_s if self._limit_s else float("inf")
        self._place = place
        #: What it waits for: the one test process, or before that the run's workspace.
        self._awaited: TestProcess | Preparation
        #: Puts the session's paths in place of this host's, where they are others.
        self._home: Callable[[bytes], bytes] | None = None
        self._artifacts: Artifacts | None = None
        self._frames: dict[bytes, Callable[[bytes], None]] = {
            b"C": self._on_items,
            b"A": self._on_file,
            b"R": self._on_result,
            b"N": self._on_next,
            b"E": self._on_event,
            b"X": self._on_ended,
            b"F": self._on_failure,
        }

    def run(self) -> str:
        """Serve test processes, one after the other, until the slot has been given back or lost."""
        if "source" not in self._spec and (reason := misplaced(self._spec)):
            self._dispatcher.fatal(self._begun.job, reason)
            return "fatal"
        try:
            if "source" in self._spec and not self._prepare():
                return "fatal"
            while not self._leaving:
                self._ahead = self._next(fresh=True)  # a run that has no work left needs no process
                if isinstance(self._ahead, Leave):
                    self._leaving = self._ahead.reason
                else:
                    # Nobody else collects: until somebody has told what there is to run, each test process does.
                    collects = self._spec["collect"] == "remote" and isinstance(self._ahead, Wait)
                    self._serve(TestProcess(self._begun, self._host_socket, self._spec, collects=collects))
            if self._leaving == "gone":
                return "gone"
            self._flush()
            if self._leaving != "yield":
                # The run needs no more test processes of this host: its runner need not wait for more executions.
                tell_host(self._host_socket, {"over": self._begun.run})
            self._dispatcher.leave(self._begun.job)
            return "left"
        except _SlotLost:
            return "gone"

    def _prepare(self) -> bool:
        """Have the run's workspace made ready; whether there can be one."""
        from pytest_supercheck.preparation import Preparation
        from pytest_supercheck.workspace import Workspaces

        place, begun = self._place, self._begun
        links = Path(place.host_socket).parent
        workspaces = Workspaces(Path(place.workspaces), Path(place.cache), links, place.store, place.confine)
        preparation = self._awaited = Preparation(
            lambda tell, pulse: workspaces.prepare(begun.run, begun.project, self._spec, tell, pulse)
        )
        try:
            going_on = True
            while going_on:
                going_on = not self._wait(preparation.fd) or preparation.heard()
                while preparation.notes:
                    text, detail = preparation.notes.popleft()
                    self._batch.lines.append(encode_note(begun.n, text, detail=detail))
                self._flush()
        finally:
            preparation.close()
        if preparation.result is not None:
            self._spec, self._home = preparation.result.spec, preparation.result.home
        elif isinstance(preparation.error, Fatal):
            self._dispatcher.fatal(begun.job, str(preparation.error))
            return False
        elif preparation.abandoned:
            self._leaving = self._leaving or "yield"  # what it was told while it had nothing to finish
        else:
            assert preparation.error is not None
            self._batch.lines.append(encode_note(begun.n, f"the worker cannot begin: {preparation.error}"))
            self._flush()
            raise preparation.error
        return True

    def _serve(self, process: TestProcess) -> None:
        """One test process, to its end."""
        self._process, self._ended, self._kill_at, self._wants = process, {}, None, False
        self._awaited = process
        try:
            while not self._ended:
                if self._wait(process.connection.fileno()):
                    self._read()
                self._flush()
                if self._wants and not self._leaving:
                    self._hand_out()
        finally:
            process.close()
        self._flush()
        self._settle(self._ended)

    def _settle(self, ended: dict[str, Any]) -> None:
        """A test process has ended: charge the test that it died in, if it did not end by itself."""
        if self._process.over or self._process.told in ("kill", "interrupt") or self._leaving == "gone":
            self._retry(lambda: self._dispatcher.back(self._begun.job))
            return
        self._seq += 1
        post_mortem = json.dumps(ended).encode("ascii")
        self._retry(
            lambda: self._dispatcher.crash(
                self._begun.job, seq=self._seq, idx=ended.get("i", -1), post_mortem=post_mortem
            )
        )
        self._futile = 0 if self._process.useful or ended.get("i", -1) >= 0 else self._futile + 1
        if self._futile >= FUTILE:
            self._dispatcher.fatal(
                self._begun.job, f"{FUTILE} test processes died before their first test: {describe(ended)}"
            )
            self._leaving = "gone"

    def _wait(self, source: int) -> bool:
        """Until something has come or is due; whether it has come from that source."""
        now = time.monotonic()
        due = min(self._renewed_at + RENEW_S, self._deadline_at, self._kill_at or float("inf"))
        ready, _, _ = select.select([source, self._mail_fd, self._host_leash], [], [], max(0, due - now))
        if self._host_leash in ready:
            self._awaited.kill()
            os._exit(1)
        if self._mail_fd in ready:
            for word in os.read(self._mail_fd, 4096).split():
                self._on_word(word.decode())
        self._keep_time()
        return source in ready

    def _read(self) -> None:
        with self._unbelieving():
            frames = self._process.read()
            if frames is None:
                self._ended = {"reason": "its parent process has gone", "i": -1}
                return
            for frame in frames:
                if frame.endswith(CUT):
                    continue  # whoever began it was killed
                if frame and (frame[:1] == b"X" or not self._process.senseless):
                    with self._unbelieving():
                        self._frames[frame[:1]](self._sent_home(frame)[2:])
        if not self._urgent() and time.monotonic() < self._read_at + GATHER_S:
            time.sleep(GATHER_S)  # results come faster than is worth a call each
        self._read_at = time.monotonic()

    @contextlib.contextmanager
    def _unbelieving(self) -> Iterator[None]:
        """Have to do with what a test process sends: it runs user code, and nonsense is its own end, not ours."""
        try:
            yield
        except (_SlotLost, SupercheckError):
            raise
        except Exception:
            logger.warning("a test process sends nonsense", extra={"job_id": self._begun.job}, exc_info=True)
            self._process.senseless = "it sent what no test process sends"
            self._process.kill()

    def _sent_home(self, frame: bytes) -> bytes:
        """
        A frame with the session's paths in place of this host's.

        Not in what plugins leave for each other: pytest-cov maps paths itself.
        """
        if self._home is None or frame.startswith(b'E {"t":"output"'):
            return frame
        return self._home(frame)

    def _urgent(self) -> bool:
        """Whether somebody waits for what has come."""
        process = self._process
        return bool(self._wants or process.told or process.over or self._ended or len(self._batch.lines) >= 500)

    def _keep_time(self) -> None:
        now = time.monotonic()
        if now >= self._renewed_at + RENEW_S:
            self._retry(self._renew)
        if now >= self._deadline_at:
            self._deadline_at = float("inf")
            limit = f"the run's time limit of {self._limit_s:g} s is over"
            self._dispatcher.cancel(self._begun.run, outcome="timeout", how="kill", message=limit)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._awaited.kill()

    def _renew(self) -> None:
        if not self._dispatcher.renew(self._begun.job):
            raise _SlotLost
        self._renewed_at = time.monotonic()

    def _on_word(self, word: str) -> None:
        if word == "items":
            self._wants = self._asked
        elif word == "leave":
            self._leave("leave")
        elif word == "yield":
            self._yield()
        elif word == "interrupt" and self._awaited.told not in ("interrupt", "kill"):
            self._leave("interrupt")
            if self._awaited.ready:
                self._awaited.interrupt()
            self._kill_at = time.monotonic() + EXIT_S
        elif word == "kill":
            self._leave("kill")
            self._awaited.kill()

    def _leave(self, told: str) -> None:
        """This execution is to end: the test process finishes its current test, at most."""
        self._leaving = self._leaving or told
        if self._awaited.told in ("", "yield"):
            self._awaited.say({"leave": told})
        self._awaited.told = told

    def _yield(self) -> None:
        """Somebody else needs the slot: the test process goes on to the end of the group that it is in, if any."""
        self._wants = self._asked
        if not self._awaited.told:
            self._awaited.say({"yield": True})
            self._awaited.told = "yield"

    def _on_items(self, frame: bytes) -> None:
        """What there is to run; of several who tell it the first one counts."""
        if not self._process.collects:
            return
        told = json.loads(frame)
        self._flush()
        listing = str(told["listing"])
        if trouble := told.get("trouble"):
            offer = Offer(names=(), listing=listing, trouble=str(trouble))
        else:
            names = [str(name) for name in told["names"]]
            joined = [int(index) for index in told["joined"]]
            offer = Offer(names=names, single=int(told["single"]), joined=joined, listing=listing)
        self._retry(lambda: self._dispatcher.offer(self._begun.run, offer))

    def _on_file(self, frame: bytes) -> None:
        """A test has left a file behind: it goes into the store before the test's result goes into the stream."""
        if self._artifacts is None:
            from pytest_supercheck.artifacts import Artifacts

            self._artifacts = Artifacts(self._begun.project, self._begun.run, self._begun.n, self._place.store)
        self._flush()  # what others have reported need not wait
        index, told = frame.split(b" ", 1)
        place, name, why = (str(word) for word in json.loads(told))
        if why:
            self._artifacts.leave(int(index), name, why)
        else:
            fd = self._process.take_file()
            shipped = "workspace" in self._spec
            self._artifacts.keep(int(index), place if shipped else None, name, fd, self._wait_elsewhere)

    def _wait_elsewhere(self, source: int) -> bool:
        """Wait for something while the test process is not listened to; whether it is one to wait for."""
        self._wait(source)
        return not self._process.killed

    def _on_result(self, frame: bytes) -> None:
        index, failed, body = frame.split(b" ", 2)
        self._process.useful = True
        if self._artifacts and (files := self._artifacts.tell(int(index))):
            self._batch.lines.append(files)
        self._batch.lines.append(body)
        self._batch.done.append(int(index))
        self._batch.failed += int(failed)

    def _on_next(self, frame: bytes) -> None:
        self._wants = self._asked = True
        self._failed = int(frame)

    def _on_event(self, frame: bytes) -> None:
        event = json.loads(frame)
        kind = str(event["t"])
        self._batch.lines.append(frame)
        if kind == "ready":
            self._process.ready = True
            if self._process.told == "interrupt":
                self._process.interrupt()
        elif kind == "output":
            self._process.over = True
            self._kill_at = time.monotonic() + EXIT_S
        elif kind == "stop":
            self._flush()
            self._dispatcher.cancel(self._begun.run, outcome="stopped", how="leave", message=event["message"])

    def _on_ended(self, frame: bytes) -> None:
        told = json.loads(frame)
        self._ended = {**told, "i": int(told["i"])}
        if self._process.senseless and told.get("killed"):
            self._ended["reason"] = f"it was killed because {self._process.senseless}"

    def _on_failure(self, frame: bytes) -> None:
        self._ended = {"i": -1}
        self._flush()
        self._dispatcher.fatal(self._begun.job, json.loads(frame)["message"])
        self._leaving = "gone"

    def _next(self, *, fresh: bool) -> Next:
        failed, self._failed = self._failed, 0
        answer: Next = self._retry(lambda: self._dispatcher.next(self._begun.job, fresh=fresh, failed=failed))
        if isinstance(answer, Gone):
            raise _SlotLost
        return answer

    def _hand_out(self) -> None:
        """Answer the test process that asked for items, with those asked for ahead if there are any."""
        self._wants = False
        answer, self._ahead = self._ahead, None
        if not isinstance(answer, Chunk):
            answer = self._next(fresh=self._process.fresh)
        match answer:
            case Chunk(items=items):
                self._asked = self._process.fresh = False
                self._process.say({"items": items})
            case Wait():
                pass  # the word "items" will come
            case Recycle():
                self._process.told = "recycle"
                self._process.say({"leave": "recycle"})
            case Leave(reason=reason):
                self._leave(reason)

    def _flush(self) -> None:
        """Bring to Redis what was reported; a call that is repeated counts once, by its number."""
        if not self._batch.lines:
            return
        batch, self._batch = self._batch, Batch()
        self._seq += 1
        payload = b"\n".join(batch.lines)
        answer = self._retry(
            lambda: self._dispatcher.append(
                self._begun.job, payload, seq=self._seq, done=batch.done, failed=batch.failed
            )
        )
        if isinstance(answer, Gone):
            raise _SlotLost
        if isinstance(answer, Leave):
            self._yield() if answer.reason == "yield" else self._leave(answer.reason)

    def _retry(self, call: Callable[[], Any]) -> Any:
        """Call the dispatcher; while Redis does not answer, go on for as long as the lease can still be alive."""
        while True:
            try:
                return call()
            except Unreachable:
                if time.monotonic() > self._renewed_at + LEASE_S:
                    raise _SlotLost from None
                time.sleep(0.5)


class _SlotLost(Exception):
    """The slot belongs to somebody else by now."""


def describe(ended: dict[str, Any]) -> str:
    """How a process ended, in words, with the end of what it printed."""
    how = f"signal {ended['signal']}" if "signal" in ended else f"exit code {ended.get('exit_code', 'unknown')}"
    return "\n".join([ended.get("reason", how), *ended.get("output", {}).values()])
