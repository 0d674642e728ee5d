"""
A session's run at the pool, as the session sees it: submit, offer, follow, cancel.

The session's end of the connector's two sockets; no thread, no client of the pool.  Knows no pytest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from pytest_supercheck import boot, errors
from pytest_supercheck.errors import Infrastructure, QueueFull, SupercheckError
from pytest_supercheck.keeper import Lines, send
from pytest_supercheck.masking import hide
from pytest_supercheck.model import Admission, Figures, How, Offer, RunId, RunRequest, RunStatus

#: Names in one message, and bytes in one read of events.
OFFER_BATCH: Final = 2000
READ_BYTES: Final = 1 << 20

#: Seconds that the connector has to let go of the run and end before it is killed.
CLOSE_S: Final = 5.0

#: Seconds that it has to record a run that has ended, and to bring the files of its tests.
RECORD_S: Final = 60.0
BRING_S: Final = 600.0


class Submission:
    """
    The connection.

    Args:
        start: Starts a connector on the socket given.  Returns its process id, 0 when somebody else waits for it.
        url: The pool, a Redis URL.
        token: Its password, where the URL has none.
        why: Says why the connector has ended, where it cannot do so itself; an empty string when nobody knows.
    """

    def __init__(
        self, start: Callable[[socket.socket], int], url: str, token: str | None, why: Callable[[], str]
    ) -> None:
        self.admission: Admission | None = None
        #: What the pool last said of the run.
        self.status: RunStatus | None = None
        #: What went wrong before somebody asked.
        self.error: SupercheckError | None = None
        #: When the pool was last heard of.
        self.heard_at = time.monotonic()
        self._why = why
        self._answers: dict[str, Any] = {}
        self._notes: list[str] = []
        self._rest = b""
        self._control, theirs = socket.socketpair()
        with theirs:
            self._pid = start(theirs)
        self._events, events = socket.socketpair()
        with events:
            send(self._control, {"connect": {"url": url, "token": token}}, [events.fileno()])
        self._lines = Lines(self._control)

    def capacity(self) -> int:
        """How many executions the pool runs at a time."""
        self._tell({"queue": {}})
        return int(self._wait_for("capacity"))

    def ship(
        self, *, project: str, rootdir: str, include: Sequence[str], exclude: Sequence[str], limit_bytes: int
    ) -> None:
        """
        Begin to ship the project's files; `submit` then waits until the server has them, and says so in the run's spec.

        Args:
            project: Whose files they are: the run's project.
            rootdir: pytest's root directory; the rest as `gathering.Gathering` has it.
        """
        files = {"include": list(include), "exclude": list(exclude), "limit_bytes": limit_bytes}
        self._tell({"source": {"project": project, "rootdir": rootdir, **files}})

    def submit(self, request: RunRequest, wait_s: float, *, record: int) -> None:
        """
        Ask for the run; `result` has the answer.

        Args:
            request: The run.
            wait_s: Seconds to wait for admission while the queue is full.
            record: How many runs to keep in its root directory, this one included; 0 does not record it.
        """
        self._tell({"submit": dataclasses.asdict(request), "wait_s": wait_s, "record": record})

    def result(self, tell: Callable[[str], None] | None = None) -> Admission:
        """
        Wait for the answer.

        Args:
            tell: Is told meanwhile what the user should read: of files that are shipped, or why it takes long.

        Raises:
            SupercheckError: The pool cannot be reached, or refused, or the project's files cannot be shipped.
        """
        if self.admission is None:
            row = self._wait_for("admission", tell)
            self.admission = Admission(**{**row, "figures": Figures.from_json(row["figures"])})
            self.heard_at = time.monotonic()
        return self.admission

    def attach(self, run: RunId, *, rootdir: str) -> None:
        """
        Follow a run that somebody else has started; `result` says whether there is one.

        Args:
            rootdir: Where files that its tests have left behind elsewhere are brought; empty to bring none.
        """
        self._tell({"attach": run, "rootdir": rootdir})

    def offer(self, offer: Offer) -> None:
        """Hand over the run's items, as `Gateway.offer`."""
        for start in range(0, len(offer.names), OFFER_BATCH):
            self._tell({"items": offer.names[start : start + OFFER_BATCH]})
        self._tell({"offer": dataclasses.asdict(dataclasses.replace(offer, names=()))})
        self._wait_for("offered")

    def events(self, wait_s: float) -> list[bytes]:
        """
        The next events.

        Args:
            wait_s: Seconds to wait for a first one.

        Returns:
            NDJSON lines, in order.
        """
        ready, _, _ = select.select([self._events, self._control], [], [], wait_s)
        if self._control in ready:
            self.poll()
        if self._events not in ready:
            return []
        self._rest += self._events.recv(READ_BYTES)
        complete, _, self._rest = self._rest.rpartition(b"\n")
        return complete.split(b"\n") if complete else []

    def cancel(self, *, outcome: str, how: How, message: str = "") -> None:
        """Stop the run, as `Gateway.cancel`."""
        self._tell({"cancel": {"outcome": outcome, "how": how, "message": message}})
        self._wait_for("cancelled")

    def ended(self) -> None:
        """The run has ended: nothing is to be let go of."""
        self._tell({"ended": {}})

    def recorded(self) -> dict[str, str]:
        """Wait until a run that has ended is recorded, as `Diary.write` tells of it; empty when nobody does in time."""
        return self._await("recorded", RECORD_S)

    def _await(self, name: str, within_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + within_s
        while name not in self._answers and self.error is None:
            left_s = max(0, deadline - time.monotonic())
            if not select.select([self._control], [], [], left_s)[0]:
                break
            self._receive()
        answer: dict[str, Any] = self._answers.pop(name, {})
        return answer

    def brought(self) -> dict[str, Any]:
        """Wait until the files of tests are here, as `Retrieval.finish` tells of them; empty when there are none."""
        return self._await("brought", BRING_S)

    def poll(self) -> None:
        """Take note of what the connector says unasked."""
        while self.error is None and select.select([self._control], [], [], 0)[0]:
            self._receive()

    def close(self) -> None:
        """Let go of the run; safe to repeat."""
        for connection in (self._control, self._events):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # a process that a plugin has forked may hold copies
            connection.close()
        if self._pid:
            boot.end(self._pid, CLOSE_S)
        self._pid = 0

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            send(self._control, message)
        except OSError:
            self.poll()  # its last words are there to be read

    def _wait_for(self, name: str, tell: Callable[[str], None] | None = None) -> Any:
        while True:
            while tell is not None and self._notes:
                tell(self._notes.pop(0))
            if name in self._answers:
                return self._answers.pop(name)
            if self.error is not None:
                error, self.error = self.error, None
                raise error
            self._receive()

    def _receive(self) -> None:
        """Read once, blocking."""
        messages = self._lines.receive()
        if messages is None:
            why = self._why()
            self.error = Infrastructure(f"the connection to the pool ended{': ' if why else ''}{why}")
            return
        for message, _ in messages:
            if "error" in message:
                self.error = from_json(message["error"])
            elif "status" in message:
                row = message["status"]
                self.status = RunStatus(**{**row, "figures": Figures.from_json(row["figures"])})
                self.heard_at = time.monotonic()
            elif "mask" in message:
                hide(message["mask"])
            elif "note" in message:
                self._notes.append(message["note"])
            else:
                self._answers.update(message)


def connect(url: str, token: str | None) -> Submission:
    """Start a connector for the pool at a URL."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        return Submission(
            lambda control: boot.start("pytest_supercheck.connector", control, null), url, token, lambda: ""
        )
    finally:
        os.close(null)


def from_json(row: dict[str, Any]) -> SupercheckError:
    """The error that `connector.to_json` wrote."""
    if row["kind"] == "QueueFull":
        figures = Figures.from_json(row["figures"])
        return QueueFull(row["message"], figures=figures, retry_after_s=row["retry_after_s"])
    kind: type[SupercheckError] = getattr(errors, row["kind"])
    return kind(row["message"])
