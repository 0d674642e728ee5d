"""
Makes runs of jobs: a start becomes a run of the pool, exactly once, however often it is tried and by how many servers.

Between the starts and the dispatcher, which takes a run's id once.  Of a job's sources it reads what says how they are
to be tested, and starts no pytest.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_supercheck.dispatch import Dispatcher
from pytest_supercheck.errors import BadJob, QueueFull, SupercheckError, Unreachable
from pytest_supercheck.ini import read_settings
from pytest_supercheck.job_spec import complete, job_spec
from pytest_supercheck.jobs import Dispatch, Git, Job
from pytest_supercheck.model import RunRequest
from pytest_supercheck.schedule import Schedule, parse_schedule
from pytest_supercheck.shipping import Shipment
from supercheck_server.bundles import Bundles
from supercheck_server.errors import DatabaseTrouble, WorkflowTrouble
from supercheck_server.github import Workflows
from supercheck_server.jobs import JobRow, Jobs, UnknownJob
from supercheck_server.repositories import LIMIT_BYTES, Repositories
from supercheck_server.starts import AGAIN, UNTRIED, Occasion, StartRow, Starts, State

logger = logging.getLogger(__name__)

#: Ms for which a start that nobody waits for is tried again while the queue is full or something is away, and after
#: which one that nobody has tried is not made any more.
PATIENCE_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class _Receiver:
    """Takes a project's files in place of HTTP, see `shipping.Receiver`."""

    bundles: Bundles
    address: str = "the store"

    def bundle(self, project: str, bundle: str, wish: bytes = b"") -> tuple[str, list[str]]:
        return self.bundles.ask(project, bundle, wish)

    def pack(self, project: str, pack: bytes) -> None:
        self.bundles.keep(project, pack)


class _Lost(Exception):
    """Somebody else has taken the start on."""


class _Hold:
    """A start that one server has, until it is settled or another one takes it on."""

    def __init__(self, starts: Starts, start: StartRow, alone_ms: int) -> None:
        self._starts = starts
        #: As it was when this server last said that it has it.
        self.start = start
        #: Ms for which nobody has been at it before.
        self.alone_ms = alone_ms

    def renew(self) -> None:
        """
        Say that it is still being submitted.

        Raises:
            _Lost: Somebody else has taken it on, or settled it.
        """
        taken = self._starts.take(self.start)
        if taken is None:
            raise _Lost
        self.start = taken

    def settle(self, state: State, reason: str) -> None:
        """Note what became of it, unless it is another's now."""
        self._starts.settle(self.start, state, reason=reason)


