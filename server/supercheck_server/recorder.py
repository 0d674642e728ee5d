"""
Finished runs → the store and the history, and what has to be done from time to time.

Last step of the flow on a pool. Every step can be repeated, so that a recorder that was killed, or a second one, loses
and doubles nothing: the claim only saves work. A run leaves the pool's list when all of it is written.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from datetime import datetime, timezone
from typing import Final

from pytest_supercheck.archive import run_of
from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import NotStored
from pytest_supercheck.model import RunDetails, RunId
from pytest_supercheck.record import FAILING, Origin, RecordError, RunSummary, read_origin
from pytest_supercheck.transcript import Recorded, Submitted, Transcript
from supercheck_server.bundles import Bundles
from supercheck_server.duties import Duties
from supercheck_server.history import History, RunFilter
from supercheck_server.ledger import Ledger, short
from supercheck_server.metrics import Metrics
from supercheck_server.mirror import Mirror
from supercheck_server.notifications import Outbox
from supercheck_server.retention import Retention
from supercheck_server.rows import Load, RunRow
from supercheck_server.shelf import Shelf
from supercheck_server.view import nodeid_of

logger = logging.getLogger(__name__)

#: Seconds between two looks for finished runs, and after which a run that the pool does not know counts as lost.
EVERY_S: Final = 0.5
LOST_S: Final = 30
#: Seconds between two attempts to bring to the store what waits.
DELIVER_S: Final = 10.0
#: Seconds between two looks for runs that others have recorded.
ADOPT_S: Final = 5.0
#: Seconds between two notes of how full the pool is.
LOAD_S: Final = 60.0
#: Seconds between two looks for keys of the pool's Redis that would stay for ever.
ORPHANS_S: Final = 3600.0
#: Seconds between two sweeps of what is too old.
SWEEP_S: Final = 60.0
#: Seconds between two looks for tokens that have changed.
MIRROR_S: Final = 5.0
#: Seconds that a server which ends goes on recording what has ended: the pool may end with it.
LAST_S: Final = 10.0


class Recorder:
    """The work of recording; `Keeper` does it again and again."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        shelf: Shelf,
        ledger: Ledger,
        history: History,
        metrics: Metrics,
        outbox: Outbox,
    ) -> None:
        self._dispatcher = dispatcher
        self._shelf = shelf
        self._ledger = ledger
        self._history = history
        self._metrics = metrics
        self._outbox = outbox
        self._noted: set[RunId] = set()
        self._adopted: set[str] = set()

    def record_next(self) -> bool:
        """
        Record the run that ended first.

        Returns:
            False when there is nothing to do.

        Raises:
            SupercheckError: A part cannot be used; the run is recorded later, by this server or another.
        """
        details = self._dispatcher.claim()
        if details is None:
            return False
        recorded = self._read(details)
        self._write(recorded)
        self._dispatcher.recorded(details.run)
        logger.info("run recorded", extra={"run_id": details.run, "outcome": details.outcome})
        return True

    def expire_orphans(self) -> None:
        """See to it that nothing stays in the pool's Redis for ever."""
        if orphans := self._dispatcher.expire_orphans():
            logger.warning("keys without a time to live", extra={"keys": orphans})

    def note_load(self) -> None:
        """Note how full the pool is, for the charts."""
        queue, now_s = self._dispatcher.queue(), time.time()
        waiting = [now_s - run.submitted_ms / 1000 for run in queue.runs if run.state == "waiting"]
        figures = queue.figures
        self._ledger.note_load(
            Load(
                minute=int(now_s // 60),
                running=figures.running,
                queued=figures.queued,
                wait_s=max(0, round(max(waiting, default=0))),
            )
        )

    def note_live(self) -> None:
        """Note the runs that live and where they come from, so that none is forgotten if the pool should lose it."""
        live = {run.run for run in self._dispatcher.queue().runs}
        details = [self._dispatcher.details(run) for run in sorted(live - self._noted)]
        self._ledger.note_live([one for one in details if one is not None])
        gone, self._noted = self._noted - live, live
        for run in gone:
            self._forget_withdrawn(run)

    def close_lost(self) -> int:
        """
        Close runs that were seen alive and that the pool does not know any more: it has lost its data.

        Those that were withdrawn are forgotten here, too.

        Returns:
            How many were lost.
        """
        closed = 0
        before_ms = (time.time() - LOST_S) * 1000
        for row in self._history.live():
            if row.submitted_ms > before_ms or self._dispatcher.details(RunId(row.id)) is not None:
                continue
            if self._forget_withdrawn(RunId(row.id)):
                continue
            self._write(_lost(row))
            logger.warning("run closed as lost", extra={"run_id": row.id})
            closed += 1
        return closed

    def _forget_withdrawn(self, run: RunId) -> bool:
        """Nothing is to be kept of a run that was withdrawn; returns whether this one was."""
        is_withdrawn = self._dispatcher.is_withdrawn(run)
        if is_withdrawn:
            self._ledger.forget(run)
        return is_withdrawn

    def deliver(self) -> int:
        """
        Bring to the store what waits for it.

        Raises:
            StoreTrouble: It is still not taken.
        """
        return self._shelf.deliver(self._ledger.mark_delivered)

    def adopt(self) -> int:
        """
        Bring into the history what others have put into the store: sessions without a pool record their own runs.

        Returns:
            How many runs were new.

        Raises:
            StoreTrouble: The store cannot be used.
        """
        new = 0
        for folder in reversed(self._shelf.archive.folders()):
            if run_of(folder) in self._adopted:
                continue
            try:
                known = self._history.run(run_of(folder))
                if known is None or not known.folder:
                    new += self._ledger.write(self._shelf.archive.load(folder), folder, delivered=True)
            except NotStored:
                continue  # it is still being written
            except RecordError as exc:
                logger.warning("run cannot be read", extra={"folder": folder, "reason": str(exc)})
            self._adopted.add(run_of(folder))
        return new

    def _read(self, details: RunDetails) -> Recorded:
        submitted = Submitted(
            id=details.run,
            project=details.project,
            origin=read_origin(details.spec),
            submitted_at=_time(details.submitted_ms),
        )
        transcript = Transcript(submitted, [nodeid_of(name) for name in self._dispatcher.nodeids(details.run)])
        for batch in self._dispatcher.all_events(details.run):
            transcript.feed(batch)
        ended_at = _time(details.ended_ms) if details.ended_ms else None
        return transcript.finish(outcome=details.outcome or "lost", message=details.message, ended_at=ended_at)

    def _write(self, recorded: Recorded) -> None:
        folder, delivered = self._shelf.save(recorded)
        # Who is to be told is settled with the rows: once, whoever records the run how often.
        notes = functools.partial(self._outbox.note, run=recorded.record.summary.id)
        if self._ledger.write(recorded.record, folder, delivered=delivered, also=notes):
            self._count(recorded.record.summary)
        if delivered:
            self._write_index(recorded.record.summary.project)

    def _write_index(self, project: str) -> None:
        rows = self._history.runs(RunFilter(project=short(project)), limit=200)
        self._shelf.write_index(project, [summary_of(row) for row in rows if row.folder])

    def _count(self, summary: RunSummary) -> None:
        self._metrics.runs.labels(summary.verdict).inc()
        self._metrics.failures.inc(sum(summary.counts.get(outcome, 0) for outcome in FAILING))
        self._metrics.wait_s.observe(max(0.0, summary.waited_s))
        self._metrics.duration_s.observe(max(0.0, summary.duration_s))
        self._metrics.lag_s.observe(max(0.0, time.time() - summary.ended_at.timestamp()))


class Keeper(threading.Thread):
    """A thread that records and keeps the house, and outlives the absence of everything that it needs."""

    def __init__(
        self, recorder: Recorder, retention: Retention, mirror: Mirror, bundles: Bundles, *, adopts: bool = False
    ) -> None:
        """
        Make the thread.

        Args:
            adopts: Whether to look for runs in the store that somebody else has put there: cheap in a directory.
        """
        super().__init__(name="supercheck-recorder", daemon=True)
        self._adopts = adopts
        self._recorder = recorder
        self._retention = retention
        self._mirror = mirror
        self._bundles = bundles
        self._over = threading.Event()
        # A run that cannot be recorded must not keep the others from it: its claim lapses, they are next.
        self._try = Duties("recorder").do

    def stop(self) -> None:
        """Record the runs that have ended, for `LAST_S` at most, and end; one that has been begun is finished."""
        self._over.set()
        self.join(30)

    def run(self) -> None:
        """The thread."""
        while not self._over.is_set():
            if not self._work():
                self._over.wait(EVERY_S)
        give_up_at = time.monotonic() + LAST_S
        while time.monotonic() < give_up_at and self._try("record", 0, self._recorder.record_next):
            pass

    def _work(self) -> bool:
        """Everything that is due; whether there may be more to do at once."""
        recorder = self._recorder
        if self._adopts:
            self._try("adopt", ADOPT_S, recorder.adopt)
        self._try("live", 0, recorder.note_live)
        self._try("load", LOAD_S, recorder.note_load)
        if self._try("record", 0, recorder.record_next):
            return True
        self._try("lost", LOST_S, recorder.close_lost)
        self._try("deliver", DELIVER_S, recorder.deliver)
        self._try("mirror", MIRROR_S, self._mirror.write)
        self._try("tokens", SWEEP_S, self._mirror.sweep)
        self._try("sweep", SWEEP_S, lambda: self._retention.sweep(time.time() * 1000))
        self._try("sources", SWEEP_S, lambda: self._bundles.sweep(time.time() * 1000))
        self._try("orphans", ORPHANS_S, recorder.expire_orphans)
        return False


def summary_of(row: RunRow) -> RunSummary:
    """A run's summary from its row, as far as lists need it."""
    counts = {"passed": row.passed, "failed": row.failed, "error": row.errors, "skipped": row.skipped}
    counts |= {"xfailed": row.xfailed, "xpassed": row.xpassed}
    return RunSummary(
        id=row.id,
        project=row.project,
        outcome=row.outcome,
        message=row.message,
        origin=Origin(
            user=row.user,
            host=row.host,
            trigger=row.trigger,
            repository=row.repository,
            branch=row.branch,
            commit=row.commit,
            pull_request=row.pull_request,
            url=row.url,
        ),
        submitted_at=_time(row.submitted_ms),
        started_at=_time(row.started_ms) if row.started_ms else None,
        ended_at=_time(row.ended_ms or row.submitted_ms),
        total=row.total,
        counts={outcome: count for outcome, count in counts.items() if count},
        executions=row.executions,
    )


def _lost(row: RunRow) -> Recorded:
    noted = summary_of(row)
    submitted = Submitted(id=row.id, project=row.project, origin=noted.origin, submitted_at=noted.submitted_at)
    words = "the pool has lost the run's data before it ended; what it had reported is gone with them"
    return Transcript(submitted, ()).finish(outcome="lost", message=words)


def _time(ms: float) -> datetime:
    return datetime.fromtimestamp(ms / 1000, timezone.utc)
