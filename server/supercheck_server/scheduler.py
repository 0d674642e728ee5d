"""
Starts jobs when they are due: every server does, and none leads.

    due jobs ── moments ── claim ── overlap ── submit
    Jobs        Schedule   Starts              Starter

A start belongs to whoever inserted its row; one that a server left behind unfinished is taken on by another.  Must not
know what a start is made of.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final, Protocol, TypeVar

from pytest_supercheck.errors import SupercheckError, Unreachable
from pytest_supercheck.schedule import Schedule, parse_schedule
from pytest_supercheck.words import plural
from supercheck_server.duties import Duties
from supercheck_server.errors import DatabaseTrouble
from supercheck_server.jobs import JobRow, Jobs, UnknownJob
from supercheck_server.starts import AGAIN, MISSED, OPEN, Occasion, StartRow, Starts

logger = logging.getLogger(__name__)

#: Seconds between two looks.
EVERY_S: Final = 1.0
#: Looks after which all plans are looked through.
REVIEW: Final = 60
#: A start that comes so much later is as good as in time.
LATE_MS: Final = 60_000
#: How far back missed starts are looked for, and how many of them are noted one by one.
BACK_MS: Final = 7 * 86_400_000
NOTED: Final = 10
#: Starts that a server makes at the same time; as many again of jobs whose files it has to fetch first.
HANDS: Final = 4

Row = TypeVar("Row", JobRow, StartRow)


class Starting(Protocol):
    """What becomes of a start. Everything may be repeated, also by another server."""

    def submit(self, start: StartRow) -> StartRow:
        """Start what is to be started, and settle the start."""
        ...

    def follow(self) -> None:
        """Look at what goes on elsewhere."""
        ...

    def give_up(self) -> None:
        """Begin nothing more that takes long."""
        ...

    def is_live(self, start: StartRow) -> bool:
        """Whether what was started has not ended yet."""
        ...


class Scheduler:
    """The work of one server; `SchedulerThread` does it again and again."""

    def __init__(
        self,
        jobs: Jobs,
        starts: Starts,
        starter: Starting,
        *,
        now_ms: Callable[[], int] = lambda: round(time.time() * 1000),
    ) -> None:
        """
        Get ready.

        Args:
            now_ms: The clock, ms since 1970; may jump.
        """
        self._jobs = jobs
        self._starts = starts
        self._starter = starter
        self._now_ms = now_ms
        self._hands = ThreadPoolExecutor(HANDS, thread_name_prefix="supercheck-start")
        # Repositories that are slow hold up no job that needs none.
        self._fetching = ThreadPoolExecutor(HANDS, thread_name_prefix="supercheck-fetch")
        self._follower = ThreadPoolExecutor(1, thread_name_prefix="supercheck-follow")
        self._following: Future[None] | None = None
        #: Numbers of the starts that have a hand here, or wait for one.
        self._begun: set[int] = set()
        # Whoever does not answer once is not asked again in the same look: all others would be late for it.
        self._is_silent = False
        self._looks = 0

    def close(self) -> None:
        """Wait for what has been begun; what is still to be fetched, or waits for a hand, is left to others."""
        self._starter.give_up()
        self._hands.shutdown(cancel_futures=True)
        self._fetching.shutdown(cancel_futures=True)
        self._follower.shutdown(cancel_futures=True)

    def tick(self) -> list[Future[None]]:
        """
        Do what is due.

        Returns:
            What has been begun and goes on beside it.

        Raises:
            DatabaseTrouble: The database cannot be used; nothing is lost.
        """
        now_ms = self._now_ms()
        self._is_silent = False
        begun = [
            *_each(self._starts.waiting(), self._let_go),
            *_each(self._jobs.due(now_ms), lambda job: self._attend(job, now_ms)),
            *_each(self._starts.abandoned(), self._take_on),
        ]
        if self._looks % REVIEW == 0:
            self._review(now_ms)
        self._looks += 1
        if self._following is None or self._following.done():
            self._following = self._follower.submit(self._follow)
        return [*begun, self._following]

    def begin(self, job: JobRow, start: StartRow) -> Future[None]:
        """Have a start made beside what else is done, as soon as there is a hand for it."""
        hands = self._hands if job.job.source is None else self._fetching
        self._begun.add(start.no)
        begun = hands.submit(self._submit, job, start)
        begun.add_done_callback(lambda _: self._begun.discard(start.no))
        return begun

    # -- what is due

    def _attend(self, job: JobRow, now_ms: int) -> list[Future[None]]:
        """Start a job that is due, if it may be, and note when it is the next time."""
        schedule = _schedule(job)
        if schedule is None:
            self._jobs.plan(job.no, None, since_ms=job.since_ms)
            return []
        due_ms = schedule.next_after(job.since_ms) if job.next_ms is None else job.next_ms
        if due_ms is not None and due_ms < now_ms - BACK_MS:
            due_ms = schedule.next_after(now_ms - BACK_MS) or due_ms
        moments, count, start = deque[int](maxlen=NOTED + 1), 0, None
        while due_ms is not None and due_ms <= now_ms:
            moments.append(due_ms)
            due_ms, count = schedule.next_after(due_ms), count + 1
        try:
            if moments and now_ms - moments[-1] <= max(LATE_MS, schedule.catch_up_s * 1000):
                start = self._claim(job, schedule, moments.pop())
                count -= 1
            self._note_missed(job, moments, count)
        except UnknownJob:
            return []
        self._jobs.plan(job.no, due_ms, since_ms=job.since_ms)
        return [self.begin(job, start)] if start else []

    def _claim(self, job: JobRow, schedule: Schedule, due_ms: int) -> StartRow | None:
        """Have the start of a moment; None when another server has it, or when it is not to be made now."""
        occasion = Occasion(trigger="schedule")
        if schedule.overlap == "cancel":
            for start in self._starts.unfinished(job.no):
                # What goes on ends when this one is submitted; what another server has started just now is left.
                if start.due_ms < due_ms:
                    self._starts.withdraw(start, AGAIN)
            return self._starts.claim(job.no, due_ms, occasion)
        before = self._unfinished(job)
        if not before:
            return self._starts.claim(job.no, due_ms, occasion)
        if schedule.overlap == "skip":
            self._starts.claim(job.no, due_ms, occasion, state="skipped", reason="the one before was still going on")
        elif any(start.state == "queued" for start in before):
            self._starts.claim(job.no, due_ms, occasion, state="skipped", reason="another one was waiting already")
        else:
            reason = "it waits for the end of the one before"
            self._starts.claim(job.no, due_ms, occasion, state="queued", reason=reason)
        return None

    def _note_missed(self, job: JobRow, moments: Sequence[int], count: int) -> None:
        """Note starts that were missed, the first of `moments` together with all those before it."""
        name, others = f"{job.project}/{job.name}", count - len(moments)
        for place, due_ms in enumerate(moments):
            reason = f"{MISSED}, nor at {plural(others, 'time')} before" if others and not place else MISSED
            if self._starts.claim(job.no, due_ms, Occasion(trigger="schedule"), state="missed", reason=reason):
                logger.warning("start missed", extra={"job": name, "due_ms": due_ms})

    def _review(self, now_ms: int) -> None:
        """Bring plans back that were made by a clock which was ahead: what it has started is not started again."""
        for job in self._jobs.known():
            schedule = _schedule(job)
            if job.enabled and schedule is not None and job.next_ms is not None:
                due_ms = schedule.next_after(now_ms)
                if due_ms is not None and due_ms < job.next_ms:
                    self._jobs.plan(job.no, due_ms, since_ms=job.since_ms)

    def _let_go(self, start: StartRow) -> list[Future[None]]:
        """Begin a start that has waited for the end of the one before."""
        job = self._jobs.by_number(start.job_no)
        if job is None or (job.enabled and any(one.state != "queued" for one in self._unfinished(job))):
            return []
        taken = self._starts.take(start)
        return [] if taken is None else [self.begin(job, replace(taken, reason=""))]

    def _take_on(self, start: StartRow) -> list[Future[None]]:
        """Begin a start that nobody has looked after for a while, unless it still waits for a hand here."""
        job = self._jobs.by_number(start.job_no)
        return [] if job is None or start.no in self._begun else [self.begin(job, start)]

    def _unfinished(self, job: JobRow) -> list[StartRow]:
        """The starts of a job whose end has not come, as far as anybody knows."""
        return [one for one in self._starts.unfinished(job.no) if one.state in OPEN or self._is_live(one)]

    def _is_live(self, start: StartRow) -> bool:
        try:
            return self._is_silent or self._starter.is_live(start)
        except Unreachable:
            # Its end would be in the row if it had been recorded: better no start than a second one beside it.
            self._is_silent = True
            return True

    # -- what takes its time

    def _submit(self, job: JobRow, start: StartRow) -> None:
        about = {"job": f"{job.project}/{job.name}", "run_id": start.run}
        try:
            state = self._starter.submit(start).state
            logger.info("job submitted", extra={**about, "state": state})
        except SupercheckError as exc:
            # One that stays claimed is taken on by whoever looks for such.
            logger.warning("job not submitted", extra={**about, "reason": str(exc)})
        except Exception:
            logger.exception("job not started", extra=about)

    def _follow(self) -> None:
        try:
            self._starter.follow()
        except SupercheckError as exc:
            logger.warning("workflows not seen", extra={"reason": str(exc)})
        except Exception:
            logger.exception("workflows cannot be followed")


class SchedulerThread(threading.Thread):
    """Lets a scheduler work until the server ends."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(name="supercheck-scheduler", daemon=True)
        self._scheduler = scheduler
        self._over = threading.Event()

    def stop(self) -> None:
        """End; what has been begun is finished."""
        self._over.set()
        self.join(30)

    def run(self) -> None:
        """The thread."""
        duties = Duties("scheduler")
        while not self._over.wait(EVERY_S):
            duties.do("tick", 0, self._scheduler.tick)
        self._scheduler.close()


def _each(rows: Iterable[Row], do: Callable[[Row], list[Future[None]]]) -> list[Future[None]]:
    """Do something for each, so that the trouble of one keeps no other from it."""
    begun: list[Future[None]] = []
    for row in rows:
        try:
            begun += do(row)
        except DatabaseTrouble:
            raise
        except Exception:
            logger.exception("scheduler failed", extra={"number": row.no})
    return begun


def _schedule(job: JobRow) -> Schedule | None:
    return None if job.job.schedule is None else parse_schedule(job.job.schedule)
