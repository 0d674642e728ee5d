"""
One machine's RQ worker processes: starts them, replaces those that die, tells the dispatcher that they live.

Third step of the flow, beside the host whose runners they use.  Single-threaded, because it forks.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from pytest_supercheck.host import Host
from pytest_supercheck.keeper import kill_group

logger = logging.getLogger(__name__)

#: Seconds between two signs of life of the workers.
BEAT_S: Final = 5.0


class Pool:
    """
    A host together with its RQ workers.

    Args:
        host: The runners.
        size: Number of RQ worker processes.
        work: What a worker process does: called in it with its name and the descriptor that ends with this process.
        dispatcher: Where workers are made known; `pytest_supercheck.dispatch.Dispatcher`.
        labels: What the workers have.
    """

    def __init__(
        self, host: Host, size: int, work: Callable[[str, int], None], dispatcher: Any, labels: Sequence[str] = ()
    ) -> None:
        self._host = host
        self._size = size
        self._work = work
        self._dispatcher = dispatcher
        self._labels = labels
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
        self._join(name)
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
            self._join(name)

    def _join(self, name: str) -> None:
        self._dispatcher.join(name, host=socket.gethostname(), pid=os.getpid(), labels=self._labels)

    def _try(self, call: Callable[[], object]) -> None:
        from pytest_supercheck.errors import SupercheckError

        try:
            call()
        except SupercheckError as exc:
            logger.warning("dispatcher does not answer", extra={"error": str(exc)})

    def _reap(self) -> None:
        for pid in [*self._workers, *self._host.unwatched()]:
            ended, _ = os.waitpid(pid, os.WNOHANG)
            if ended and not self._host.reap(pid):
                name = self._workers.pop(pid)
                now = time.monotonic()
                self._fork_at = now if now > self._died_at + 1 else now + 1  # at once, but not again and again
                self._died_at = now
                self._try(lambda name=name: self._dispatcher.quit(name))  # type: ignore[misc]
