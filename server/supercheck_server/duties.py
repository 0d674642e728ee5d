"""
What a thread of the server does from time to time, so that the trouble of one duty keeps it from no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pytest_supercheck.errors import SupercheckError

logger = logging.getLogger(__name__)


class Duties:
    """Which are due, and which are in trouble; of one thread."""

    def __init__(self, who: str) -> None:
        """
        Begin with all of them due.

        Args:
            who: Of the thread, for the log.
        """
        self._who = who
        self._troubles: dict[str, str] = {}
        self._due: dict[str, float] = {}

    def do(self, what: str, every_s: float, duty: Callable[[], object]) -> object:
        """Do something that is due; returns what comes of it, None when it is not due or in trouble."""
        now = time.monotonic()
        if now < self._due.get(what, 0):
            return None
        self._due[what] = now + every_s
        try:
            done = duty()
            self._troubles.pop(what, None)
            return done
        except SupercheckError as exc:
            if self._troubles.get(what) != str(exc):
                logger.warning("%s waits", self._who, extra={"duty": what, "reason": str(exc)})
            self._troubles[what] = str(exc)
        except Exception:
            logger.exception("%s failed", self._who, extra={"duty": what})
        return None
