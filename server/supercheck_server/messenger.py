"""
Letters → messages → services, one after the other, in a thread that keeps nobody from recording.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Final, Literal

from supercheck_server.alerts import Alerts
from supercheck_server.duties import Duties
from supercheck_server.errors import NotSent
from supercheck_server.history import History
from supercheck_server.messages import FAILURES, TEMPLATE_ERRORS, Message, Wording, make_message
from supercheck_server.metrics import Metrics
from supercheck_server.notifications import Letter, Outbox
from supercheck_server.notifier import Notifier
from supercheck_server.rows import Reason, RunRow
from supercheck_server.targets import Target

logger = logging.getLogger(__name__)

#: Seconds between two looks for messages that are due, at the alerts, and for what is to be given up.
EVERY_S: Final = 1.0
ALERTS_S: Final = 60.0
SWEEP_S: Final = 60.0
#: Seconds that a server which ends goes on sending.
LAST_S: Final = 10.0


class Messenger:
    """The work of sending; `Postman` does it again and again."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        targets: Mapping[str, Target],
        notifier: Notifier,
        history: History,
        metrics: Metrics,
        public_url: str,
    ) -> None:
        self.outbox: Final = outbox
        self._targets = targets
        self._notifier = notifier
        self._history = history
        self._metrics = metrics
        self._public_url = public_url

    def send_next(self, now_ms: float) -> bool:
        """
        Send a message that is due.

        Args:
            now_ms: The time, ms since 1970.

        Returns:
            False when there is nothing to do.

        Raises:
            DatabaseTrouble: The database cannot be used. A message that was sent is sent again when it can be.
        """
        letter = self.outbox.claim(now_ms)
        if letter is None:
            return False
        target = self._targets[letter.target]
        message = self._message(letter, target)
        if message is None:
            self._end(letter, "failed", "its run is not kept any more")
            return True
        try:
            self._notifier.send(target.url, message)
        except Exception as exc:  # noqa: BLE001 - whatever a foreign service's client raises is no trouble of ours
            # The words of other errors may quote the address.
            reason = str(exc) if isinstance(exc, NotSent) else type(exc).__name__
            later = self.outbox.put_off(letter, now_ms)
            self._tell(letter, "put_off" if later else "failed", reason)
        else:
            self._end(letter, "sent")
        return True

    def _message(self, letter: Letter, target: Target) -> Message | None:
        if not letter.run:
            return make_message(letter.title, letter.body, tone="good" if letter.reason == "resolved" else "bad")
        run = self._history.run(letter.run)
        if run is None:
            return None
        try:
            return write_message(self._history, run, target.wording, letter.reason, self._public_url)
        except TEMPLATE_ERRORS as exc:
            told = {"target": letter.target, "run_id": letter.run, "reason": str(exc)}
            logger.warning("template does not fit, the usual words are sent", extra=told)
            return write_message(self._history, run, Wording(), letter.reason, self._public_url)

    def _end(self, letter: Letter, state: Literal["sent", "failed"], reason: str = "") -> None:
        self.outbox.end(letter, state)
        self._tell(letter, state, reason)

    def _tell(self, letter: Letter, outcome: str, reason: str) -> None:
        self._metrics.notifications.labels(letter.target, outcome).inc()
        told = {"target": letter.target, "run_id": letter.run, "why": letter.reason, "try": letter.tries}
        level = logging.INFO if outcome == "sent" else logging.WARNING
        logger.log(level, "notification %s", outcome.replace("_", " "), extra={**told, "reason": reason})


class Postman(threading.Thread):
    """A thread that sends and looks at the alerts, and outlives the absence of everything that it needs."""

    def __init__(self, messenger: Messenger, alerts: Alerts) -> None:
        super().__init__(name="supercheck-messenger", daemon=True)
        self._messenger = messenger
        self._alerts = alerts
        self._over = threading.Event()
        self._try = Duties("messenger").do

    def stop(self) -> None:
        """Send what is due, for `LAST_S` at most, and end; what is left is sent by another server, or the next one."""
        self._over.set()
        self.join(30)

    def run(self) -> None:
        """The thread."""
        while not self._over.is_set():
            # Not only when nothing is to be sent: a service that is slow has always more.
            self._try("alerts", ALERTS_S, lambda: self._alerts.look(_now_ms()))
            self._try("sweep", SWEEP_S, lambda: self._messenger.outbox.sweep(_now_ms()))
            if not self._send():
                self._over.wait(EVERY_S)
        give_up_at = time.monotonic() + LAST_S
        while time.monotonic() < give_up_at and self._send():
            pass

    def _send(self) -> object:
        return self._try("send", 0, lambda: self._messenger.send_next(_now_ms()))


def write_message(history: History, run: RunRow, wording: Wording, reason: Reason, public_url: str) -> Message:
    """What is to be said of a recorded run."""
    link = f"{public_url}/runs/{run.id}" if public_url else ""
    failures = history.failures(run.no, limit=FAILURES)
    return wording.write(run, failures, job=history.job(run.id), reason=reason, link=link)


def _now_ms() -> float:
    return time.time() * 1000
