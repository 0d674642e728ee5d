"""
The process between a session and its pool, so that the session need not load a client: it has the gateway.

Second step of the flow.  Started by a session as early as possible, or by its embedded stack, it imports and connects
beside the session's own start, keeps the run alive whatever the session does, and lets go of it when the session has
gone, `kill -9` included.  Of a run that is to be recorded locally it keeps the events, and writes the record as soon as
the run is over, beside the session's own end.  Knows no pytest.

Messages from the session (JSON lines): ``connect`` (with the socket on which events are sent, as they come from the
pool), ``source`` (ship the project's files to the server), ``queue``, ``submit``, ``attach``, ``items``, ``offer``,
``cancel``, ``ended``.  To it: ``connected``, ``capacity``, ``admission``, ``offered``, ``cancelled``, ``error``, and
unasked ``status``, ``shipping`` (words for the user), ``mask`` (a secret that no log may show), ``brought`` (files of
tests) and ``recorded``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

from pytest_supercheck.diary import Diary
from pytest_supercheck.errors import (
    Infrastructure,
    NotLetIn,
    NoWorker,
    QueueFull,
    SupercheckError,
    UnknownRun,
)
from pytest_supercheck.gateways import open_gateway
from pytest_supercheck.keeper import Lines, readable, send
from pytest_supercheck.model import Admission, Offer, RunId, RunRequest
from pytest_supercheck.origin import find_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_supercheck.gateway import Gateway
    from pytest_supercheck.retrieval import Retrieval
    from pytest_supercheck.shipping import Shipment

#: Seconds between two signs of life of a run that runs, and of one that waits.
KEEP_S: Final = 5.0
WATCH_S: Final = 1.0

#: Seconds that one read of events waits, and until the next one after a failure.
READ_S: Final = 10.0
AGAIN_S: Final = 0.2

#: Longest pause between two submissions to a queue that is full, in seconds.
FULL_S: Final = 5.0


class Connector:
    """
    One session's connection with its pool.

    Args:
        session: The socket to the session.
    """

    def __init__(self, session: socket.socket) -> None:
        self._session = session
        self._lines = Lines(session)
        self._sending = threading.Lock()
        self._gateway: Gateway
        self._is_connected = False
        self._events: socket.socket
        self._run: RunId | None = None
        self._ended = False
        self._names: list[str] = []
        self._diary: Diary | None = None
        self._shipment: Shipment | None = None
        self._retrieval: Retrieval | None = None

    def serve(self) -> None:
        """Do what the session asks, until it goes."""
        try:
            while (messages := self._lines.receive()) is not None:
                for message, fds in messages:
                    self._try(message, fds)
        finally:  # also when it went before an answer reached it
            if self._run is not None and not self._ended:
                self._withdraw(self._run)
            if self._diary is not None:
                self._diary.write(outcome="cancelled", message="its session has gone")
            if self._retrieval is not None:
                self._retrieval.abandon()

    def _try(self, message: dict[str, Any], fds: list[int]) -> None:
        try:
            self._answer(message, fds)
        except SupercheckError as exc:
            self._tell({"error": to_json(exc)})
        except OSError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the session tells it
            self._tell({"error": to_json(Infrastructure(f"the connector failed:\n{traceback.format_exc()}"))})

    def _answer(self, message: dict[str, Any], fds: list[int]) -> None:
        match message:
            case {"connect": where}:
                self._events = socket.socket(fileno=fds[0])
                self._gateway = open_gateway(**where, mask=lambda secret: self._tell({"mask": secret}))
                self._is_connected = True
                self._tell({"connected": True})
            case _ if not self._is_connected:
                pass  # the session has been told why
            case {"source": wish}:
                self._shipment = _ship(self._gateway, wish, lambda words: self._tell({"note": words}))
            case {"queue": _}:
                self._tell({"capacity": self._gateway.queue().figures.running_capacity})
            case {"submit": request, "wait_s": wait_s, "record": keep}:
                spec = self._complete(json.loads(request["spec"]))
                self._submit(RunRequest(**{**request, "spec": json.dumps(spec)}), wait_s, keep)
            case {"attach": run, "rootdir": rootdir}:
                self._attach(RunId(run), rootdir)
            case {"items": names}:
                self._names += names
            case {"offer": how} if self._run is not None:
                names, self._names = self._names, []
                if self._diary is not None:
                    self._diary.names = names
                offer = Offer(**{**how, "names": names})
                self._tell({"offered": self._gateway.offer(self._run, offer)})
            case {"cancel": words} if self._run is not None:
                self._tell({"cancelled": self._gateway.cancel(self._run, **words).state})
            case {"ended": _}:
                self._ended = True

    def _complete(self, spec: dict[str, Any]) -> dict[str, Any]:
        """A run's spec with what the session has left to find out."""
        spec["origin"] = find_origin(spec, os.environ)
        if self._shipment is not None:
            from pytest_supercheck import fingerprint

            if spec["collect"] == "local":  # what its tests find there may be of other versions
                spec["fingerprint"] = fingerprint.take(spec["path"])
            spec["source"] = self._shipped(self._shipment)
            if spec["artifacts"]["of"] != "none":
                self._retrieval = _retrieve(self._gateway, spec["rootdir"], spec["uid"])
        return spec

    def _tell(self, message: dict[str, Any]) -> None:
        with self._sending:
            send(self._session, message)

    def _shipped(self, shipment: Shipment) -> dict[str, str]:
        """Wait until the server has the project's files, or the session goes."""
        while shipment.is_alive():
            shipment.join(WATCH_S)
            if readable(self._session.fileno()):
                raise Infrastructure("the session did not wait for its files to be shipped")
        return shipment.source()

    def _submit(self, request: RunRequest, wait_s: float, keep: int) -> None:
        self._run = request.run_id  # from here on there may be something to let go of
        self._diary = Diary(request, keep) if keep else None
        admission = self._admit(request, wait_s)
        self._tell({"admission": dataclasses.asdict(admission)})
        waits = not admission.held
        threading.Thread(target=self._keep, args=(request.run_id, waits), daemon=True).start()
        threading.Thread(target=self._read, args=(request.run_id,), daemon=True).start()

    def _attach(self, run: RunId, rootdir: str) -> None:
        """Follow a run; it is not ours to let go of."""
        status = self._gateway.keep(run, ours=False)
        if status.state == "gone":
            raise UnknownRun(f"The pool does not know run {run}, or no more: its report may be on the server.")
        self._ended = True
        self._run = run
        self._retrieval = _retrieve(self._gateway, rootdir, run) if rootdir else None
        admission = Admission(
            state="queued" if status.state == "waiting" else "admitted",
            held=status.held,
            position=status.position,
            eta_s=status.eta_s,
            fitting=1,
            figures=status.figures,
            waits_for=status.waits_for,
        )
        self._tell({"status": dataclasses.asdict(status)})
        self._tell({"admission": dataclasses.asdict(admission)})
        threading.Thread(target=self._keep, args=(run, status.state == "waiting", False), daemon=True).start()
        threading.Thread(target=self._read, args=(run,), daemon=True).start()

    def _admit(self, request: RunRequest, wait_s: float) -> Admission:
        """Submit until there is room and a worker fits, for `wait_s` seconds at most, or until the session goes."""
        give_up_at = time.monotonic() + wait_s
        has_told = False
        while True:
            try:
                admission = self._gateway.submit(request)
                if admission.fitting or not request.labels:
                    return admission
                labels = ", ".join(request.labels)
                raise NoWorker(f"No live worker has the labels {labels}. Start one: supercheck worker --label ...")
            except (QueueFull, NoWorker) as trouble:
                pause_s = trouble.retry_after_s if isinstance(trouble, QueueFull) else WATCH_S
                left_s = give_up_at - time.monotonic()
                if left_s > 0 and not has_told:
                    has_told = True
                    why = _obstacle(trouble, request.labels)
                    self._tell({"note": f"supercheck: {why}: asking again for {wait_s:.0f} s"})
                if left_s <= 0 or readable(self._session.fileno(), min(pause_s, left_s, FULL_S)):
                    raise

    def _keep(self, run: RunId, waits: bool, ours: bool = True) -> None:
        """A thread: the run's signs of life. The session notices when the pool does not answer for long."""
        while True:
            time.sleep(WATCH_S if waits else KEEP_S)
            try:
                status = self._gateway.keep(run, ours=ours)
            except NotLetIn as exc:
                self._locked_out(exc, ours=ours)
                return
            except SupercheckError:
                continue
            waits = status.state == "waiting"
            with self._sending:
                # A session that is busy elsewhere does not read, and its run has to live all the same.
                if select.select([], [self._session], [], 0)[1]:
                    send(self._session, {"status": dataclasses.asdict(status)})

    def _read(self, run: RunId) -> None:
        """A thread: events on their way to the session, ahead of what it has replayed."""
        after = "0"
        while True:
            try:
                batches, after = self._gateway.events(run, after=after, wait_s=READ_S)
            except NotLetIn as exc:
                self._locked_out(exc, ours=not self._ended)
                return
            except SupercheckError:
                time.sleep(AGAIN_S)
                continue
            over = self._diary is not None and self._diary.hear(batches)
            back = self._retrieval is not None and self._retrieval.hear(batches)
            try:
                self._events.sendall(b"".join(batch + b"\n" for batch in batches))
            except OSError:
                return
            if back and self._retrieval is not None:
                with contextlib.suppress(OSError):
                    self._tell({"brought": self._retrieval.finish()})
            if over:
                self._record()
                return

    def _locked_out(self, error: NotLetIn, *, ours: bool) -> None:
        """The token has been revoked, or has expired: asking again would only look like guessing."""
        end = " The run is cancelled within a minute." if ours else ""
        with contextlib.suppress(OSError):
            self._tell({"error": to_json(NotLetIn(f"{error}{end}"))})

    def _record(self) -> None:
        assert self._diary is not None
        recorded = self._diary.write(outcome="finished", message="")
        with contextlib.suppress(OSError):  # the session did not wait for it
            self._tell({"recorded": recorded})

    def _withdraw(self, run: RunId) -> None:
        """The session has gone: the run leaves nothing behind, or what it has done so far."""
        try:
            status = self._gateway.keep(run)
            if status.state not in ("ended", "gone"):
                outcome = "cancelled" if status.done else "withdrawn"
                self._gateway.cancel(run, outcome=outcome, how="kill", message="its session has gone")
        except SupercheckError:
            pass  # its lease lapses