class Starter:
    """Starts jobs."""

    def __init__(
        self, *, jobs: Jobs, starts: Starts, dispatcher: Dispatcher, bundles: Bundles,
        repositories: Repositories, workflows: Workflows,
        now_ms: Callable[[], int] = lambda: round(time.time() * 1000),
    ) -> None:  # fmt: skip
        self._jobs = jobs
        self._starts = starts
        self._dispatcher = dispatcher
        self._receiver = _Receiver(bundles)
        self._repositories = repositories
        self._workflows = workflows
        self._now_ms = now_ms
        self._is_over = False

    def now(self, job: JobRow, occasion: Occasion) -> tuple[StartRow, bool]:
        """
        Have a start of a job at this moment; with the id of a run that has a start already, that one.

        Returns:
            The start, and whether it is a new one, for `submit`: any other is being submitted.

        Raises:
            UnknownJob: There is no such job any more.
        """
        due_ms = self._now_ms()
        while (start := self._starts.claim(job.no, due_ms, occasion)) is None:
            known = self._starts.by_run(occasion.run) if occasion.run else None
            if known is not None:
                return known, False
            due_ms += 1
        return start, True

    def submit(self, start: StartRow) -> StartRow:
        """
        Make the run of a start, unless somebody else has taken it on since; harmless to repeat.

        Returns:
            The start as it is then: still `claimed` if it is to be tried again, or another one is at it.

        Raises:
            SupercheckError: It could not be submitted just now, and whoever wants it is to try again.
        """
        taken = self._starts.take(start)
        if taken is not None:
            self._finish(_Hold(self._starts, taken, taken.claimed_ms - start.claimed_ms))
        known = self._starts.by_run(start.run)
        if known is None:
            raise UnknownJob
        return known

    def _finish(self, hold: _Hold) -> None:
        """Make the run of a start that this server has, and settle it."""
        start = hold.start
        job = self._jobs.by_number(start.job_no)
        if job is None:
            raise UnknownJob
        try:
            state, reason = self._submit(job, hold)
        except _Lost:
            logger.info("start lost", extra={"job": job.name, "run_id": start.run})
        except (QueueFull, Unreachable, DatabaseTrouble) as exc:
            if start.trigger == "schedule" and self._now_ms() < start.since_ms + PATIENCE_MS:
                logger.info("start waits", extra={"job": job.name, "run_id": start.run, "reason": str(exc)})
                return
            hold.settle("refused" if isinstance(exc, QueueFull) else "failed", str(exc))
            if start.trigger != "schedule":
                raise
        except SupercheckError as exc:
            logger.warning("start failed", extra={"job": job.name, "run_id": start.run, "reason": str(exc)})
            hold.settle("failed", str(exc))
        except Exception as exc:
            logger.exception("start failed", extra={"job": job.name, "run_id": start.run})
            words = f"{type(exc).__name__}: a fault of the server, whose log says more"
            hold.settle("failed", words)
        else:
            hold.settle(state, reason)
            now = self._starts.by_run(start.run)
            if state == "started" and now is not None and now.state == "skipped":
                self.cancel(now, now.reason)

    def give_up(self) -> None:
        """Leave to others what has to be fetched: this server ends."""
        self._is_over = True

    def follow(self) -> None:
        """Look at the workflows that go on."""
        self._workflows.follow(self._workflow)

    def is_live(self, start: StartRow) -> bool:
        """Whether the run of a start, or its workflow, has not ended yet."""
        if start.asked_ms is not None:
            return start.verdict == "live"
        return self._dispatcher.look(start.run).state not in ("ended", "gone")

    def cancel(self, start: StartRow, why: str) -> None:
        """
        Have the run of a start end after its current tests, or its workflow.

        Raises:
            SupercheckError: That cannot be done just now.
        """
        if start.asked_ms is not None:
            self._workflows.cancel(start)
            return
        self._dispatcher.cancel(start.run, outcome="cancelled", how="leave", message=why)

    def _workflow(self, job_no: int) -> Dispatch | None:
        job = self._jobs.by_number(job_no)
        return job.job.dispatch if job is not None else None

    def _submit(self, row: JobRow, hold: _Hold) -> tuple[State, str]:
        """What became of it, and why."""
        job, start = row.job, hold.start
        # Whoever had it before may have submitted it, and died.
        if start.verdict or (job.dispatch is None and self._dispatcher.look(start.run).state != "gone"):
            return "started", start.reason
        if start.asked_ms is None and start.trigger == "schedule" and not row.enabled:
            return "skipped", "the job was disabled while it waited"
        schedule = _schedule(job, start)
        window_ms = max(PATIENCE_MS, schedule.catch_up_s * 1000 if schedule else 0)
        if start.asked_ms is None and hold.alone_ms > window_ms:
            return "missed", UNTRIED
        if job.dispatch is not None:
            self._make_way(schedule, start)
            self._workflows.start(row.project, job.dispatch, start)
            return "started", start.reason
        spec = self._spec(row, hold)
        count = job.executions or max(1, self._dispatcher.queue().figures.running_capacity)
        origin = {"trigger": start.trigger, "user": start.user, "job": row.name}
        request = RunRequest(
            run_id=start.run,
            project=row.project,
            priority=job.priority or ("low" if start.trigger == "schedule" else "normal"),
            want=count,
            spec=json.dumps(complete(spec, run=start.run, count=count, origin=origin)),
            timeout_s=job.timeout,
            detached=True,
            labels=job.labels,
            concurrency=job.group,
            concurrency_limit=job.group_limit,
            cancel_in_progress=job.cancel_in_progress,
        )
        hold.renew()
        self._make_way(schedule, start)
        self._dispatcher.submit(request)
        return "started", start.reason

    def _make_way(self, schedule: Schedule | None, start: StartRow) -> None:
        """
        Have end what was started before, where the schedule says so.

        Raises:
            Unreachable: It goes on; this start has to wait.
        """
        if schedule is None or schedule.overlap != "cancel":
            return
        for before in self._starts.unfinished(start.job_no):
            if before.due_ms < start.due_ms:
                # First, so that whoever is about to submit it does not; it may have done so a moment ago.
                self._starts.withdraw(before, AGAIN)
                try:
                    self.cancel(before, AGAIN)
                except WorkflowTrouble as exc:
                    logger.warning("run not cancelled", extra={"run_id": before.run, "reason": str(exc)})

    def _spec(self, row: JobRow, hold: _Hold) -> dict[str, Any]:
        source = row.job.source
        if source is None:
            if row.source is None:
                raise BadJob("Its files were not brought: sync it once more.")
            # It is kept from now on as that of any run; somebody may have emptied the store.
            if self._receiver.bundle(row.project, row.source["source"]["bundle"])[0] != "ready":
                raise BadJob("Its files are not in the store any more: sync it once more.")
            return dict(row.source)

        def pulse() -> None:
            if self._is_over:
                raise _Lost
            hold.renew()

        with self._repositories.room() as directory:
            return self._fetched(row, source, directory, pulse)

    def _fetched(self, row: JobRow, source: Git, directory: Path, pulse: Callable[[], None]) -> dict[str, Any]:
        name = re.sub(r"[^A-Za-z0-9._-]", "-", source.git.rstrip("/").rpartition("/")[2].removesuffix(".git")) or "src"
        tree = directory / "tree"
        tree.mkdir()
        commit = self._repositories.fetch(source, tree, pulse)
        settings = read_settings(tree)
        limit = min(settings.bundle_limit, LIMIT_BYTES)
        wish = {"project": row.project, "rootdir": str(tree), "limit_bytes": limit}
        shipment = Shipment(
            self._receiver, {**wish, "include": settings.include, "exclude": settings.exclude}, logger.info
        )
        while shipment.is_alive():
            shipment.join(1)
            pulse()
        # Its own name in place of a directory that is gone when anybody reads it.
        where = {"root": f"/{name}", "rootdir": f"/{name}", "cwd": f"/{name}"}
        spec = job_spec(row.job, tree, settings, {**shipment.source(), "root": where.pop("root")})
        origin = {"repository": source.git, "branch": source.ref, "commit": commit, "rootdir": where["rootdir"]}
        return {**spec, **where, "origin": {**spec["origin"], **origin}}


def _schedule(job: Job, start: StartRow) -> Schedule | None:
    """The schedule that a start is of; None for one by hand."""
    return parse_schedule(job.schedule) if start.trigger == "schedule" and job.schedule is not None else None
