"""
A session's run from its first event to its last: what comes is replayed, what is known of the pool is told.

Fifth step of the flow, in the local session's main thread.  Joins the submission and the replay; knows events and
pytest, and nothing of how runs are started.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from pytest_supercheck import events
from pytest_supercheck.errors import Infrastructure
from pytest_supercheck.events import Collected, End, Event, Stop

if TYPE_CHECKING:
    from pytest_supercheck.embedded import EmbeddedStack
    from pytest_supercheck.model import Admission, RunStatus
    from pytest_supercheck.replay import Replay
    from pytest_supercheck.submission import Submission
    from pytest_supercheck.xdist_protocol import Node, Speaker

#: Seconds that one read of events waits.
READ_S: Final = 1.0

#: Seconds that the executions of an interrupted run have to tear down.
INTERRUPT_S: Final = 10.0


class Follower:
    """
    Follows one run.

    Args:
        submission: The connection to the pool.
        stack: The embedded stack, where there is one: it has no others who wait.
        silence_s: Seconds without an answer from the pool after which a run is given up.
        ours: Whether this session has started the run, and ends it when it ends itself.
    """

    def __init__(
        self,
        config: pytest.Config,
        submission: Submission,
        speaker: Speaker,
        stack: EmbeddedStack | None,
        *,
        silence_s: float,
        ours: bool,
    ) -> None:
        self._config = config
        self._submission = submission
        self._speaker = speaker
        self._stack = stack
        self._silence_s = silence_s
        self._ours = ours
        self._unplayed: deque[bytes] = deque()
        #: Where results go.
        self.replay: Replay | None = None
        #: By execution, the host that it runs on.
        self.hosts: dict[int, str] = {}
        #: What the run consists of, if its events have said so.
        self.collected: Collected | None = None
        #: Why a test process ended its session early, None if none did.
        self.stopped: Stop | None = None
        #: How the run has ended, None while it has not.
        self.ended: End | None = None
        self._place_told = ""
        self._heeded = self._told_spawn = self._told_left = False
        self._noted: set[str] = set()

    def announce(self, run: str, admission: Admission, wish: int, origin: str) -> None:
        """
        Say where the run stands at its beginning.

        Args:
            wish: How many executions it may have.
            origin: Who has said so, if that needs to be told.
        """
        status = self._submission.status or admission
        if self._stack is not None:
            where = f"{wish} execution{'s' * (wish > 1)} on this machine"
        elif status.held:
            where = f"{min(status.held, wish)} of {wish} executions admitted"
        else:
            self._place_told = _place(status)
            where = f"queued ({self._place_told})"
            if not admission.figures.workers:
                where += "; no worker is alive: start one with 'supercheck worker'"
            if admission.figures.paused:
                where += "; the pool is paused"
        self.line(f"supercheck: run {run}, {where}{origin}")

    def line(self, text: str) -> None:
        """Write a line to the terminal, unless nobody wants to read it."""
        reporter: Any = self._config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None and self._config.get_verbosity() >= 0:
            reporter.ensure_newline()
            reporter.write_line(text)

    def await_listing(self) -> None:
        """Until it is known what the run consists of, or it has ended without."""
        while self.collected is None and self.ended is None:
            self._unplayed = self._unplayed or deque(self._submission.events(READ_S))
            if not self._unplayed:
                self._check_state()
            while self._unplayed and self.collected is None:
                self._on_event(events.decode(self._unplayed.popleft()))
            self._tell_place()

    def follow(self) -> None:
        """Replay events until the run has ended; Ctrl-C ends it, if it is ours."""
        try:
            self._read(lambda: False)
        except KeyboardInterrupt:
            if self._ours:
                give_up_at = time.monotonic() + INTERRUPT_S
                self._submission.cancel(outcome="interrupted", how="interrupt", message="Ctrl-C")
                self._read(lambda: time.monotonic() > give_up_at)
            if self.replay is not None:
                self.replay.flush()
            raise KeyboardInterrupt from None  # where this process happened to wait is of no interest

    def _read(self, enough: Callable[[], bool]) -> None:
        while self.ended is None and not (enough() and not self._unplayed):
            self._unplayed = self._unplayed or deque(self._submission.events(READ_S))
            some = bool(self._unplayed)
            while self._unplayed:  # not a local: Ctrl-C in a hook must lose none
                self._on_event(events.decode(self._unplayed.popleft()))
            self._tell_place()
            if some:
                gc.freeze()  # reports stay until the summary
            else:
                self._check_state()
            self._heed()

    def _tell_place(self) -> None:
        """While the run waits for others, say where, whenever that changes; an embedded stack has no others."""
        status = self._submission.status if self._stack is None else None
        place = _place(status) if status is not None and status.state == "waiting" and status.position else ""
        if place and place != self._place_told:
            self._place_told = place
            self.line(f"supercheck: queued ({place})")

    def _heed(self) -> None:
        """A plugin of this session wants it to end: nothing is started any more, what runs is reported."""
        assert self.replay is not None
        why = self.replay.stopped
        if why and self._ours and not self._heeded and self.ended is None:
            self._heeded = True
            self._submission.cancel(outcome="stopped", how="leave", message=why)

    def _check_state(self) -> None:
        if self._submission.error is not None:
            raise self._submission.error
        status = self._submission.status
        if status is not None and status.state == "gone":
            self._lost("the pool does not know this run any more (was Redis restarted or flushed?)")
        if self._stack is not None and (fault := self._stack.fault()):
            self._lost(fault)
        if time.monotonic() > self._submission.heard_at + self._silence_s:
            self._lost(f"the pool has not answered for {self._silence_s:.0f} s")

    def _lost(self, why: str) -> NoReturn:
        done = self.replay.count if self.replay else 0
        raise Infrastructure(
            f"{why}; {done} tests had been reported. This says nothing about them: start the run again."
        )

    def _on_event(self, event: Event) -> None:  # noqa: C901 - one for each kind
        match event:
            case events.Passed() | events.Result() | events.Missing() | events.Crash():
                assert self.replay is not None
                self.replay.play(event)
            case events.Collected():
                self.collected = self.collected or event
            case events.Note(text=text, detail=detail):
                if text not in self._noted and (not detail or self._config.get_verbosity() > 0):
                    self._noted.add(text)  # the workers of other hosts say the same
                    self.line(f"supercheck: {text}")
            case events.Begin(n=n, host=host):
                self.hosts[n] = host
            case events.Files(left=left):
                if left and not self._told_left and self._config.get_verbosity() > 0:
                    self._told_left = True
                    which = ": ".join(filter(None, left[0]))
                    self.line(f"supercheck: files that tests left behind stay where they are, {which}")
            case events.Ready(n=n, workerinfo=info, spawned=reason):
                if reason and not self._told_spawn and self._config.get_verbosity() > 0:
                    self._told_spawn = True
                    self.line(f"supercheck: each execution collects for itself: {reason}")
                node = self._speaker.node(n)
                node.workerinfo = {**info, "id": node.gateway.id}
                self._config.hook.pytest_testnodeready(node=node)
            case events.Output(n=n, workeroutput=output):
                self._on_output(self._speaker.node(n), output)
            case events.Stop():
                self.stopped = event
            case events.End():
                self.ended = event
                self._submission.ended()
                if self._stack is not None:
                    self._stack.release()
            case events.Left():
                pass

    def _on_output(self, node: Node, output: dict[str, Any]) -> None:
        """A test process has ended its session."""
        if "cov_worker_data" in output:
            from pytest_supercheck.coverage_data import bring_home

            bring_home(output, str(self._config.invocation_params.dir))
        node.workeroutput = output
        self._config.hook.pytest_testnodedown(node=node, error=None)


def _place(status: Admission | RunStatus) -> str:
    if status.waits_for:
        return f"waits for its group {status.waits_for}, position {status.position}"
    eta = f", about {status.eta_s:.0f} s" if status.eta_s is not None else ""
    return f"position {status.position}{eta}"
