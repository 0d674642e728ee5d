"""
The words of the dispatcher to one execution, where its supervisor can wait for them beside everything else.

In the work-horse; knows neither what the words mean nor who takes them.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Final

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import SupercheckError
from pytest_supercheck.model import JobId

#: Seconds that one wait takes, at most, and until the next one after a failure.
WAIT_S: Final = 15.0
AGAIN_S: Final = 1.0


class Mailbox:
    """A thread that waits for words of the dispatcher, and a pipe that wakes the supervisor when one has come."""

    def __init__(self, dispatcher: Dispatcher, job: JobId) -> None:
        self._dispatcher = dispatcher
        self._job = job
        self.fd, self._write = os.pipe()
        threading.Thread(target=self._wait, daemon=True, name="supercheck-mailbox").start()

    def put(self, word: str) -> None:
        """Deliver a word: ``leave``, ``yield``, ``interrupt``, ``kill`` or ``items``. Safe in a signal handler."""
        os.write(self._write, word.encode() + b"\n")

    def _wait(self) -> None:
        while True:
            try:
                word = self._dispatcher.mail(self._job, timeout_s=WAIT_S)
            except SupercheckError:
                time.sleep(AGAIN_S)  # the supervisor's own calls find out for how long
                continue
            if word:
                self.put(word)
