"""
What a supervisor waits for before there is a test process: a thread that makes the run's workspace ready.

Meanwhile the lease is renewed and the dispatcher's words are heard, as beside a test process.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_supercheck.workspace import Ready, Tell


class _Abandoned(BaseException):
    """Nobody waits for it any more. Not an error, so that nothing on the way takes it for one."""


class Preparation:
    """
    The thread, and as much of a test process as a supervisor has to do with while it waits.

    Args:
        make: Makes the workspace ready; gets what tells a line, and what to call now and then.
    """

    ready = False

    def __init__(self, make: Callable[[Tell, Callable[[], None]], Ready]) -> None:
        self.told = ""
        self.killed = False
        #: What it has come to.
        self.result: Ready | None = None
        self.error: BaseException | None = None
        #: Lines for the user, and whether only some want to know them.
        self.notes: deque[tuple[str, bool]] = deque()
        self.fd, self._wake = os.pipe()
        self._make = make
        self._thread = threading.Thread(target=self._work, daemon=True, name="supercheck-workspace")
        self._thread.start()

    def _work(self) -> None:
        try:
            self.result = self._make(self._tell, self._pulse)
        except BaseException as exc:  # noqa: BLE001 - whoever waits raises it
            self.error = exc
        finally:
            os.close(self._wake)

    def _tell(self, text: str, detail: bool) -> None:
        self.notes.append((text, detail))
        os.write(self._wake, b".")

    def _pulse(self) -> None:
        if self.killed or self.told:
            raise _Abandoned

    def say(self, message: dict[str, Any]) -> None:
        """It hears nothing; `told` ends it."""

    def interrupt(self) -> None:
        """It ends by itself."""

    def kill(self) -> None:
        """End it at the next opportunity."""
        self.killed = True

    @property
    def abandoned(self) -> bool:
        """Whether it has ended because nobody waits for it."""
        return isinstance(self.error, _Abandoned)

    def heard(self) -> bool:
        """Take note of what has come; False when nothing more will."""
        return bool(os.read(self.fd, 4096))

    def close(self) -> None:
        """Wait for its end."""
        self.killed = True
        self._thread.join()
        with contextlib.suppress(OSError):
            os.close(self.fd)
