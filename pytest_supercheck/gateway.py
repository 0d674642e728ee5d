"""
The port between a session and the pool, however far away: Redis in the network, or the server's HTTP.

Six verbs. Must not know which adapter stands behind it.
"""

from __future__ import annotations

from typing import Final, Protocol

from pytest_supercheck.model import Admission, How, Offer, QueueStatus, RunId, RunRequest, RunStatus

#: Over HTTP: the header in which a server says its release, and its words for a run that is not there, or not for us.
VERSION_HEADER: Final = "X-Supercheck-Version"
NO_RUN: Final = "There is no such run."
#: The same of a job.
NO_JOB: Final = "There is no such job."


class Gateway(Protocol):
    """What a client may ask of the pool. Every verb raises `Unreachable` when there is no answer."""

    def submit(self, request: RunRequest) -> Admission:
        """
        Ask for a run; repeating the request is harmless.

        Returns:
            Whether it has a slot or a place in the queue.

        Raises:
            QueueFull: Refused; nothing of the run was kept.
        """
        ...

    def offer(self, run: RunId, offer: Offer) -> bool:
        """
        Hand over the items of a run, once.

        Returns:
            False when the run is over already.
        """
        ...

    def events(self, run: RunId, *, after: str, wait_s: float) -> tuple[list[bytes], str]:
        """
        Read a run's results.

        Args:
            after: Id of the last entry read, `0` for the beginning.
            wait_s: Seconds to wait for a first entry, at least 0.

        Returns:
            The entries, each of one or more NDJSON lines, and the id to go on from.
        """
        ...

    def keep(self, run: RunId, *, ours: bool = True) -> RunStatus:
        """
        Say that the session still wants the run, at least every 5 seconds.

        Args:
            ours: Whether it is the session's own; another one is only looked at.

        Returns:
            Where the run stands.
        """
        ...

    def cancel(self, run: RunId, *, outcome: str, how: How, message: str = "") -> RunStatus:
        """
        Stop a run.

        Args:
            outcome: What the run ends with; `withdrawn` leaves nothing of it behind.
            how: Finish the current tests, interrupt them, or kill them. A stronger one may follow.
            message: Why, in words.

        Returns:
            Where the run stands; `gone` when there is no such run.
        """
        ...

    def queue(self) -> QueueStatus:
        """
        Look at the pool.

        Returns:
            Its figures and its runs.
        """
        ...
