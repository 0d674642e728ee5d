"""
What can go wrong, and with which exit status.

Knows nothing of who raises and who shows it. A class's docstring is its default message.

    SupercheckError                  70
    ├── Unreachable                  69   the service cannot be reached or refuses us
    │   ├── EmbeddedMissing          69   there is no server binary to embed
    │   ├── NoWorker                 69   no live worker has the run's labels
    │   ├── NotLetIn                 69   the token is not good for this, or no more
    │   └── StoreTrouble             69   the store cannot be used now
    ├── NotStored                    70   the store has no such object
    ├── Infrastructure               70   the service failed, after its retries
    │   └── OutOfOrder               70   a caller broke the dispatcher's protocol
    ├── Fatal                        70   the run cannot work on any worker; not retried
    │   └── SourceTrouble            70   the project's files cannot be shipped, or not be unpacked
    ├── UnknownRun                    2   there is no such run, or no more
    ├── CannotIsolate                69   runs cannot be shut in here as was asked for
    ├── BadJob                        2   a job's definition makes no sense
    ├── BadPlugin                    70   a plugin of this package cannot be used
    ├── CannotRetry                   2   a run cannot be run once more
    ├── QueueFull                    75   refused: no room, come back later
    └── RunTimeout                  124   the run's own time is up
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pytest_supercheck.model import Figures


class SupercheckError(Exception):
    """pytest-supercheck failed."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str = "") -> None:
        super().__init__(message or inspect.getdoc(type(self)) or type(self).__name__)


class Unreachable(SupercheckError):
    """The service cannot be reached. Check the URL and the network, then start again."""

    exit_code: ClassVar[int] = 69


class EmbeddedMissing(Unreachable):
    """No Valkey or Redis server was found to embed. Install valkey-server, or give --supercheck-url."""


class NoWorker(Unreachable):
    """No live worker has the labels that this run needs. Start one, or wait for one with --supercheck-wait."""


class NotLetIn(Unreachable):
    """The server does not let us in. Give another token in SUPERCHECK_TOKEN."""


class StoreTrouble(Unreachable):
    """The store of records and reports cannot be used now. Nothing of it is lost: try again."""


class NotStored(SupercheckError):
    """The store has no such object."""


class Infrastructure(SupercheckError):
    """The infrastructure failed, after its retries; this says nothing about the tests. Start the run again."""


class OutOfOrder(Infrastructure):
    """The dispatcher was called out of order. This is a fault of pytest-supercheck: please report it."""


class Fatal(SupercheckError):
    """The run cannot work on any worker, so it is not tried again."""


class SourceTrouble(Fatal):
    """The project's files cannot be shipped to workers, or not be unpacked there."""


class BadPlugin(SupercheckError):
    """A plugin of pytest-supercheck cannot be loaded, or does not fit this release."""


class UnknownRun(SupercheckError):
    """There is no such run."""

    exit_code: ClassVar[int] = 2


class CannotIsolate(SupercheckError):
    """Runs cannot be isolated on this host as was asked for."""

    exit_code: ClassVar[int] = 69


class BadJob(SupercheckError):
    """The job's definition makes no sense."""

    exit_code: ClassVar[int] = 2


class CannotRetry(SupercheckError):
    """This run cannot be run once more."""

    exit_code: ClassVar[int] = 2


class QueueFull(SupercheckError):
    """The queue is full: the run was refused and nothing of it was kept. Try later, or with --supercheck-wait."""

    exit_code: ClassVar[int] = 75

    def __init__(self, message: str = "", *, figures: Figures, retry_after_s: float) -> None:
        super().__init__(message or _full(figures, retry_after_s))
        #: The capacities and what they hold, at the moment of the refusal.
        self.figures = figures
        #: Seconds after which asking again makes sense.
        self.retry_after_s = retry_after_s


class RunTimeout(SupercheckError):
    """The run's time is up."""

    exit_code: ClassVar[int] = 124


def _full(figures: Figures, retry_after_s: float) -> str:
    counts = f"running {figures.running}/{figures.running_capacity}, queued {figures.queued}/{figures.queued_capacity}"
    project = figures.project
    if project is not None and project.queued_capacity is not None:
        counts += f"; project {project.name}: queued {project.queued}/{project.queued_capacity}"
    return f"{inspect.getdoc(QueueFull)} ({counts}; retry after {retry_after_s:.0f} s)"
