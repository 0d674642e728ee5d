"""
The thread that connects a session with its pool, submits its run and keeps it alive.

Between the local session and a gateway; knows neither pytest nor what kind of gateway it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pytest_supercheck.errors import SupercheckError

if TYPE_CHECKING:
    from pytest_supercheck.gateway import Gateway
    from pytest_supercheck.model import Admission, RunId, RunStatus

#: Seconds between two signs of life of a run, and between two looks at its place in the queue.
KEEP_S: Final = 5.0
WATCH_S: Final = 1.0


class Submission(threading.Thread):
    """
    A thread that connects, submits and then keeps the run alive, beside collection.

    Args:
        connect: Makes the gateway; may wait until there is somebody to connect to.
        wait_s: Seconds to wait for admission when the queue is full.
    """

    def __init__(self, connect: Callable[[], Gateway], wait_s: float) -> None:
        super().__init__(daemon=True, name="supercheck-submission")
        self._connect = connect
        self._wait_s = wait_s
        self._request: Any = None
        self._requested = threading.Event()
        self._connected = threading.Event()
        self._answered = threading.Event()
        self._over = threading.Event()
        self.gateway: Gateway | None = None
        self.admission: Admission | None = None
        self.error: Exception | None = None
        self.status: RunStatus | None = None
        self.heard_at = time.monotonic()

    def submit(self, request: Callable[[], Any]) -> None:
        """Give it what to submit."""
        self._request = request
        self._requested.set()

    def result(self) -> tuple[Gateway, Admission]:
        """
        Wait for the answer.

        Raises:
            SupercheckError: The pool cannot be reached, or refused.
        """
        while not self._answered.wait(0.5):
            pass  # in slices, so that Ctrl-C is heard
        if self.error is not None:
            raise self.error
        assert self.gateway is not None
        assert self.admission is not None
        return self.gateway, self.admission

    def connected(self) -> Gateway | None:
        """Wait for the connection; None when there is none to be had, of which `result` tells."""
        while not (self._connected.wait(0.5) or self._answered.is_set()):
            pass
        return self.gateway

    def stop(self) -> None:
        """Let the run's lease go."""
        self._over.set()
        self._requested.set()

    def run(self) -> None:
        """The thread."""
        try:
            self.gateway = self._connect()
            self._connected.set()
            self._requested.wait()
            if self._over.is_set():
                return
            self.admission = self._admit(self.gateway, self._request())
        except Exception as exc:  # noqa: BLE001 - whatever it is, the main thread raises it
            self.error = exc
        self._answered.set()
        if self.admission is not None and self.gateway is not None:
            self._keep(self.gateway)

    def _admit(self, gateway: Gateway, request: Any) -> Admission:
        from pytest_supercheck.errors import QueueFull

        self.run_id: RunId = request.run_id
        give_up_at = time.monotonic() + self._wait_s
        while True:
            try:
                return gateway.submit(request)
            except QueueFull as full:
                left_s = give_up_at - time.monotonic()
                if left_s <= 0 or self._over.wait(min(full.retry_after_s, left_s, 5.0)):
                    raise

    def _keep(self, gateway: Gateway) -> None:
        self.heard_at = time.monotonic()
        waiting = self.admission is not None and not self.admission.held
        while not self._over.wait(WATCH_S if waiting else KEEP_S):
            try:
                self.status = gateway.keep(self.run_id)
                waiting = self.status.state == "waiting"
                self.heard_at = time.monotonic()
            except SupercheckError:
                continue  # the main thread notices the silence