def _obstacle(trouble: QueueFull | NoWorker, labels: Sequence[str]) -> str:
    """What is in the way, where that may pass."""
    if isinstance(trouble, NoWorker):
        return f"no live worker has the labels {', '.join(labels)}"
    figures = trouble.figures
    running = f"running {figures.running}/{figures.running_capacity}"
    return f"the queue is full ({running}, queued {figures.queued}/{figures.queued_capacity})"


def _ship(gateway: Gateway, wish: dict[str, Any], tell: Callable[[str], None]) -> Shipment:
    from pytest_supercheck.http_gateway import HttpGateway
    from pytest_supercheck.shipping import Shipment

    if not isinstance(gateway, HttpGateway):
        raise Infrastructure("files are shipped to a server: a pool's users and workers see the same ones")
    return Shipment(gateway, wish, tell)


def _retrieve(gateway: Gateway, rootdir: str, run: str) -> Retrieval:
    from pytest_supercheck.http_gateway import HttpGateway
    from pytest_supercheck.retrieval import Retrieval

    assert isinstance(gateway, HttpGateway)  # or nothing would have been shipped
    return Retrieval(rootdir, lambda key: gateway.file(RunId(run), key))


def to_json(error: SupercheckError) -> dict[str, Any]:
    """What `submission` needs to raise the same error."""
    row: dict[str, Any] = {"kind": type(error).__name__, "message": str(error)}
    if isinstance(error, QueueFull):
        row |= {"figures": dataclasses.asdict(error.figures), "retry_after_s": error.retry_after_s}
    return row


def main(fd: int) -> int:
    """Be the connector of the session at socket `fd` until it goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Connector(socket.socket(fileno=fd)).serve()
    except OSError:
        pass  # the session has gone in the middle of an answer
    os._exit(0)
